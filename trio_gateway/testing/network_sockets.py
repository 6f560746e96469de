"""What a program has of a virtual network: sockets with descriptors, and a poller for them.

In: calls of ``socket.socket`` and of a ``transport.pollers.Poller``. Out: what Linux would answer.
The rules: a socket never blocks; descriptors are the lowest that are free, as POSIX wants; the
poller is level-triggered, and its ready list is served in turn as epoll's is.
"""

import errno
import heapq
import socket
import struct
from typing import Any

import trio

from trio_gateway.testing.network_tcp import Address, Backlog, Connection, failed
from trio_gateway.transport.pollers import ERROR, HANGUP, READ
from trio_gateway.transport.signal import Signal

_FIRST = 3  # 0, 1 and 2 are taken in every process
RST = struct.pack("ii", 1, 0)


class Descriptors:
    """The descriptors of one side of the network, as of one process.

    Arguments:
        limit: how many there may be; another one raises EMFILE.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.open: dict[int, VirtualSocket] = {}
        self._free: list[int] = []
        self._next = _FIRST

    def add(self, sock: "VirtualSocket") -> int:
        """Return the lowest number that is free; raises OSError (EMFILE)."""
        self.check()
        if self._free:
            number = heapq.heappop(self._free)
        else:
            number, self._next = self._next, self._next + 1
        self.open[number] = sock
        return number

    def check(self) -> None:
        """Raise OSError (EMFILE) if there is none left."""
        if len(self.open) >= self.limit:
            raise failed(errno.EMFILE)

    def remove(self, number: int) -> None:
        """Give one back."""
        del self.open[number]
        heapq.heappush(self._free, number)


class VirtualSocket:
    """A non-blocking TCP socket of a ``VirtualNet``; has what the pump needs of ``socket.socket``.

    Arguments:
        descriptors: where it gets its number from.
        kernel: the connection, or the backlog of a listening socket.
    """

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, descriptors: Descriptors, kernel: Connection | Backlog) -> None:
        self._descriptors = descriptors
        self.kernel = kernel
        self._number = descriptors.add(self)
        self._reset = False

    def __repr__(self) -> str:
        return f"<VirtualSocket fd={self._number} {self.kernel.local}>"

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._number

    def setblocking(self, flag: bool, /) -> None:
        """It never blocks; raises ValueError for True."""
        if flag:
            raise ValueError("a virtual socket does not block")

    def send(self, data: bytes | bytearray | memoryview, /) -> int:
        """Send what fits; raises OSError as Linux does."""
        return self._connection.send(data)

    def recv(self, max_bytes: int, /) -> bytes:
        """Return what has come, ``b""`` at the end; raises OSError as Linux does."""
        return self._connection.receive(max_bytes)

    def accept(self) -> "tuple[VirtualSocket, Address]":
        """Return the connection that waits longest, and whose it is; raises OSError."""
        backlog = self._kernel
        if not isinstance(backlog, Backlog):
            raise failed(errno.EINVAL)
        if not backlog.queue:
            raise failed(errno.EAGAIN)
        self._descriptors.check()
        connection = backlog.queue.popleft()
        return VirtualSocket(self._descriptors, connection), connection.remote

    def shutdown(self, how: int, /) -> None:
        """Send a FIN, for ``SHUT_WR``; raises OSError, and ValueError for another ``how``."""
        if how != socket.SHUT_WR:
            raise ValueError("only SHUT_WR is known here")
        self._connection.shut_down()

    def dup(self) -> "VirtualSocket":
        """Return another descriptor of the same listening socket."""
        if not isinstance(self._kernel, Backlog):
            raise failed(errno.EOPNOTSUPP)
        return VirtualSocket(self._descriptors, self._kernel)

    def close(self) -> None:
        """Give the descriptor back; with the last one the socket is closed. Idempotent."""
        if self._number < 0:
            return
        self._descriptors.remove(self._number)
        self._number = -1
        kernel = self.kernel
        if isinstance(kernel, Connection):
            kernel.close(reset=self._reset)
        elif all(other.kernel is not kernel for other in self._descriptors.open.values()):
            kernel.close()
        kernel.changed()

    def getsockname(self) -> Address:
        """Return our address; raises OSError once closed."""
        return self._kernel.local

    def getpeername(self) -> Address:
        """Return the peer's address; raises OSError once there is none."""
        connection = self._kernel
        if not isinstance(connection, Connection) or connection.over:
            raise failed(errno.ENOTCONN)
        return connection.remote

    def setsockopt(self, level: int, option: int, value: Any, /) -> None:
        """Know ``SO_LINGER`` of no seconds, which makes ``close()`` send an RST; take any other."""
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self._reset = value == RST

    def getsockopt(self, level: int, option: int, /) -> int:
        """Return ``SO_ERROR``, which forgets it; 0 for every other option."""
        kernel = self._kernel
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR):
            return kernel.take_error() if isinstance(kernel, Connection) else 0
        return 0

    @property
    def events(self) -> int:
        """What it is ready for, in epoll's terms."""
        return self.kernel.events

    @property
    def _kernel(self) -> Connection | Backlog:
        if self._number < 0:
            raise failed(errno.EBADF)
        return self.kernel

    @property
    def _connection(self) -> Connection:
        kernel = self._kernel
        if not isinstance(kernel, Connection):
            raise failed(errno.ENOTCONN)
        return kernel


class _Watch:
    """One descriptor in a poller; called when its socket changes."""

    __slots__ = ("events", "number", "poller", "sock")

    def __init__(self, poller: "VirtualPoller", number: int, sock: VirtualSocket) -> None:
        self.poller, self.number, self.sock = poller, number, sock
        self.events = 0

    @property
    def ready(self) -> int:
        """What it is ready for, of what was asked."""
        if self.sock.fileno() < 0:
            return 0
        return self.sock.events & (self.events | ERROR | HANGUP)

    def __call__(self) -> None:
        if self.ready:
            self.poller.found(self.number)

    def leave(self) -> None:
        """Be called no more."""
        self.sock.kernel.watchers.remove(self)


class _Nested:
    """A poller in a poller."""

    __slots__ = ("events", "number", "outer", "poller")

    def __init__(self, outer: "VirtualPoller", number: int, poller: "VirtualPoller") -> None:
        self.outer, self.number, self.poller = outer, number, poller
        self.events = READ

    @property
    def ready(self) -> int:
        return self.events if self.poller.any_ready() else 0

    def __call__(self) -> None:
        self.outer.found(self.number)

    def leave(self) -> None:
        self.poller.outer = None


class VirtualPoller:
    """Level-triggered epoll over virtual sockets; what the pump takes as its ``poller``.

    Arguments:
        descriptors: whose numbers it is given.
    """

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._watched: dict[int, _Watch | _Nested] = {}
        self.outer: _Nested | None = None
        self._ready: dict[int, None] = {}
        self._said = Signal()

    def register(self, fd: int, events: int) -> None:
        """Watch a descriptor; raises OSError for one that is watched or not there."""
        if fd in self._watched:
            raise failed(errno.EEXIST)
        sock = self._descriptors.open.get(fd)
        if sock is None:
            raise failed(errno.EBADF)
        watch = self._watched[fd] = _Watch(self, fd, sock)
        sock.kernel.watchers.append(watch)
        self.modify(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Watch it for others; raises OSError for one that is not watched."""
        watch = self._watched.get(fd)
        if watch is None:
            raise failed(errno.ENOENT)
        watch.events = events
        watch()

    def unregister(self, fd: int) -> None:
        """Watch it no more; raises OSError for one that is not watched."""
        if fd not in self._watched:
            raise failed(errno.ENOENT)
        self.forget(fd)

    def forget(self, fd: int) -> None:
        """Watch it no more."""
        watch = self._watched.pop(fd, None)
        if watch is not None:
            watch.leave()
            self._ready.pop(fd, None)

    def nest(self) -> "tuple[int, VirtualPoller]":
        """Open another poller, and watch it; its number here is no descriptor's."""
        inner = VirtualPoller(self._descriptors)
        number = -1 - len(self._watched)
        inner.outer = self._watched[number] = _Nested(self, number, inner)
        return number, inner

    def found(self, fd: int) -> None:
        """A descriptor has become ready (a socket's call)."""
        self._ready[fd] = None
        self._said.set()
        if self.outer is not None:
            self.outer()

    def any_ready(self) -> bool:
        """Whether ``poll()`` would return anything."""
        return any(self._watched[fd].ready for fd in self._ready)

    def poll(self, max_events: int) -> list[tuple[int, int]]:
        """Return what is ready, who was not told for longest first."""
        told: list[tuple[int, int]] = []
        for fd in tuple(self._ready):
            if len(told) == max_events:
                break
            del self._ready[fd]
            ready = self._watched[fd].ready
            if ready:
                told.append((fd, ready))
        for fd, _ in told:
            self._ready[fd] = None  # again, until a poll finds it no longer so
        return told

    async def wait(self) -> None:
        """Wait until something is ready; always a checkpoint."""
        while not self.any_ready():
            self._ready.clear()
            await self._said.wait()
            if self.any_ready():
                return
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Forget everything."""
        for fd in tuple(self._watched):
            self.forget(fd)
