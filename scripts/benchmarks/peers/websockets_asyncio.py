"""websockets on asyncio, with its own ``broadcast``."""

import asyncio
from collections.abc import Awaitable, Callable

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.typing import Origin

from .announce import listening, role, tls

connections: set[ServerConnection] = set()


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def to_all(connection: ServerConnection) -> None:
    connections.add(connection)
    try:
        async for message in connection:
            broadcast(connections, message)
    finally:
        connections.discard(connection)


async def main() -> None:
    handler: Callable[[ServerConnection], Awaitable[None]] = echo if role() == "echo" else to_all
    async with serve(
        handler,
        "127.0.0.1",
        0,
        compression=None,
        ssl=tls(),
        ping_interval=None,
        open_timeout=120,
        origins=[None, Origin("http://good.example")],
    ) as server:
        listening(next(iter(server.sockets)).getsockname()[1])
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
