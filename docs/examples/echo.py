"""Whatever a client says comes back.

Run it with ``python docs/examples/echo.py`` and talk to it with ``npx wscat -c ws://localhost:8000``.
"""

import trio

from trio_gateway import Upgrade, serve_websocket


async def echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


if __name__ == "__main__":
    trio.run(serve_websocket, echo, "127.0.0.1", 8000, None)
