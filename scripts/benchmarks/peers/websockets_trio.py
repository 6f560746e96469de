"""websockets on Trio, with its own ``broadcast``."""

from collections.abc import Awaitable, Callable
from functools import partial

import trio
from websockets.trio.server import ServerConnection, broadcast, serve

from .announce import listening, role, tls

connections: set[ServerConnection] = set()


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def to_all(connection: ServerConnection) -> None:
    connections.add(connection)
    try:
        async for message in connection:
            await broadcast(connections, message)
    finally:
        connections.discard(connection)


async def main() -> None:
    handler: Callable[[ServerConnection], Awaitable[None]] = echo if role() == "echo" else to_all
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                serve,
                handler,
                0,
                host="127.0.0.1",
                compression=None,
                ssl=tls(),
                ping_interval=None,
                open_timeout=120,
            )
        )
        listening(server.listeners[0].socket.getsockname()[1])


if __name__ == "__main__":
    trio.run(main)
