"""A program for trio-websocket whose import line was changed, type-checked by ``scripts/check``.

Nothing runs it. What mypy and pyright accept here, an application that switches is accepted too.
"""

import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import trio
import trio_websocket

from tests.dropin import handlers
from trio_gateway import (
    CloseReason,
    Connection,
    ConnectionClosed,
    Endpoint,
    Gateway,
    Upgrade,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    serve_websocket,
    wrap_server_stream,
)

Handler = Callable[[WebSocketRequest], Awaitable[None]]

HANDLERS: list[Handler] = [
    handlers.echo_server,
    handlers.reverse,
    handlers.with_a_heartbeat,
    handlers.select_subprotocol,
    handlers.reject_strangers,
]


async def serves_each(context: ssl.SSLContext | None) -> None:
    """Every handler is taken as it is, with every argument of trio-websocket's function."""
    async with trio.open_nursery() as nursery:
        for handler in HANDLERS:
            nursery.start_soon(serve_websocket, handler, "localhost", 8000, context)
        nursery.start_soon(
            partial(
                serve_websocket,
                handlers.echo_server,
                None,
                0,
                context,
                handler_nursery=nursery,
                message_queue_size=1,
                max_message_size=2**20,
                receive_buffer_size=None,
                connect_timeout=60,
                disconnect_timeout=60.0,
            )
        )


async def starts_one(nursery: trio.Nursery) -> int:
    """What ``nursery.start`` gives is a server by both names."""
    server: WebSocketServer = await nursery.start(
        serve_websocket, handlers.echo_server, "localhost", 0, None
    )
    theirs: trio_websocket.WebSocketServer = server
    listeners: list[Endpoint | str] = theirs.listeners
    ours: Gateway = server
    return ours.port + len(listeners)


async def serves_listeners(listeners: list[trio.SocketListener]) -> None:
    """The class takes what trio-websocket's takes."""
    server = WebSocketServer(handlers.echo_server, listeners)
    await server.run()


async def new_names_for_old(upgrade: Upgrade) -> None:
    """A handler typed with our classes may call helpers typed with theirs."""
    request: trio_websocket.WebSocketRequest = upgrade
    connection: trio_websocket.WebSocketConnection = await request.accept()
    assert isinstance(connection, Connection)
    await helper(connection)


async def helper(ws: WebSocketConnection) -> str | bytes | None:
    """A helper as it was."""
    try:
        message = await ws.get_message()
    except ConnectionClosed as closed:
        reason: CloseReason | None = closed.reason
        assert reason is None or reason.code
        return None
    await ws.send_message(message)
    await ws.ping(b"x")
    await ws.aclose(code=1000, reason=None)
    return message


async def wraps(nursery: trio.Nursery, stream: trio.SocketStream) -> None:
    """A stream of one's own."""
    request: WebSocketRequest = await wrap_server_stream(
        nursery, stream, message_queue_size=1, max_message_size=2**20, receive_buffer_size=4096
    )
    await helper(await request.accept())
