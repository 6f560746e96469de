"""Measures what a client's return costs: connect, upgrade, welcome, joined, with what it missed.

``scripts/capacity --measure`` prints the server's CPU time for each; ``costs.py`` keeps it.
"""

import socket
import sys
import time
from functools import partial

import trio

from trio_gateway import serve_websocket
from trio_gateway.apps.chat import ChatApp
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker

_REQUEST = (
    "GET /?user=u{number}{since} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def load(port: int, count: int, since: str) -> None:
    """Come back ``count`` times, and stay."""
    held = []
    for number in range(count):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(_REQUEST.format(number=number, since=since).encode())
        data = b""
        while b'"type":"joined"' not in data or not data.endswith(b"}"):
            received = sock.recv(1 << 20)
            assert received, data
            data += received
        held.append(sock)


async def _measure(missed: int, count: int) -> float:
    hub = Hub(MemoryBroker())
    chat = ChatApp(hub)
    async with trio.open_nursery() as nursery:
        gateway = await nursery.start(
            partial(serve_websocket, chat.handle, "127.0.0.1", 0, None, hub=hub)
        )
        before = await chat.publish(room="lobby", user="bob", text="first")
        for _ in range(missed):
            await chat.publish(room="lobby", user="bob", text="x" * 60)
        since = f"&since={before.epoch}:{before.offset}"
        command = [sys.executable, "-m", "scripts.capacity_model", "--load"]
        began = time.process_time()
        await trio.run_process([*command, str(gateway.port), str(count), since])
        spent = time.process_time() - began
        nursery.cancel_scope.cancel()
    return spent / count * 1e6


def measure(count: int = 500) -> None:
    """Print the best of five rounds each: what else runs on the machine only adds to it."""
    for missed in (0, 10, 100):
        best = min(trio.run(_measure, missed, count) for _ in range(5))
        print(f"a return that missed {missed} messages: {best:.0f} µs")


if __name__ == "__main__":
    measure()
