"""A virtual socket does what a real one does: the same programs on loopback and on VirtualNet.

Loopback delivers before a call returns, as a ``VirtualNet`` without latency does, so that every
result can be compared: bytes, errors, and what a poller says.
"""

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.transport.fakes import on_virtual_time
from trio_gateway.testing import VirtualNet, VirtualPoller
from trio_gateway.transport.pollers import ERROR, HANGUP, READ, WRITE, Epoll

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux is the model")

READ_HANGUP = 0x2000
_RST = struct.pack("ii", 1, 0)


@attrs.frozen
class Do:
    """One call of one end.

    Attributes:
        end: 0 for the client's, 1 for the server's.
        what: the call.
        size: bytes to send or to receive at most.
    """

    end: int
    what: str
    size: int = 10


class World:
    """A client's and a server's socket, and a poller that watches both."""

    def __init__(self, client: Any, listener: Any, poller: Any, client_poller: Any) -> None:
        self.listener = listener
        self.ends: list[Any] = [client, None]
        self.pollers = [client_poller, poller]
        self.fds: list[int] = [client.fileno(), -1]
        client_poller.register(client.fileno(), READ | WRITE | READ_HANGUP)

    def results(self, program: list[Do]) -> Iterator[object]:
        """Yield what each call gives, and what the poller says behind it."""
        for do in program:
            yield self._result(do)
            yield [self._events(end) for end in (0, 1)]

    def _result(self, do: Do) -> object:
        if do.what == "accept":
            return self._accept()
        sock = self.ends[do.end]
        if sock is None:
            return "nobody"
        calls: dict[str, Callable[[], object]] = {
            "send": lambda: sock.send(b"x" * do.size),
            "recv": lambda: sock.recv(do.size),
            "shutdown": lambda: sock.shutdown(socket.SHUT_WR),
            "error": lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
            "peer": lambda: bool(sock.getpeername()),
            "close": lambda: self._close(do.end),
            "reset": lambda: self._close(do.end, reset=True),
        }
        try:
            return calls[do.what]()
        except OSError as error:
            return type(error).__name__, errno.errorcode[error.errno or 0]

    def _accept(self) -> object:
        if self.fds[1] >= 0:
            return "accepted before"
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        self.ends[1], self.fds[1] = sock, sock.fileno()
        self.pollers[1].register(sock.fileno(), READ | WRITE | READ_HANGUP)
        return "accepted"

    def _close(self, end: int, *, reset: bool = False) -> None:
        if reset:
            self.ends[end].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.pollers[end].forget(self.fds[end])
        self.ends[end].close()
        self.ends[end] = None

    def _events(self, end: int) -> set[int]:
        said: set[int] = set()
        for fd, events in self.pollers[end].poll(8):
            if fd == self.fds[end]:
                said |= {bit for bit in (READ, WRITE, ERROR, HANGUP, READ_HANGUP) if events & bit}
        return said

    def close(self) -> None:
        for end in (0, 1):
            if self.ends[end] is not None:
                self._close(end)
        self.listener.close()
        for poller in self.pollers:
            poller.close()


@contextlib.contextmanager
def real() -> Generator[World]:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    client.setblocking(False)
    world = World(client, listener, Epoll(), Epoll())
    try:
        yield world
    finally:
        world.close()


def run_real(program: list[Do]) -> list[object]:
    with real() as world:
        return list(world.results(program))


def run_virtual(program: list[Do]) -> list[object]:
    async def main() -> list[object]:
        net = VirtualNet()
        listener = net.listen()
        client = (await net.connect(listener.address)).socket
        poller = VirtualPoller(net._clients)
        world = World(client, listener.socket, listener.open_poller(), poller)
        results = list(world.results(program))
        world.close()
        assert net.descriptors == 0
        return results

    return on_virtual_time(main)


calls = st.builds(
    Do,
    st.integers(0, 1),
    st.sampled_from(["send", "recv", "shutdown", "error", "peer", "close", "reset"]),
    st.sampled_from([1, 10, 100]),
)
_CLIENT_SENDS, _SERVER_SENDS = Do(0, "send"), Do(1, "send")
_READS = [Do(0, "recv", 100), Do(1, "recv", 100)]


@given(st.lists(calls, max_size=12), st.integers(0, 3))
@example([_CLIENT_SENDS, _SERVER_SENDS, Do(0, "close"), *_READS, _SERVER_SENDS, _SERVER_SENDS], 0)
@example([Do(0, "shutdown"), Do(0, "reset"), Do(1, "recv"), _SERVER_SENDS, Do(1, "peer")], 0)
@example([_CLIENT_SENDS, Do(0, "reset"), *_READS, *_READS, Do(1, "shutdown")], 9)
@example([Do(0, "close"), _SERVER_SENDS, Do(1, "error"), Do(1, "recv"), _SERVER_SENDS], 0)
@example([Do(0, "shutdown"), Do(1, "shutdown"), Do(0, "peer"), Do(1, "peer"), *_READS], 0)
def test_both_do_the_same(program: list[Do], accept: int) -> None:
    """Every call gives the same, and a poller says the same behind it."""
    program = [*program[:accept], Do(1, "accept"), *program[accept:]]
    assert run_real(program) == run_virtual(program)
