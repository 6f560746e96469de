"""A chat client that comes back: it notes everything it gets, and whether anything was missing."""

import base64
import json
import os
import random
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import attrs
import trio

_PATIENCE = 30.0


class Cut(Exception):
    """The connection ended, or was not made; says how: a close code, an HTTP status, a word."""


@attrs.define(eq=False)
class Socket:
    """As much of RFC 6455 as a well-behaved client needs."""

    stream: trio.SocketStream
    buffer: bytes = b""
    sending: trio.Lock = attrs.Factory(trio.Lock)

    @classmethod
    async def open(cls, port: int, target: str) -> "Socket":
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        socket = cls(stream)
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        try:
            await socket.ask(head)
            answer, _, socket.buffer = socket.buffer.partition(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 101 "):
                raise Cut(answer.split(b" ")[1].decode())
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return socket

    async def ask(self, head: str) -> None:
        try:
            await self.stream.send_all(head.encode())
            while b"\r\n\r\n" not in self.buffer:
                await self.read()
        except (Cut, trio.BrokenResourceError):
            raise Cut("unanswered") from None

    async def read(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise Cut("end of file")
        self.buffer += data

    async def send(self, text: str) -> None:
        payload = text.encode()
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
        await self._write(b"\x81" + length + bytes(4) + payload)

    async def messages(self) -> AsyncGenerator[dict[str, Any], None]:
        while True:
            while (frame := self._frame()) is not None:
                opcode, payload = frame
                if opcode == 1:
                    yield json.loads(payload)
                elif opcode == 9:
                    await self._answer(b"\x8a", payload)
                elif opcode == 8:
                    await self._answer(b"\x88", payload[:2])
                    raise Cut(str(int.from_bytes(payload[:2], "big")))
            await self.read()

    async def _answer(self, head: bytes, payload: bytes) -> None:
        await self._write(head + bytes([0x80 | len(payload)]) + bytes(4) + payload)

    async def _write(self, data: bytes) -> None:
        async with self.sending:
            await self.stream.send_all(data)

    def _frame(self) -> tuple[int, bytes] | None:
        data = self.buffer
        if len(data) < 2:
            return None
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        if len(data) < start or len(data) < start + size:
            return None
        self.buffer = data[start + size :]
        return data[0] & 0x0F, data[start : start + size]


@attrs.define(eq=False)
class Member:
    """One user in one room, at whichever node answers.

    Attributes:
        ended: told of each connection that ended, or was not made: its port, and how.
        problems: what must never happen.
        seen: the texts by offset.
        acknowledged: the keys it sent whose storing it was told of, with their offsets.
    """

    name: str
    room: str
    ports: Callable[[], list[int]]
    chance: random.Random
    epoch: str = ""
    first: int | None = None
    last: int = -1
    seen: dict[int, str] = attrs.Factory(dict)
    acknowledged: dict[str, int] = attrs.Factory(dict)
    problems: list[str] = attrs.Factory(list)
    connections: int = 0
    _socket: Socket | None = None
    _answer: trio.Event = attrs.Factory(trio.Event)
    _ready: trio.Event = attrs.Factory(trio.Event)
    took: Callable[[dict[str, Any]], None] | None = None
    ended: Callable[[int, str], None] = lambda _port, _how: None

    async def run(self) -> None:
        """Be there until cancelled, coming back whenever the connection ends."""
        while True:
            port = self.chance.choice(self.ports())
            try:
                await self._stay(port)
            except Cut as cut:
                self.ended(port, str(cut))
            except OSError:
                self.ended(port, "refused")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.ended(port, "reset")
            self._socket = None
            if self._ready.is_set():  # else who waits for it waits on
                self._ready = trio.Event()
            self._answer.set()
            await trio.sleep(self.chance.uniform(0.02, 0.3))

    async def say(self, text: str) -> None:
        """Send a message until it is acknowledged."""
        while text not in self.acknowledged:
            await self._ready.wait()
            self._answer = trio.Event()
            command = {"type": "message", "room": self.room, "text": text, "key": text, "id": text}
            try:
                assert self._socket is not None
                await self._socket.send(json.dumps(command))
            except (AssertionError, trio.BrokenResourceError, trio.ClosedResourceError):
                continue
            with trio.move_on_after(_PATIENCE):
                await self._answer.wait()
            if text not in self.acknowledged:
                await trio.sleep(self.chance.uniform(0.05, 0.2))

    async def _stay(self, port: int) -> None:
        target = f"/?room={self.room}&user={self.name}"
        if self.first is not None:
            target += f"&since={self.epoch}:{self.last}"
        socket = await Socket.open(port, target)
        try:
            async with aclosing(socket.messages()) as messages:
                async for message in messages:
                    await self._take(socket, message)
        finally:
            await trio.aclose_forcefully(socket.stream)

    async def _take(self, socket: Socket, message: dict[str, Any]) -> None:
        if self.took is not None:
            self.took(message)
        match message["type"]:
            case "joined":
                self._join(message)
                self.connections += 1
                self._socket = socket
                self._ready.set()
            case "message":
                self._note(message)
            case "ack":
                self.acknowledged[message["id"]] = message["offset"]
                self._answer.set()
            case "error" if message["code"] == "store_unavailable":
                if "id" in message:
                    self._answer.set()
                else:
                    raise Cut("could not join now")
            case "welcome" | "presence":
                pass
            case _:
                self.problems.append(f"{self.name}: {message}")

    def _join(self, message: dict[str, Any]) -> None:
        position = message["position"]
        if self.first is None:
            self.epoch, self.first = position["epoch"], position["offset"] + 1
            self.last = position["offset"]
            return
        if not message["recovered"] or position["epoch"] != self.epoch:
            self.problems.append(f"{self.name}: not recovered at {self.last}: {position}")
            self.epoch, self.last = position["epoch"], position["offset"]
        for missed in message["messages"]:
            self._note(missed)
        if self.last != position["offset"]:
            self.problems.append(f"{self.name}: joined at {position}, has {self.last}")

    def _note(self, message: dict[str, Any]) -> None:
        offset = message["offset"]
        if offset != self.last + 1:
            self.problems.append(f"{self.name}: {offset} after {self.last}")
        self.last = offset
        self.seen[offset] = message["text"]
