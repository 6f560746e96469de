"""Servers that must fail: each is right but for one thing that went wrong somewhere for real."""

import trio

from tests.storm.canaries.base import Canary, answer


class UpgradesTwice(Canary):
    """Two servers on one socket: the second route that matches upgrades it again."""

    async def talk(self, stream: trio.SocketStream, data: bytes) -> None:
        head, found, rest = data.partition(b"\r\n\r\n")
        if found and self.is_good(head + found):
            await stream.send_all(answer(head + found))
            data = rest
        await super().talk(stream, data)


class AnswersBehindThe101(Canary):
    """The guard of `ws`: the second server sees that it is too late, and writes a 400."""

    async def talk(self, stream: trio.SocketStream, data: bytes) -> None:
        if b"\r\n\r\n" in data:
            await self.refuse(stream, b"")
        await super().talk(stream, data)


class LeaksSlots(Canary):
    """Counters without a context manager: who is refused keeps his slot."""

    def __init__(self) -> None:
        self.slots = 9

    async def handle(self, stream: trio.SocketStream) -> None:
        if self.slots <= 0:
            await stream.send_all(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"
                b"Connection: close\r\n\r\n"
            )
            return
        self.slots -= 1
        try:
            await super().handle(stream)
        finally:
            self.slots += 1

    async def refuse(self, stream: trio.SocketStream, head: bytes) -> None:
        self.slots -= 3  # more than the end of this client gives back
        await super().refuse(stream, head)


class GoesDeaf(Canary):
    """One handshake at a time: who never finishes his keeps everybody else out."""

    def __init__(self) -> None:
        self.lock = trio.Lock()

    async def read_head(self, stream: trio.SocketStream) -> tuple[bytes, bytes] | None:
        async with self.lock:
            return await super().read_head(stream)


class DiesOfABigByte(Canary):
    """Decodes its headers as ASCII, in the nursery that everything runs in."""

    def is_good(self, head: bytes) -> bool:
        head.decode("ascii")
        return super().is_good(head)


class WaitsForTheSlowest(Canary):
    """A broadcast that awaits each send: whoever reads nothing stops it for all."""

    def __init__(self) -> None:
        self.everybody: set[trio.SocketStream] = set()
        self.turn = trio.Lock()

    async def talk(self, stream: trio.SocketStream, data: bytes) -> None:
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 8192)
        self.everybody.add(stream)
        try:
            await super().talk(stream, data)
        finally:
            self.everybody.discard(stream)

    async def message(self, stream: trio.SocketStream, frame: bytes) -> None:
        async with self.turn:
            for each in list(self.everybody):
                try:
                    await each.send_all(frame)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.everybody.discard(each)

    async def send(self, stream: trio.SocketStream, frame: bytes) -> None:
        async with self.turn:
            await stream.send_all(frame)
