"""Ours as a library: an echo handler under `trio_gateway.serve_websocket`."""

import sys
from functools import partial

import trio

import trio_gateway

from .announce import listening, tls


async def echo(request: trio_gateway.Upgrade) -> None:
    connection = await request.accept()
    async for message in connection:
        await connection.send_message(message)


async def main() -> None:
    # Half-open handshakes are held for longer than the default deadline while they are measured.
    timeouts = trio_gateway.Timeouts(handshake_timeout=120)
    async with trio.open_nursery() as nursery:
        gateway = await nursery.start(
            partial(trio_gateway.serve_websocket, echo, "127.0.0.1", 0, tls(), timeouts=timeouts)
        )
        listening(gateway.port)


if __name__ == "__main__":
    if sys.argv[1:2] != ["echo"]:
        sys.exit("usage: gateway_handler echo [CERTIFICATE KEY]; python -m trio_gateway broadcasts")
    trio.run(main)
