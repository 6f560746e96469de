"""The checklist: it passes on a gateway, and it fails on what only looks like one."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from tests.cli.process import gateway, run, run_here, taken_port
from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.cli.checklist import api, chat, notifications, start, upgrades
from trio_gateway.cli.checklist.order import CHECKS
from trio_gateway.cli.checklist.probe import Check, Site
from trio_gateway.cli.verify import make
from trio_gateway.client.target import Target
from trio_gateway.hub.memory import MemoryBroker

TOKEN = "token"
LATE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
)


async def verdicts(port: int, checks: tuple[Check, ...]) -> dict[str, tuple[str, str]]:
    """Make checks; return verdict and detail by name."""
    site = Site(Target.parse(f"http://127.0.0.1:{port}"), TOKEN, "test")
    deadline = trio.current_time() + 30
    return {check.name: await make(check, site, deadline) for check in checks}


@pytest.fixture
async def application(nursery: trio.Nursery) -> int:
    """The whole application in this process; its port."""
    whole = Application(MemoryBroker(), ApplicationSettings(api_token=TOKEN))
    served = whole.gateway(await trio.open_tcp_listeners(0, host="127.0.0.1"))
    await nursery.start(served.run)
    return served.port


# As a process.


async def test_a_fresh_gateway_passes() -> None:
    """One line a check, all ok, status 0."""
    async with gateway("--api-token", TOKEN) as running:
        ended = await run("verify", running.url, "--token", TOKEN)
        assert ["ok"] * len(CHECKS) == [line.split()[0] for line in ended.out], ended.out
        assert (0, []) == (ended.status, ended.err)
        assert [check.name for check in CHECKS] == [
            re.split(r"  +", line[5:])[0] for line in ended.out
        ]


async def test_without_a_token_the_api_is_skipped(application: int) -> None:
    """What is skipped says so and is no failure."""
    site = Site(Target.parse(f"http://127.0.0.1:{application}"), None, "test")
    found = {
        check.name: await make(check, site, trio.current_time() + 30)
        for check in (*notifications.CHECKS, *api.CHECKS)
    }
    skipped = {name for name, made in found.items() if made == ("skip", "skipped: no API token")}
    assert skipped == {
        "notifications: delivered",
        "notifications: waiting",
        "notifications: a shared topic",
        "API: publishes and reads",
    }
    assert {"ok", "skip"} == {verdict for verdict, _ in found.values()}


async def test_tls_is_verified_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a certificate that is trusted; another is told and ends it."""
    authority = trustme.CA()
    both, ca = tmp_path / "both.pem", tmp_path / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(both)
    authority.cert_pem.write_to_path(ca)
    async with gateway("--tls-cert", str(both), "--tls-key", str(both)) as running:
        doubting = await run_here(capfd, "verify", running.url)
        assert (1, []) == (doubting.status, doubting.out)
        assert "certificate is not trusted" in doubting.err[0]
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        site = Site(Target.parse(running.url), await running.token(), "test")
        deadline = trio.current_time() + 30
        for check in (*upgrades.CHECKS, *api.CHECKS):
            verdict, detail = await make(check, site, deadline)
            assert verdict == "ok", (check.name, detail)


async def test_a_unix_socket_is_verified_too(tmp_path: Path) -> None:
    """By the URL of the start line."""
    path = tmp_path / "s"
    async with gateway("--uds", str(path)) as running:
        token = await running.token()
        site = Site(Target.parse(running.url), token, "test")
        deadline = trio.current_time() + 30
        for check in (*start.CHECKS, *upgrades.CHECKS, *api.CHECKS):
            verdict, detail = await make(check, site, deadline)
            assert verdict == "ok", (check.name, detail)


async def test_nothing_there_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Nobody listens: status 1, no check is made."""
    with taken_port() as port:
        pass
    ended = await run_here(capfd, "verify", f"http://127.0.0.1:{port}")
    line = f"trio-gateway: http://127.0.0.1:{port}: Connection refused"
    assert (1, [], [line]) == (ended.status, ended.out, ended.err)


async def test_another_server_fails(
    nursery: trio.Nursery, capfd: pytest.CaptureFixture[str]
) -> None:
    """Something that hangs up on everybody: every line is a FAIL, status 1."""

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, hang_up, 0)
    port = listeners[0].socket.getsockname()[1]
    ended = await run_here(capfd, "verify", f"ws://127.0.0.1:{port}", "--token", TOKEN)
    assert 1 == ended.status
    assert ["FAIL"] * len(CHECKS) == [line.split()[0] for line in ended.out]
    nursery.cancel_scope.cancel()


# On servers that are almost right.


@asynccontextmanager
async def relay(port: int, injected: bytes) -> AsyncGenerator[int, None]:
    """Relay to a gateway and do what two servers on one port do: answer a second request.

    The answer to each further request on a socket is ``injected``, right behind the first head.
    """

    async def serve(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", port)
        answered = trio.Event()
        wanted = trio.Event()

        async def upstream() -> None:
            seen = b""
            async for data in client:
                seen += data
                if seen.count(b"GET /") > 1:
                    wanted.set()
                    await answered.wait()
                await server.send_all(data)
            await server.send_eof()

        async def downstream() -> None:
            async for data in server:
                await client.send_all(data)
            nursery.cancel_scope.cancel()

        async def inject() -> None:
            await wanted.wait()
            await client.send_all(injected)
            answered.set()

        async with client, server:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(upstream)
                    nursery.start_soon(downstream)
                    nursery.start_soon(inject)
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, serve, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("injected", [LATE, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_server_that_answers_twice_fails(application: int, injected: bytes) -> None:
    """A second 101 on a socket, or an HTTP error into a live WebSocket, is found and shown."""
    async with relay(application, injected) as port:
        found = await verdicts(port, upgrades.CHECKS)
    verdict, detail = found["no duplicate upgrade, after the 101"]
    assert verdict == "FAIL"
    assert injected[:20].decode() in detail
    assert found["no duplicate upgrade, pipelined"][0] == "FAIL"
    assert found["early frames are kept"][0] == "ok"
    assert found["a close is clean"][0] == "ok"


async def test_a_relay_that_answers_once_passes(application: int) -> None:
    """The relay itself is not what fails."""
    async with relay(application, b"") as port:
        found = await verdicts(port, upgrades.CHECKS)
    assert {"ok"} == {verdict for verdict, _ in found.values()}, found


async def test_a_gateway_whose_parts_are_missing_fails(nursery: trio.Nursery) -> None:
    """Without notifications and without an API, those checks fail and the chat's do not."""
    whole = Application(MemoryBroker())
    whole.router = type(whole.router)()
    whole.router.fallback(whole.chat.handle)
    served = whole.gateway(await trio.open_tcp_listeners(0, host="127.0.0.1"))
    await nursery.start(served.run)
    found = await verdicts(served.port, (*notifications.CHECKS, *api.CHECKS))
    assert {
        "notifications: commands": "FAIL",
        "notifications: errors, binary, ping": "FAIL",
        "notifications: delivered": "FAIL",
        "notifications: waiting": "FAIL",
        "notifications: a shared topic": "FAIL",
        "API: refuses strangers": "ok",
        "API: publishes and reads": "FAIL",
    } == {name: verdict for name, (verdict, _) in found.items()}
    assert "403: the API is off" in found["API: publishes and reads"][1]
    found = await verdicts(served.port, (chat.CHECKS[0],))
    assert found["chat: message"][0] == "ok"


async def test_a_silent_server_fails_in_time(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A check that hangs fails at its deadline, or at that of all."""

    async def hang(_site: Site) -> str:
        await trio.sleep_forever()
        return ""

    site = Site(Target.parse("http://127.0.0.1"), None, "test")
    check = Check("hangs", hang, timeout=10)
    begin = trio.current_time()
    assert await make(check, site, begin + 15) == ("FAIL", "no answer in time")
    assert trio.current_time() == begin + 10
    assert await make(check, site, begin + 15) == ("FAIL", "no answer in time")
    assert trio.current_time() == begin + 15
    assert await make(check, site, begin + 15) == ("FAIL", "not made: the time is up")


def test_names_are_of_one_run() -> None:
    """Two runs at once do not meet in a room."""
    target = Target.parse("http://127.0.0.1")
    assert Site(target, None, "a").name("x") != Site(target, None, "b").name("x")


def test_every_check_has_its_own_name() -> None:
    """A line of the output means one check."""
    assert len({check.name for check in CHECKS}) == len(CHECKS)
