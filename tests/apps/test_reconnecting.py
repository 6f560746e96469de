"""Two hundred clients over real sockets that are cut again and again while somebody publishes."""

import json
import random
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import trio

from trio_gateway.apps.assembly import Application
from trio_gateway.hub.memory import MemoryBroker

CLIENTS = 200
MESSAGES = 120
HEAD = (
    "GET /?user=u{number}{since} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Client:
    """Keeps the offsets that it got, in order."""

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.port = port
        self.chance = random.Random(number)
        self.epoch = ""
        self.got: list[int] = []
        self.connections = 0
        self.joined = trio.Event()

    async def live(self) -> None:
        """Come back until everything is in hand."""
        while len(self.got) < MESSAGES:
            since = f"&since={self.epoch}:{len(self.got)}" if self.epoch else ""
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            async with stream:
                self.connections += 1
                await stream.send_all(HEAD.format(number=self.number, since=since).encode())
                await self.listen(stream, self.chance.randrange(1, 40))
                if self.chance.random() < 0.5:  # RST instead of FIN
                    linger = struct.pack("ii", 1, 0)
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def listen(self, stream: trio.SocketStream, count: int) -> None:
        """Take in at least so many messages, and cut the connection in the middle of whatever."""
        async with aclosing(frames(stream)) as incoming:
            async for frame in incoming:
                if frame["type"] == "joined":
                    assert frame["recovered"]
                    self.epoch = frame["position"]["epoch"]
                    self.got += [message["offset"] for message in frame["messages"]]
                    assert len(self.got) == frame["position"]["offset"]
                    self.joined.set()
                elif frame["type"] == "message":
                    self.got.append(frame["offset"])
                    count -= 1
                if count <= 0 or len(self.got) >= MESSAGES:
                    return


async def frames(stream: trio.SocketStream) -> AsyncGenerator[Any]:
    """Yield the JSON of the text frames behind the head of a 101."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some() or b"\r\n\r\n"
    assert data.startswith(b"HTTP/1.1 101 ")
    del data[: data.index(b"\r\n\r\n") + 4]
    while True:
        start, length = 2, data[1] if len(data) > 1 else 0
        if length == 126:
            start, length = 4, int.from_bytes(data[2:4], "big")
        elif length == 127:
            start, length = 10, int.from_bytes(data[2:10], "big")
        if len(data) >= max(2, start + length):
            payload = bytes(data[start : start + length])
            assert data[0] == 0x81, payload
            del data[: start + length]
            yield json.loads(payload)
        else:
            received = await stream.receive_some()
            assert received
            data += received


async def test_everybody_gets_everything_once_however_often_they_are_cut() -> None:
    """No message is missing, none comes twice, and all come in order."""
    application = Application(MemoryBroker())
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    gateway = application.gateway(listeners)
    clients = [Client(number, port) for number in range(CLIENTS)]
    with trio.fail_after(60):
        async with trio.open_nursery() as serving:
            serving.start_soon(gateway.run)
            async with trio.open_nursery() as living:
                for client in clients:
                    living.start_soon(client.live)
                for client in clients:
                    await client.joined.wait()
                for number in range(MESSAGES):
                    await application.chat.publish(room="lobby", user="ann", text=f"{number}")
                    await trio.sleep(0.01)
            hub = application.hub.statistics()
            serving.cancel_scope.cancel()
    expected = list(range(1, MESSAGES + 1))
    assert [expected] * CLIENTS == [client.got for client in clients]
    assert sum(client.connections for client in clients) > 3 * CLIENTS
    assert (0, 0) == (hub.gaps, hub.failed)
