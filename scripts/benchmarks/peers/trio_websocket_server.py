"""trio-websocket."""

from functools import partial

import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    serve_websocket,
)

from .announce import listening, role, tls

connections: set[WebSocketConnection] = set()


async def echo(request: WebSocketRequest) -> None:
    connection = await request.accept()
    try:
        while True:
            await connection.send_message(await connection.get_message())
    except ConnectionClosed:
        pass


async def broadcast(request: WebSocketRequest) -> None:
    connection = await request.accept()
    connections.add(connection)
    try:
        while True:
            message = await connection.get_message()
            for each in list(connections):
                await each.send_message(message)
    except ConnectionClosed:
        pass
    finally:
        connections.discard(connection)


async def main() -> None:
    handler = echo if role() == "echo" else broadcast
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, tls()))
        listening(server.port)


if __name__ == "__main__":
    trio.run(main)
