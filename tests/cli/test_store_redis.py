"""``--store redis://…`` of a process: what it prints, when it isn't ready, how it comes back."""

import sys

import pytest
import trio

from tests.cli.process import Running, gateway, run
from tests.cluster.server import redis_server
from trio_gateway.client.target import Answer, Target

pytest.importorskip("coredis", reason="the extra redis is not installed")

_TOKEN = "secret"


async def post(running: Running, text: str) -> Answer:
    target = Target.parse(running.url)
    message = {"room": "r", "user": "ann", "text": text, "key": text}
    return await target.request("POST", "/api/messages", body=message, token=_TOKEN)


async def ready(running: Running) -> bool:
    answer = await Target.parse(running.url).request("GET", "/readyz")
    if answer.status == 503:
        body = answer.json()
        assert isinstance(body, dict)
        assert body["error"] == "store_unavailable"
    return answer.status == 200


async def wait_ready(running: Running, *, wanted: bool) -> None:
    while await ready(running) is not wanted:  # noqa: ASYNC110 - of another process
        await trio.sleep(0.05)


async def test_it_starts_without_the_server_and_waits_for_it() -> None:
    """Not ready, 503 for publishers; then all works by itself, also after an outage."""
    with redis_server() as server:
        server.kill()
        store = f"{server.url}?deadline=1"
        async with gateway("--store", store, "--api-token", _TOKEN) as running:
            assert await running.out.next() == f"store {server.url}"
            assert not await ready(running)
            assert (await post(running, "x")).status == 503
            server.start()
            await wait_ready(running, wanted=True)
            assert (await post(running, "x")).status == 201
            server.kill()
            await wait_ready(running, wanted=False)
            server.start()
            await wait_ready(running, wanted=True)
            assert (await post(running, "y")).status == 201
            assert await running.terminate() == 0


async def test_two_processes_share_it() -> None:
    """Offsets go on from one to the other."""
    with redis_server() as server:
        async with gateway("--store", server.url, "--api-token", _TOKEN) as one:
            first = (await post(one, "a")).json()
            async with gateway("--store", server.url, "--api-token", _TOKEN) as two:
                second = (await post(two, "b")).json()
    assert isinstance(first, dict)
    assert {"epoch": first["epoch"], "offset": 2} == second


async def test_a_url_that_cannot_be_right_ends_it() -> None:
    """One line that names the setting, without the password, and status 2."""
    ended = await run("--port", "0", "--store", "redis://ann:s3cret@localhost/first")
    assert (2, []) == (ended.status, ended.out)
    assert ["trio-gateway: --store: the database is a number, not 'first'"] == ended.err


async def test_a_wrong_password_ends_it() -> None:
    """An operator must mend it; the server has said so."""
    with redis_server("--requirepass", "right") as server:
        wrong = f"redis://:s3cret@127.0.0.1:{server.port}"
        ended = await run("--port", "0", "--store", wrong)
    assert 2 == ended.status
    assert "--store" in ended.err[-1]
    assert "s3cret" not in "".join(ended.err)


async def test_without_the_extra_it_says_what_to_install() -> None:
    """One line, and status 2."""
    program = (
        "import sys; sys.modules['coredis'] = None;"
        "from trio_gateway.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    with trio.fail_after(30):
        ended = await trio.run_process(
            [sys.executable, "-c", program, "--port", "0", "--store", "redis://localhost"],
            capture_stderr=True,
            capture_stdout=True,
            check=False,
        )
    lines = ended.stderr.decode().splitlines()
    assert 1 == len(lines)
    assert "pip install 'trio-gateway[redis]'" in lines[0]
