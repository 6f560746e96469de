"""Under systemd: sockets that are there already, and what it is told."""

import os
import signal
import socket
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.cli.process import Lines, command, start
from tests.cli.process import gateway as start_gateway
from trio_gateway.cli.listening import from_systemd
from trio_gateway.client.target import Target
from trio_gateway.errors import ConfigurationError

# LISTEN_PID is the program's own: systemd knows it, between fork and exec; a shell can say $$.
_ACTIVATE = (
    'exec 3<&"$1" 4<&"$2"; shift 2; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES="$NAMES" exec "$@"'
)


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """What a socket unit would have opened."""
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    with tcp, unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        yield tcp, unix


async def test_socket_activation(
    sockets: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """It serves on what it is given and opens nothing else; a restart refuses no connect."""
    fds = [sock.fileno() for sock in sockets]
    port = sockets[0].getsockname()[1]
    shell = ["bash", "-c", _ACTIVATE, "bash", *map(str, fds), *command()]
    for _ in range(2):
        # Nobody serves yet, and connecting works: the kernel keeps who comes.
        waiting = await trio.open_tcp_stream("127.0.0.1", port)
        async with waiting, start(shell, {"NAMES": "web:local"}, pass_fds=fds) as running:
            line = await running.out.next()
            assert line is not None
            assert [f"http://127.0.0.1:{port}", Target.parse(line.split()[-1]).authority] == [
                line.split()[2],
                "localhost",
            ]
            await waiting.send_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await waiting.receive_some()
            for url in line.split()[2:]:
                assert 200 == (await Target.parse(url).request("GET", "/readyz")).status
            running.process.send_signal(signal.SIGUSR2)
            await running.err.until("supervising")
            assert 200 == (await Target.parse(line.split()[2]).request("GET", "/readyz")).status
            assert 0 == await running.terminate()
        assert (tmp_path / "s").exists()


_FIRST = 700  # pytest has what systemd would pass


@contextmanager
def taken(socks: Sequence[socket.socket]) -> Generator[None, None, None]:
    """Put sockets at descriptors in a row, as systemd does, for ``from_systemd`` to own."""
    for number, sock in enumerate(socks):
        os.dup2(sock.fileno(), _FIRST + number)
    yield


def test_names_say_what_is_plain(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Beside a certificate, http is plain and everything else is TLS; it is taken once."""
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:https"}
    with taken(sockets):
        bound = from_systemd(environ, tls=True, first=_FIRST)
        assert [False, True] == [one.tls for one in bound]
        assert {} == environ
        assert [] == from_systemd(environ, tls=True, first=_FIRST)
        for one in bound:
            one.sock.close()


def test_others_sockets_are_left_alone() -> None:
    """A variable that a parent was given means nothing to its child."""
    environ = {"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1"}
    assert [] == from_systemd(environ, tls=False, first=_FIRST)


def test_a_socket_that_does_not_listen() -> None:
    """It is refused in one line."""
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    with socket.socket() as sock, taken((sock,)), pytest.raises(ConfigurationError) as wrong:
        from_systemd(environ, tls=False, first=_FIRST)
    assert "LISTEN_FDS: descriptor 700 is no listening stream socket" == str(wrong.value)


class Notified:
    """A notify socket."""

    def __init__(self, path: Path) -> None:
        self.sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = path

    async def until(self, word: str) -> list[str]:
        """Return what came, up to ``word``."""
        seen: list[str] = []
        with trio.fail_after(20):
            while word not in seen:
                seen += (await self.sock.recv(4096)).decode().splitlines()
        return seen


@pytest.mark.parametrize("abstract", [False, True])
async def test_what_systemd_is_told(tmp_path: Path, abstract: bool) -> None:
    """Ready, alive, reloading and ready again, stopping."""
    if abstract and sys.platform != "linux":
        pytest.skip("only Linux has abstract names")
    address = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    notified = Notified(tmp_path)
    with notified.sock:
        await notified.sock.bind(address.replace("@", "\0"))
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        async with start_gateway(env=env) as running:
            await notified.until("READY=1")
            for _ in range(3):
                await notified.until("WATCHDOG=1")
            running.process.send_signal(signal.SIGUSR2)
            seen = await notified.until("RELOADING=1")
            assert any(line.startswith("MONOTONIC_USEC=") for line in seen)
            await notified.until("READY=1")
            await notified.until("WATCHDOG=1")
            assert 0 == await running.terminate()
            await notified.until("STOPPING=1")


async def test_nobody_needs_to_listen(tmp_path: Path) -> None:
    """A notify socket that is not there changes nothing."""
    async with start_gateway(env={"NOTIFY_SOCKET": str(tmp_path / "no")}) as running:
        assert isinstance(running.out, Lines)
        assert 0 == await running.terminate()
