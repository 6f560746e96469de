"""SIGUSR2: one program after another in the same process, and nobody notices."""

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from tests.cli.chatting import Chat
from tests.cli.process import Running, children, command, gateway, start
from trio_gateway.client.target import Target


async def renew(running: Running) -> None:
    """Hand over, and wait until the program that took over says so."""
    running.process.send_signal(signal.SIGUSR2)
    await running.err.until("supervising")


@pytest.mark.parametrize("clients", [60, pytest.param(500, marks=pytest.mark.long)])
async def test_nobody_is_refused_and_nothing_is_lost(tmp_path: Path, clients: int) -> None:
    """Clients that resume hear each message once, in one order, over three programs in a row."""
    arguments = ("--store", f"sqlite:{tmp_path / 'store.db'}", "--messages-per-second", "0")
    async with gateway(*arguments, "--grace", "5", patience=300) as running:
        chat = Chat(running.url, clients)
        async with chat.going_on():
            for _ in range(2):
                await chat.say_for(1)
                await renew(running)
            await chat.say_for(1)
        chat.check()
        assert chat.count_breaks() > clients
        assert await running.terminate() == 0


async def test_the_process_stays_the_same(tmp_path: Path) -> None:
    """Its id, its address and the token that it made do not change; the exit status is 0."""
    async with gateway("--store", f"sqlite:{tmp_path / 'store.db'}") as running:
        token = await running.token()
        for _ in range(2):
            await renew(running)
            answer = await Target.parse(running.url).request(
                "GET", "/api/rooms/r/members", token=token
            )
            assert 200 == answer.status
        assert await running.terminate() == 0


async def test_a_successor_that_does_not_come_up_changes_nothing(tmp_path: Path) -> None:
    """The settings are read again; wrong ones are told in a line, and this process goes on."""
    config = tmp_path / "gateway.toml"
    config.write_text("port = 0")
    async with start(command("--config", str(config))) as running:
        line = await running.out.next()
        assert line is not None
        url = line.split()[-1]
        config.write_text("prot = 0")
        running.process.send_signal(signal.SIGUSR2)
        assert "unknown key 'prot'" in await running.err.until("unknown key")
        await running.err.until("did not come up; this process goes on")
        assert 200 == (await Target.parse(url).request("GET", "/readyz")).status
        config.write_text("port = 0")
        await renew(running)
        assert 200 == (await Target.parse(url).request("GET", "/readyz")).status
        assert await running.terminate() == 0


async def test_a_unix_socket_is_handed_over(tmp_path: Path) -> None:
    """Its file stays where it is, and goes with the last of them."""
    path = tmp_path / "s"
    async with gateway("--uds", str(path)) as running:
        before = path.stat().st_ino
        await renew(running)
        assert before == path.stat().st_ino
        assert 200 == (await Target.parse(running.url).request("GET", "/readyz")).status
        assert await running.terminate() == 0
        assert not path.exists()


async def test_a_signal_in_the_middle_is_obeyed(tmp_path: Path) -> None:
    """SIGTERM right behind SIGUSR2: the process drains and ends, and leaves no other behind."""
    async with gateway() as running:
        running.process.send_signal(signal.SIGUSR2)
        await running.err.until("handing over")
        assert await running.terminate() == 0
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", running.port)


@pytest.mark.parametrize(
    "delay",
    [0.3, 0.6, 1.0]
    + [pytest.param(d, marks=pytest.mark.long) for d in (0.4, 0.5, 0.55, 0.65, 0.7, 0.8, 0.9)],
)
async def test_a_signal_at_any_time_is_obeyed(tmp_path: Path, delay: float) -> None:
    """Whatever of the hand-over is done by then."""
    async with gateway("--store", f"sqlite:{tmp_path / 'store.db'}") as running:
        running.process.send_signal(signal.SIGUSR2)
        await trio.sleep(delay)
        assert await running.terminate() == 0
        with trio.fail_after(5):
            while await is_listened(running):  # noqa: ASYNC110 - another process's event
                await trio.sleep(0.05)


async def test_a_deaf_client_holds_nobody_up(tmp_path: Path) -> None:
    """The store is passed on when all are told, not when all have answered."""
    async with gateway("--store", f"sqlite:{tmp_path / 'store.db'}") as running:
        await running.err.until("serving")
        stream = await trio.open_tcp_stream("127.0.0.1", running.port)
        async with stream:
            await stream.send_all(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + b"A" * 22 + b"==\r\n\r\n"
            )
            received = b""
            while b"joined" not in received:
                received += await stream.receive_some()
            running.process.send_signal(signal.SIGUSR2)
            await running.err.until("serving")
            assert not any("stopped" in line for line in running.err.seen)
            assert 200 == (await Target.parse(running.url).request("GET", "/readyz")).status
        await running.err.until("supervising")
        assert await running.terminate() == 0


async def is_listened(running: Running) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", running.port)).aclose()
    except OSError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_dead_worker_is_replaced() -> None:
    """After a hand-over the process keeps what serves alive."""
    async with gateway() as running:
        await renew(running)
        child = children(running.process.pid)[0]
        os.kill(child, signal.SIGKILL)
        await running.err.until("a worker has ended")
        await running.err.until("serving")
        assert 200 == (await Target.parse(running.url).request("GET", "/readyz")).status
        assert await running.terminate() == 0
