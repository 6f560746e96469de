"""``--store sqlite:PATH`` of a process: what it prints, what it keeps, when it isn't ready."""

import os
import sys
from pathlib import Path

import apsw
import pytest
import trio

from tests.cli.process import Running, gateway, run
from trio_gateway.cli.checklist.probe import Site
from trio_gateway.client.target import Answer, Target

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


async def test_it_is_the_default_and_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the working directory, named whole; what is in it is there the next time."""
    monkeypatch.chdir(tmp_path)
    env = {"TRIO_GATEWAY_STORE": "sqlite:trio-gateway.db"}
    positions = []
    for _ in range(2):
        async with gateway("--api-token", _TOKEN, env=env) as running:
            assert await running.out.next() == f"store sqlite:{tmp_path}/trio-gateway.db"
            answer = await post(running, "hello")
            assert answer.status == 201
            positions.append(answer.json())
            assert await running.terminate() == 0
    assert positions[0] == positions[1]
    assert sorted(os.listdir(tmp_path)) == ["trio-gateway.db", "trio-gateway.db-lock"]


async def test_a_second_gateway_is_refused(tmp_path: Path) -> None:
    """One line that names the setting and the process, and status 2; the first goes on."""
    store = f"sqlite:{tmp_path / 'store.db'}"
    async with gateway("--store", store, "--api-token", _TOKEN) as running:
        ended = await run("--store", store, "--port", "0")
        assert (2, []) == (ended.status, ended.out)
        assert len(ended.err) == 1
        assert "--store: cannot use" in ended.err[0]
        assert f"another gateway (process {running.process.pid})" in ended.err[0]
        assert (await post(running, "x")).status == 201


async def test_a_store_that_is_locked_makes_it_unready(tmp_path: Path) -> None:
    """503 for publishers over HTTP, an error frame in the chat; then all works by itself."""
    path = tmp_path / "store.db"
    holder = (
        "import apsw, sys; db = apsw.Connection(sys.argv[1]); db.execute('BEGIN IMMEDIATE');"
        "print('held', flush=True); sys.stdin.read()"
    )
    async with gateway("--store", f"sqlite:{path}", "--api-token", _TOKEN) as running:
        assert await ready(running)
        other = await trio.lowlevel.open_process(
            [sys.executable, "-c", holder, str(path)], stdin=-1, stdout=-1
        )
        async with other.stdin, other.stdout:  # type: ignore[union-attr]  # pipes both
            await other.stdout.receive_some()  # type: ignore[union-attr]  # a pipe
            answer = await post(running, "x")
            assert answer.status == 503
            assert not await ready(running)
            site = Site(Target.parse(running.url), _TOKEN, "test")
            async with site.connect("/", room="r", user="bob") as bob:
                await bob.expect("welcome")
                await bob.expect("joined")
                await bob.send(type="message", text="y", id=1)
                await bob.expect("error", id=1, code="store_unavailable")
            await other.stdin.aclose()  # type: ignore[union-attr]  # a pipe
            await other.wait()
        while not await ready(running):  # noqa: ASYNC110 - another process changes it
            await trio.sleep(0.05)
        assert (await post(running, "x")).json() == {
            "offset": 1,
            "epoch": apsw.Connection(str(path)).execute("SELECT era || '-0' FROM store").get,
        }
