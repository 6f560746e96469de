"""A small echo server that is right, for the canaries to be wrong in one thing each."""

import re
from collections.abc import Awaitable, Callable

import trio
from wsproto.events import CloseConnection, Ping

from trio_gateway.connection.frames import (
    Failure,
    FrameDecoder,
    binary_frame,
    close_frame,
    pong_frame,
    text_frame,
)
from trio_gateway.storm.octets import accept_of

MAX_HEAD = 16 * 1024
_KEY = re.compile(rb"\r\nsec-websocket-key: ([A-Za-z0-9+/]{22}==)\r\n", re.IGNORECASE)


class Canary:
    """An echo at every path. One instance is one life of the server."""

    async def serve(
        self, port: int, *, task_status: trio.TaskStatus[list[trio.SocketListener]]
    ) -> None:
        await trio.serve_tcp(self._contained, port, host="127.0.0.1", task_status=task_status)

    async def _contained(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await self.handle(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def handle(self, stream: trio.SocketStream) -> None:
        found = await self.read_head(stream)
        if found is None:
            return
        head, rest = found
        if not self.is_good(head):
            await self.refuse(stream, head)
            return
        await stream.send_all(answer(head))
        await self.talk(stream, rest)

    async def read_head(self, stream: trio.SocketStream) -> tuple[bytes, bytes] | None:
        data = b""
        while b"\r\n\r\n" not in data:
            received = await stream.receive_some()
            if not received or len(data) > MAX_HEAD:
                return None
            data += received
        head, _, rest = data.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n", rest

    def is_good(self, head: bytes) -> bool:
        lower = head.lower()
        return (
            head.startswith(b"GET /")
            and b" HTTP/1.1\r\n" in head
            and _KEY.search(head) is not None
            and lower.count(b"\r\nsec-websocket-key:") == 1
            and b"\r\nupgrade: websocket\r\n" in lower
            and b"\r\nconnection: upgrade\r\n" in lower
            and b"\r\nsec-websocket-version: 13\r\n" in lower
            and b"\r\nhost: " in lower
            and b"content-length" not in lower
        )

    async def refuse(self, stream: trio.SocketStream, head: bytes) -> None:
        body = b"" if head.startswith(b"HEAD ") else b"no"
        await stream.send_all(
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\n" + body
        )

    async def talk(self, stream: trio.SocketStream, data: bytes) -> None:
        decoder = FrameDecoder(max_message_bytes=2**20, max_fragments=1000)
        while True:
            for event in decoder.feed(data):
                match event:
                    case str():
                        await self.message(stream, text_frame(event.encode()))
                    case bytes():
                        await self.message(stream, binary_frame(event))
                    case Ping():
                        await self.send(stream, pong_frame(bytes(event.payload)))
                    case CloseConnection():
                        await self.send(stream, close_frame(int(event.code)))
                        return
                    case Failure():
                        await self.send(stream, close_frame(event.code))
                        return
                    case _:
                        pass
            data = bytes(await stream.receive_some())
            if not data:
                return

    async def message(self, stream: trio.SocketStream, frame: bytes) -> None:
        await self.send(stream, frame)

    async def send(self, stream: trio.SocketStream, frame: bytes) -> None:
        await stream.send_all(frame)


def answer(head: bytes) -> bytes:
    """Return the 101 to a good head."""
    key = _KEY.search(head)
    assert key is not None
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_of(key[1]) + b"\r\n\r\n"
    )


Serve = Callable[..., Awaitable[None]]
