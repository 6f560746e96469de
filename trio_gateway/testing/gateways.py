"""For tests: a gateway over memory, where no socket is opened and no second passes for real.

In: a handler or a router, with the settings of ``serve_websocket()``. Out: client ends of memory
connections, raw or as WebSockets. The rules: a connection fails the way TCP does (end of file,
reset, a full buffer); under a ``trio.testing.MockClock`` every timeout takes no time; leaving the
``async with`` ends whatever it began. ::

    async def test_echo(autojump_clock: trio.testing.MockClock) -> None:
        async with open_gateway(router) as server, server.open_websocket("/echo") as client:
            await client.send_message("hello")
            assert "hello" == await client.get_message()
"""

import errno
import math
import operator
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeAlias

import attrs
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from trio_gateway.gateway import Gateway
from trio_gateway.routing import Handler, Router
from trio_gateway.serving import serve_websocket

__all__ = [
    "MemoryListener",
    "MemoryReceiver",
    "MemorySender",
    "MemoryStream",
    "OpenGateway",
    "open_gateway",
]

_HOST = "memory"


class _Pipe:
    """One direction of a memory connection: bytes on their way, and how it ended."""

    def __init__(self, max_bytes: float) -> None:
        self.max_bytes = max_bytes
        self.held = bytearray()
        self.ended = False
        self.broken = False
        self.moved = trio.lowlevel.ParkingLot()

    def end(self) -> None:
        """No more will be sent; what is held can still be received."""
        self.ended = True
        self.moved.unpark_all()

    def break_off(self) -> None:
        """Nothing will be sent or received any more; what is held is lost."""
        self.broken = True
        self.held.clear()
        self.moved.unpark_all()


class _End:
    """What the two ends of a pipe share: being closed, and one task at a time."""

    def __init__(self) -> None:
        self._closed = False
        self._busy = False

    @contextmanager
    def _only_task(self, doing: str) -> Generator[None]:
        if self._busy:
            raise trio.BusyResourceError(f"another task is already {doing}")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


class MemorySender(_End, trio.abc.SendStream):
    """The sending half of a memory connection's end; made by ``MemoryListener.connect()``."""

    def __init__(self, pipe: _Pipe, back: _Pipe) -> None:
        super().__init__()
        self._pipe = pipe
        self._back = back

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; waits while the connection holds all it may.

        If this is cancelled, an unknown part has been sent, as on a socket.

        Raises:
            trio.ClosedResourceError: this half is closed.
            trio.BrokenResourceError: the peer has closed or reset the connection.
        """
        pipe, rest = self._pipe, memoryview(data)
        with self._only_task("sending"):
            await trio.lowlevel.checkpoint()
            self._check()
            while rest:
                if pipe.max_bytes > len(pipe.held):
                    taken = min(len(rest), pipe.max_bytes - len(pipe.held))
                    pipe.held += rest[: int(taken)]
                    rest = rest[int(taken) :]
                    pipe.moved.unpark_all()
                else:
                    await pipe.moved.park()
                    self._check()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the connection holds less than it may."""
        with self._only_task("sending"):
            await trio.lowlevel.checkpoint()
            self._check()
            while len(self._pipe.held) >= self._pipe.max_bytes:
                await self._pipe.moved.park()
                self._check()

    def reset(self) -> None:
        """Break the connection off, in both directions and at once, as a TCP reset does.

        The peer's calls raise ``trio.BrokenResourceError``, the waiting ones too; what has not
        been received is lost.
        """
        self._pipe.break_off()
        self._back.break_off()

    def close(self) -> None:
        """Send the end of file; idempotent."""
        if not self._closed:
            self._closed = True
            self._pipe.end()

    async def aclose(self) -> None:
        """As ``close()``, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this half of the connection is closed")
        if self._pipe.broken:
            raise trio.BrokenResourceError("the peer is gone")


class MemoryReceiver(_End, trio.abc.ReceiveStream):
    """The receiving half of a memory connection's end; made by ``MemoryListener.connect()``."""

    def __init__(self, pipe: _Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, ``b""`` at the end of file; waits while there is nothing.

        If this is cancelled, nothing has been received.

        Arguments:
            max_bytes: the most to return; None for all there is.

        Raises:
            trio.ClosedResourceError: this half is closed.
            trio.BrokenResourceError: the peer has reset the connection.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        pipe = self._pipe
        with self._only_task("receiving"):
            await trio.lowlevel.checkpoint()
            while True:
                if self._closed:
                    raise trio.ClosedResourceError("this half of the connection is closed")
                if pipe.broken:
                    raise trio.BrokenResourceError("the peer has reset the connection")
                if pipe.held or pipe.ended:
                    break
                await pipe.moved.park()
            data = bytes(pipe.held[:max_bytes])
            del pipe.held[:max_bytes]
            pipe.moved.unpark_all()
            return data

    def close(self) -> None:
        """Receive no more: the peer's next send fails; idempotent."""
        if not self._closed:
            self._closed = True
            self._pipe.break_off()

    async def aclose(self) -> None:
        """As ``close()``, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()


MemoryStream: TypeAlias = trio.StapledStream[MemorySender, MemoryReceiver]
"""One end of a memory connection: ``send_all``, ``receive_some``, ``send_eof``, ``aclose``; and
``send_stream.reset()``."""


class MemoryListener(trio.abc.Listener[MemoryStream]):
    """A listener whose connections are memory: ``connect()`` here, ``accept()`` there.

    It can be given to ``serve_websocket(listeners=[...])``, or to anything that takes a
    ``trio.abc.Listener``.

    Arguments:
        max_buffered_bytes: what each direction of a connection holds before its sender waits, as
            the kernel's socket buffers do; None for no bound, so that sending never waits.
    """

    def __init__(self, *, max_buffered_bytes: int | None = None) -> None:
        if max_buffered_bytes is not None and max_buffered_bytes < 1:
            raise ValueError("max_buffered_bytes must be at least 1")
        self._max_bytes = math.inf if max_buffered_bytes is None else max_buffered_bytes
        self._connecting, self._connected = trio.open_memory_channel[MemoryStream](math.inf)

    async def connect(self) -> MemoryStream:
        """Return the client's end of a new connection; it needs not be accepted first.

        If this is cancelled, there is no connection.

        Raises:
            ConnectionRefusedError: the listener is closed.
        """
        await trio.lowlevel.checkpoint()
        there, back = _Pipe(self._max_bytes), _Pipe(self._max_bytes)
        server = trio.StapledStream(MemorySender(back, there), MemoryReceiver(there))
        try:
            self._connecting.send_nowait(server)
        except trio.BrokenResourceError:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, "the memory listener is closed"
            ) from None
        return trio.StapledStream(MemorySender(there, back), MemoryReceiver(back))

    async def accept(self) -> MemoryStream:
        """Return the server's end of the next connection.

        Raises:
            trio.ClosedResourceError: the listener is closed.
        """
        return await self._connected.receive()

    async def aclose(self) -> None:
        """Accept no more; connections that wait to be accepted are reset. Idempotent."""
        try:
            while True:
                self._connected.receive_nowait().send_stream.reset()
        except (trio.WouldBlock, trio.ClosedResourceError):
            await self._connected.aclose()


@attrs.frozen(eq=False)
class OpenGateway:
    """A gateway that runs over memory; made by ``open_gateway()``.

    Attributes:
        gateway: the gateway, for ``statistics()`` and ``drain()``.
        listener: where it accepts.
    """

    gateway: Gateway
    listener: MemoryListener

    async def connect(self) -> MemoryStream:
        """Return a raw connection to the gateway, for bytes of any kind.

        Closing it is the caller's to do or to leave undone: the gateway ends it in the end.

        Raises:
            ConnectionRefusedError: the gateway accepts no more.
        """
        return await self.listener.connect()

    @asynccontextmanager
    async def open_websocket(
        self,
        path: str,
        *,
        subprotocols: Iterable[str] | None = None,
        extra_headers: list[tuple[bytes, bytes]] | None = None,
    ) -> AsyncGenerator[WebSocketConnection]:
        """Connect trio-websocket's client, and close it with 1000 at the end of the ``async with``.

        Arguments:
            path: the request target, with its query.
            subprotocols: offered in this order.
            extra_headers: sent with the request.

        Raises:
            ConnectionRejected: the gateway or its handler rejected the upgrade; has
                ``status_code``, ``headers`` and ``body``.
            ConnectionRefusedError: the gateway accepts no more.
        """
        async with _plain_nursery() as nursery:
            stream = await self.connect()
            try:
                client = await wrap_client_stream(
                    nursery,
                    stream,  # type: ignore[arg-type]  # it takes any; its annotation is too narrow
                    _HOST,
                    path,
                    subprotocols=subprotocols,
                    extra_headers=extra_headers,
                )
                async with client:
                    yield client
            finally:
                await trio.aclose_forcefully(stream)


@asynccontextmanager
async def open_gateway(
    handler: Handler | Router, *, max_buffered_bytes: int | None = None, **settings: Any
) -> AsyncGenerator[OpenGateway]:
    """Serve ``handler`` over memory until the end of the ``async with``.

    At the end the gateway is cancelled, whatever still goes on; for the polite end call
    ``await server.gateway.drain()`` first. An exception of the body comes out as it is, not in an
    exception group.

    Arguments:
        handler: a ``Router``, or one handler for every path.
        max_buffered_bytes: what each direction of a connection holds before its sender waits;
            None for no bound.
        settings: keyword arguments of ``serve_websocket()``: ``limits``, ``timeouts``, ``http``, …
    """
    listener = MemoryListener(max_buffered_bytes=max_buffered_bytes)
    serve = partial(serve_websocket, handler, None, 0, None, listeners=[listener], **settings)
    async with _plain_nursery() as nursery:
        gateway: Gateway = await nursery.start(serve)
        yield OpenGateway(gateway, listener)


@asynccontextmanager
async def _plain_nursery() -> AsyncGenerator[trio.Nursery]:
    """A nursery that is cancelled at its end and raises a single exception as it is."""
    single: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        single, *others = group.exceptions
        if others:
            raise
    if single is not None:
        raise single
