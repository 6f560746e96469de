"""A Trio stream as a source: a task that reads and a task that writes.

In: any ``trio.abc.Stream`` (TLS, memory, whatever a Listener accepts). Out: the same ``feed()`` and
the same outbox as a plain socket has. The rule: the two tasks live exactly as long as the link.
"""

import socket
from contextlib import suppress
from typing import Any

import trio
from trio import BrokenResourceError, ClosedResourceError

from trio_gateway.transport.addresses import local_address, remote_address
from trio_gateway.transport.link import Link, LinkSetup
from trio_gateway.transport.outbox import Sender
from trio_gateway.transport.proxy_protocol import NotConveyed, read_header
from trio_gateway.transport.signal import Signal

_TLS_HANDSHAKE = 0x16  # RFC 8446 §5.1, ContentType handshake
_DEFAULT_READ = 16 * 1024


class StreamLink(Link):
    """A link over a Trio stream; ``run()`` is its life.

    Arguments:
        stream: what was accepted.
    """

    __slots__ = (
        "_connected",
        "_eof_due",
        "_max_read",
        "_not_tls",
        "_prefaced",
        "_paused",
        "_reading",
        "_resumed",
        "_scope",
        "_sending",
        "_stream",
        "_writable",
    )

    def __init__(self, stream: trio.abc.Stream, setup: LinkSetup) -> None:
        sock, is_ssl = _socket_of(stream)
        super().__init__(
            setup,
            peer=repr(stream) if sock is None else remote_address(sock),
            local=repr(stream) if sock is None else local_address(sock),
            is_ssl=is_ssl,
        )
        self._stream = stream
        self._max_read = setup.max_read or _DEFAULT_READ
        self._not_tls = setup.not_tls
        self._prefaced = setup.proxy_protocol
        self._connected = False
        self._reading = trio.CancelScope()
        self._paused = False
        self._eof_due = False
        self._resumed = Signal()
        self._writable = Signal()
        self._scope = trio.CancelScope()
        self._sending = False

    async def run(self) -> None:
        """Read and write until the link ends.

        When cancelled, a peer that takes it is told so within ``Timeouts.linger_timeout``, then
        the link is aborted.
        """
        try:
            with self._scope:
                self._connected = await self._ready()
                if not self._connected:
                    return
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    with self._reading:
                        await self._read()
                    if not self.ended:
                        await self._leave_tls()
                        await self._read()
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await self._say_farewell()
                finally:
                    self.abort()
                    await trio.aclose_forcefully(self._stream)

    async def _say_farewell(self) -> None:
        """Cancelled: send the phase's last words, unless a frame was cut by the cancellation."""
        if self.ended or not self._connected or self._sending:
            return
        self._contain(self.receiver.leave)
        with trio.move_on_after(self.timeouts.linger_timeout):
            with suppress(BrokenResourceError, ClosedResourceError):
                while self.outbox.size:
                    await self._send_some()

    async def _ready(self) -> bool:
        """Finish the TLS handshake, or answer plain HTTP on a TLS port at once."""
        stream = self._stream
        if not isinstance(stream, trio.SSLStream):
            return True
        transport = stream.transport_stream
        if self._prefaced and not await self._read_preface(transport):
            return False
        if isinstance(transport, trio.SocketStream):
            try:
                first = await transport.socket.recv(1, socket.MSG_PEEK)
            except OSError:
                return False
            if not first:
                return False
            if first[0] != _TLS_HANDSHAKE:
                await self._refuse_plain_text(transport)
                return False
        try:
            await stream.do_handshake()
        except (BrokenResourceError, ClosedResourceError):
            return False
        return True

    async def _read_preface(self, transport: trio.abc.Stream) -> bool:
        """Read the PROXY protocol header before TLS, and not a byte more; False for none.

        Who sends none is not answered: it may be speaking TLS.
        """
        preface = bytearray()
        try:
            while isinstance(conveyed := read_header(preface), int):
                data = await transport.receive_some(conveyed)
                if not data:
                    return False
                preface += data
        except (BrokenResourceError, ClosedResourceError, NotConveyed):
            return False
        if conveyed.address is not None:
            self.conveyed(conveyed.address)
        return True

    async def _refuse_plain_text(self, transport: trio.SocketStream) -> None:
        with trio.move_on_after(self.timeouts.linger_timeout):
            try:
                await transport.send_all(self._not_tls)
                await transport.send_eof()
                while await transport.receive_some(4096):
                    pass
            except (BrokenResourceError, ClosedResourceError):
                return

    async def _read(self) -> None:
        while not self.ended:
            if self._paused:
                await self._resumed.wait()
                continue
            try:
                data = await self._stream.receive_some(self._max_read)
            except (BrokenResourceError, ClosedResourceError):
                self.abort()
                return
            if not data:
                self.feed_eof()
                if not self.ended:
                    # The peer's half is over; ours goes on until somebody ends it.
                    await trio.sleep_forever()
                return
            self.feed(bytes(data))

    async def _leave_tls(self) -> None:
        """Say close_notify and go on with the bare stream, whose bytes nobody wants any more.

        Closing with unread input sends RST, which can destroy what is on its way to the peer.
        """
        stream = self._stream
        if not isinstance(stream, trio.SSLStream):
            return
        transport = stream.transport_stream
        try:
            await stream.unwrap()
        except (BrokenResourceError, ClosedResourceError):
            pass  # the peer sent something else than its close_notify
        self._stream = transport
        if isinstance(transport, trio.abc.HalfCloseableStream):
            with suppress(BrokenResourceError, ClosedResourceError):
                await transport.send_eof()

    async def _write(self) -> None:
        while not self.ended:
            try:
                if self.outbox.size:
                    await self._send_some()
                elif self._eof_due:
                    self._eof_due = False
                    if isinstance(self._stream, trio.abc.HalfCloseableStream):
                        await self._stream.send_eof()
                else:
                    await self._writable.wait()
            except (BrokenResourceError, ClosedResourceError):
                self.abort()

    async def _send_some(self) -> None:
        data = self.outbox.take()
        self._sending = True
        await self._stream.send_all(data)
        self._sending = False
        self.outbox.took(len(data))

    @property
    def sender(self) -> Sender:
        """Takes nothing at once: the writer task sends."""
        return _NOTHING_FITS

    def finish(self, *, linger: bool = True) -> None:
        """Send what waits, then close; TLS always takes the time to say so (RFC 8446 §6.1)."""
        super().finish(linger=linger or isinstance(self._stream, trio.SSLStream))

    def expire(self) -> None:
        """The wheel's call."""
        if self._connected:
            super().expire()
        else:
            self.abort()  # nothing can be said before TLS is up

    def want_write(self) -> None:
        """Wake the writer task."""
        self._writable.set()

    def pause(self) -> None:
        """Stop reading until ``resume()``."""
        self._paused = True

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            self._resumed.set()

    def _send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            self._eof_due = True
            self._writable.set()
        elif isinstance(self._stream, trio.SSLStream):
            self._reading.cancel()
        else:
            self.abort()

    def _close(self) -> None:
        self._scope.cancel()


class _NothingFits:
    """A sender that leaves all to the writer task."""

    __slots__ = ()

    def send(self, _data: bytes | memoryview, /) -> int:
        return 0


_NOTHING_FITS = _NothingFits()


def _socket_of(stream: trio.abc.Stream) -> tuple[Any, bool]:
    """Return the socket under a stream, or None, and whether TLS lies over it."""
    is_ssl = isinstance(stream, trio.SSLStream)
    inner = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return (inner.socket if isinstance(inner, trio.SocketStream) else None), is_ssl
