"""Listeners: opened once, served once, accepted from until the gateway goes.

In: any Trio listener. Out: its sockets, through the pump where it is a plain socket and the
platform has one, through a task each where it is not. The rule: a listener has one gateway.
"""

import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import trio
from trio_websocket import Endpoint

from trio_gateway.errors import ListenerInUse
from trio_gateway.transport.addresses import endpoint, local_address
from trio_gateway.transport.pollers import Poller, open_poller
from trio_gateway.transport.pump import GIVE_WAY, OVERLOAD
from trio_gateway.transport.sockets import PolledListener, Socket

_BACK_OFF = 0.1
_LOG_INTERVAL = 1.0
_log = logging.getLogger("trio_gateway")

AnyListener = trio.abc.Listener[Any]
_served: dict[object, str] = {}


class TlsListener(trio.abc.Listener[trio.SSLStream[trio.SocketStream]]):
    """TLS whose context may change: each connection begins with the one of its moment.

    Arguments:
        transport_listener: what it lies over.
        context: called for every connection; must not raise.
    """

    def __init__(
        self, transport_listener: trio.SocketListener, context: Callable[[], ssl.SSLContext]
    ) -> None:
        self.transport_listener = transport_listener
        self._context = context

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        """Accept a connection; cancelled, none was."""
        stream = await self.transport_listener.accept()
        return trio.SSLStream(stream, self._context(), server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        """Close the listener it lies over."""
        await self.transport_listener.aclose()


def _is_tls(listener: AnyListener) -> bool:
    return isinstance(listener, trio.SSLListener | TlsListener)


def _under_tls(listener: AnyListener) -> AnyListener:
    if isinstance(listener, trio.SSLListener | TlsListener):
        return listener.transport_listener
    return listener


def socket_of(listener: AnyListener) -> "trio.socket.SocketType | None":
    """Return the listening socket under a listener, TLS or not; None where there is none."""
    inner = _under_tls(listener)
    return inner.socket if isinstance(inner, trio.SocketListener) else None


def endpoint_of(listener: AnyListener) -> Endpoint | str:
    """Return where a listener listens, or its ``repr()``; never raises."""
    inner = _under_tls(listener)
    sock: Any = inner.socket if isinstance(inner, PolledListener) else socket_of(listener)
    if sock is None:
        return repr(listener)
    return endpoint(local_address(sock), is_ssl=_is_tls(listener))


def duplicate(sock: "trio.socket.SocketType") -> socket.socket:
    """Return a plain non-blocking socket over the same listening socket."""
    copy = socket.socket(fileno=os.dup(sock.fileno()))
    copy.setblocking(False)
    return copy


def poller_for(listeners: Sequence[AnyListener]) -> Poller | None:
    """Return what polls their sockets; None where they have to be read by a task each."""
    for listener in listeners:
        if isinstance(listener, PolledListener):
            return listener.open_poller()
    return open_poller()


def pumped_socket(listener: AnyListener, listeners: Sequence[AnyListener]) -> Socket | None:
    """Return a non-blocking socket for the poller of ``poller_for(listeners)``, or None.

    One poller has sockets of one kind: beside a virtual network's, others are accepted from by a
    task each.
    """
    if isinstance(listener, PolledListener):
        return listener.socket.dup()
    virtual = any(isinstance(each, PolledListener) for each in listeners)
    if virtual or not isinstance(listener, trio.SocketListener):
        return None
    return duplicate(listener.socket)


@contextmanager
def sole_use(listeners: Sequence[AnyListener], where: str) -> Generator[None]:
    """Claim listeners for one gateway.

    Arguments:
        listeners: what is to be served.
        where: the gateway's call site, for the message to the next one who tries.

    Raises:
        ListenerInUse: one of them, or another listener on the same socket, is being served.
    """
    claimed: list[object] = []
    try:
        for listener in listeners:
            key = _identity(listener)
            if key in _served:
                raise ListenerInUse(str(endpoint_of(listener)), _served[key])
            _served[key] = where
            claimed.append(key)
        yield
    finally:
        for key in claimed:
            del _served[key]


def _identity(listener: AnyListener) -> object:
    sock = socket_of(listener)
    if sock is None:
        return listener
    # Two descriptors of one socket share its inode.
    status = os.fstat(sock.fileno())
    return status.st_dev, status.st_ino


async def accept_streams(
    listener: AnyListener,
    serve: Callable[[trio.abc.Stream], Awaitable[None]],
    nursery: trio.Nursery,
    gives_way: Callable[[], bool] = lambda: False,
) -> None:
    """Accept from a listener until cancelled; each stream is served in a task of ``nursery``.

    Out of descriptors or memory it waits a moment and says so once a second, not once a try; so it
    does, saying nothing, before each stream that is better off elsewhere.
    """
    silent_until = 0.0
    while True:
        if gives_way():
            await trio.sleep(GIVE_WAY)
        try:
            stream = await listener.accept()
        except OSError as error:
            if error.errno not in OVERLOAD:
                raise
            now = trio.current_time()
            if now >= silent_until:
                silent_until = now + _LOG_INTERVAL
                _log.error("cannot accept connections: %s; trying again", os.strerror(error.errno))
            await trio.sleep(_BACK_OFF)
            continue
        nursery.start_soon(serve, stream)
