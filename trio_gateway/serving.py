"""The two calls of trio-websocket's server side: open listeners and serve, or serve one stream."""

import ssl
from collections.abc import Collection, Sequence
from functools import partial

import trio
from trio_websocket import HandshakeError

from trio_gateway.gateway import Gateway
from trio_gateway.handshake.authentication import Authenticate
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.http.asgi.application import Application, AsgiApp
from trio_gateway.http.messages import HttpHandler
from trio_gateway.hub.hub import Hub
from trio_gateway.routing import Handler, Router
from trio_gateway.settings import Compression, Drain, Heartbeat, Limits, Proxies, Timeouts
from trio_gateway.transport.listeners import AnyListener


async def serve_websocket(
    handler: Handler | Router,
    host: str | bytes | None,
    port: int,
    ssl_context: ssl.SSLContext | None,
    *,
    handler_nursery: trio.Nursery | None = None,
    message_queue_size: int | None = None,
    max_message_size: int | None = None,
    receive_buffer_size: int | None = None,
    connect_timeout: float | None = None,
    disconnect_timeout: float | None = None,
    listeners: Sequence[AnyListener] | None = None,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    heartbeat: Heartbeat | None = None,
    drain: Drain | None = None,
    compression: Compression | None = None,
    authenticate: Authenticate | None = None,
    allowed_origins: Collection[str] | None = None,
    proxies: Proxies | None = None,
    http: HttpHandler | Application | AsgiApp | None = None,
    hub: Hub | None = None,
    task_status: trio.TaskStatus[Gateway] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSocket over TCP; ``trio_websocket.serve_websocket`` with a router and no way to die.

    ``gateway = await nursery.start(serve_websocket, handler, host, port, None)`` waits until
    connections are accepted. Returns after a drain; when cancelled, every connection is closed with
    1001.

    Arguments:
        handler: a ``Router``, or an async function that takes each ``Upgrade``.
        host: the interface to bind; None for all of them.
        port: the port to bind; 0 for a free one.
        ssl_context: for TLS, or None.
        handler_nursery: where handlers run; by default in this function's own nursery.
        message_queue_size: messages waiting for a handler before reading pauses; None leaves it
            to ``Limits.max_queued_bytes``.
        max_message_size: the largest message, in bytes.
        receive_buffer_size: bytes read at once; None for a sensible number.
        connect_timeout: seconds for a client to finish its request.
        disconnect_timeout: seconds for a client to answer a Close frame.
        listeners: served instead of opening any; ``host``, ``port`` and ``ssl_context`` are then
            not used.
        limits: all other bounds.
        timeouts: all other time limits.
        heartbeat: how dead peers are found.
        drain: how the gateway goes away.
        compression: compress messages for clients that offer permessage-deflate; None declines.
        authenticate: says who an upgrade is for, before the handler, which finds the answer in
            ``upgrade.identity``; a refusal is answered and the handler never runs.
        allowed_origins: where pages may come from (see ``trio_gateway.handshake.origins``). None
            for anywhere; with ``authenticate``, for pages of the same host, unless that reads
            nothing that a browser sends unasked.
        proxies: who may speak for others, and how; None for nobody.
        http: answers plain HTTP requests: an async function of one ``HttpRequest``, or an ASGI
            application (Starlette, Quart-Trio, …; see ``trio_gateway.http.asgi``).
        hub: run beside the handlers.
        task_status: gives the ``Gateway`` once it accepts connections.

    Raises:
        OSError: the address cannot be bound.
        ValueError: an origin cannot be read.
        ListenerInUse: another gateway serves one of the listeners.
        AppStartupFailed: the ASGI application did not start.
        TypeError: ``http`` is neither a handler nor an ASGI application.
    """
    make_gateway = partial(
        Gateway,
        handler,
        handler_nursery=handler_nursery,
        message_queue_size=message_queue_size,
        max_message_size=max_message_size,
        receive_buffer_size=receive_buffer_size,
        connect_timeout=connect_timeout,
        disconnect_timeout=disconnect_timeout,
        limits=limits,
        timeouts=timeouts,
        heartbeat=heartbeat,
        drain=drain,
        compression=compression,
        authenticate=authenticate,
        allowed_origins=allowed_origins,
        proxies=proxies,
        http=http,
        hub=hub,
    )
    if listeners is None:
        listeners = await _open(host, port, ssl_context)
        try:
            gateway = make_gateway(listeners)
        except BaseException:
            for listener in listeners:
                await trio.aclose_forcefully(listener)
            raise
    else:
        gateway = make_gateway(listeners)
    await gateway.run(task_status=task_status)


async def _open(
    host: str | bytes | None, port: int, ssl_context: ssl.SSLContext | None
) -> Sequence[AnyListener]:
    if ssl_context is None:
        return await trio.open_tcp_listeners(port, host=host)
    return await trio.open_ssl_over_tcp_listeners(
        port, ssl_context, host=host, https_compatible=True
    )


async def wrap_server_stream(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    message_queue_size: int | None = None,
    max_message_size: int | None = None,
    receive_buffer_size: int | None = None,
) -> Upgrade:
    """Read an opening handshake from a stream that is already there.

    The stream is closed when the connection ends. If this is cancelled, what it began ends with
    ``nursery``.

    Arguments:
        nursery: where the stream is served.
        stream: any Trio stream, read from its first byte.
        message_queue_size: messages waiting for the caller before reading pauses.
        max_message_size: the largest message, in bytes.
        receive_buffer_size: bytes read at once.

    Raises:
        HandshakeError: the stream ended without a valid handshake; it has been answered.
    """
    to_caller, upgrades = trio.open_memory_channel[Upgrade](1)

    async def give(upgrade: Upgrade) -> None:
        to_caller.send_nowait(upgrade)
        await upgrade.link_ended.wait()

    gateway = Gateway(
        give,
        [_NoListener()],
        message_queue_size=message_queue_size,
        max_message_size=max_message_size,
        receive_buffer_size=receive_buffer_size,
    )

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        with to_caller:
            async with trio.open_nursery() as inner:
                await inner.start(gateway.run)
                task_status.started()
                await gateway.serve_stream(stream)
                await gateway.drain()

    await nursery.start(serve)
    try:
        return await upgrades.receive()
    except trio.EndOfChannel:
        raise HandshakeError("the stream ended without an opening handshake") from None


class _NoListener(trio.abc.Listener[trio.abc.Stream]):
    """Accepts nothing: the one stream is there already."""

    async def accept(self) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
