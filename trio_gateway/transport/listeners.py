"""Listeners: opened once, served once, accepted from until the gateway goes.

In: any Trio listener. Out: its sockets, through the pump where it is a plain socket and the
platform has one, through a task each where it is not. The rule: a listener has one gateway.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import trio
from trio_websocket import Endpoint

from trio_gateway.errors import ListenerInUse
from trio_gateway.transport.addresses import endpoint, local_address
from trio_gateway.transport.pump import OVERLOAD

_BACK_OFF = 0.1
_LOG_INTERVAL = 1.0
_log = logging.getLogger("trio_gateway")

AnyListener = trio.abc.Listener[Any]
_served: dict[object, str] = {}


def socket_of(listener: AnyListener) -> "trio.socket.SocketType | None":
    """Return the listening socket under a listener, TLS or not; None where there is none."""
    inner = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    return inner.socket if isinstance(inner, trio.SocketListener) else None


def endpoint_of(listener: AnyListener) -> Endpoint | str:
    """Return where a listener listens, or its ``repr()``; never raises."""
    sock = socket_of(listener)
    if sock is None:
        return repr(listener)
    return endpoint(local_address(sock), is_ssl=isinstance(listener, trio.SSLListener))


def duplicate(sock: "trio.socket.SocketType") -> socket.socket:
    """Return a plain non-blocking socket over the same listening socket."""
    copy = socket.socket(fileno=os.dup(sock.fileno()))
    copy.setblocking(False)
    return copy


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
) -> None:
    """Accept from a listener until cancelled; each stream is served in a task of ``nursery``.

    Out of descriptors or memory it waits a moment and says so once a second, not once a try.
    """
    silent_until = 0.0
    while True:
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
