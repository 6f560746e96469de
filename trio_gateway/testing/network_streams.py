"""Trio's view of a virtual network: streams and listeners.

In: virtual sockets. Out: ``send_all``, ``receive_some``, ``send_eof``, ``accept``. The rule: they
fail as Trio's own socket streams and listeners do.
"""

import errno
import operator
from collections.abc import Generator
from contextlib import contextmanager
from socket import SHUT_WR, SO_LINGER, SOL_SOCKET

import trio
from trio import BrokenResourceError, ClosedResourceError

from trio_gateway.testing.network_sockets import (
    RST,
    Descriptors,
    VirtualPoller,
    VirtualSocket,
)
from trio_gateway.testing.network_tcp import Address
from trio_gateway.transport.pollers import READ, WRITE

_READ = 65536


class VirtualStream(trio.abc.HalfCloseableStream):
    """A connection of a ``VirtualNet``, as a Trio stream.

    Arguments:
        sock: its socket; the stream closes it.

    Attributes:
        socket: the same.
    """

    def __init__(self, sock: VirtualSocket) -> None:
        self.socket = sock
        self._moved = trio.lowlevel.ParkingLot()
        self._busy: set[str] = set()
        self._shut = False
        sock.kernel.watchers.append(self._moved.unpark_all)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; waits while the buffers are full.

        If this is cancelled, an unknown part has been sent.

        Raises:
            trio.ClosedResourceError: the stream is closed, or ``send_eof()`` was called.
            trio.BrokenResourceError: the peer has reset it.
        """
        with self._only_task("sending"):
            await trio.lowlevel.checkpoint()
            self._check_open()
            if self._shut:
                raise ClosedResourceError("the end of file has been sent")
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[self.socket.send(rest) :]
                except BlockingIOError:
                    await self._wait(WRITE)
                except OSError as error:
                    raise BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a third of the send buffer is free."""
        with self._only_task("sending"):
            await trio.lowlevel.checkpoint()
            self._check_open()
            if not self.socket.events & WRITE:
                await self._wait(WRITE)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, ``b""`` at the end of file. If this is cancelled, it took nothing.

        Arguments:
            max_bytes: the most to return; None for what is sensible.

        Raises:
            trio.ClosedResourceError: the stream is closed.
            trio.BrokenResourceError: the peer has reset it.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._only_task("receiving"):
            await trio.lowlevel.checkpoint()
            while True:
                self._check_open()
                try:
                    return self.socket.recv(max_bytes or _READ)
                except BlockingIOError:
                    await self._wait(READ)
                except OSError as error:
                    raise BrokenResourceError(str(error)) from error

    async def send_eof(self) -> None:
        """Send a FIN; what comes can still be received. Idempotent."""
        with self._only_task("sending"):
            await trio.lowlevel.checkpoint()
            self._check_open()
            if not self._shut:
                self._shut = True
                self.shut_down()

    def shut_down(self) -> None:
        """Send a FIN, if it is not too late for that; never waits."""
        try:
            self.socket.shutdown(SHUT_WR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise

    def reset(self) -> None:
        """Close with an RST. Idempotent, also after ``close()``."""
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(SOL_SOCKET, SO_LINGER, RST)
            self.close()

    def close(self) -> None:
        """Close: a FIN, or an RST with bytes unread, as Linux has it. Idempotent."""
        self.socket.close()

    async def aclose(self) -> None:
        """As ``close()``, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def _wait(self, events: int) -> None:
        while self.socket.fileno() >= 0 and not self.socket.events & events:
            await self._moved.park()
        self._check_open()

    def _check_open(self) -> None:
        if self.socket.fileno() < 0:
            raise ClosedResourceError("this stream is closed")

    @contextmanager
    def _only_task(self, doing: str) -> Generator[None]:
        if doing in self._busy:
            raise trio.BusyResourceError(f"another task is already {doing}")
        self._busy.add(doing)
        try:
            yield
        finally:
            self._busy.discard(doing)


class VirtualStreamListener(trio.abc.Listener[VirtualStream]):
    """A listener of a ``VirtualNet`` whose connections a gateway reads in a task each.

    Attributes:
        socket: its listening socket.
    """

    def __init__(self, sock: VirtualSocket, descriptors: Descriptors) -> None:
        self.socket = sock
        self._descriptors = descriptors
        self._came = trio.lowlevel.ParkingLot()
        sock.kernel.watchers.append(self._came.unpark_all)

    @property
    def address(self) -> Address:
        """Where it listens, for ``VirtualNet.connect()``."""
        return self.socket.kernel.local

    async def accept(self) -> VirtualStream:
        """Return the next connection.

        Raises:
            OSError: EMFILE and its kin.
            trio.ClosedResourceError: the listener is closed.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self.socket.fileno() < 0:
                raise ClosedResourceError("this listener is closed")
            try:
                return VirtualStream(self.socket.accept()[0])
            except BlockingIOError:
                await self._came.park()

    async def aclose(self) -> None:
        """Accept no more; whoever waits to be accepted is reset. Idempotent."""
        self.socket.close()
        await trio.lowlevel.checkpoint()


class VirtualListener(VirtualStreamListener):
    """A listener of a ``VirtualNet`` that a gateway serves with its pump, as real sockets."""

    def open_poller(self) -> VirtualPoller:
        """Return what polls its sockets."""
        return VirtualPoller(self._descriptors)
