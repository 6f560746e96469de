"""A client made of bytes: it sends what it is told to, cut as it is told to, and hangs up rudely.

In: a stream to a gateway. Out: answers and frames, parsed here and not by a library that could
forgive something. The rule: nothing here waits without the test's guard around it.
"""

import base64
import hashlib
import json
import socket
import struct
from collections.abc import Iterable
from typing import Any, Self

import attrs
import trio
import trio.testing

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(
    hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
).decode()
MASK = b"\x37\xfa\x21\x3d"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def handshake(
    target: str = "/",
    *more: bytes,
    line: bytes | None = None,
    without: Iterable[bytes] = (),
    eol: bytes = b"\r\n",
) -> bytes:
    """Return an opening handshake.

    ``more`` replaces the lines of the same name and adds the others; ``without`` takes lines away.
    """
    lines = [
        b"Host: gateway.test",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
    ]
    gone = {name_of(header) for header in more} | {name.lower() for name in without}
    lines = [header for header in lines if name_of(header) not in gone]
    first = line if line is not None else b"GET %s HTTP/1.1" % target.encode("latin-1")
    return eol.join([first, *lines, *more, b"", b""])


def name_of(header: bytes) -> bytes:
    return header.partition(b":")[0].strip().lower()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    declared: int | None = None,
    size_bytes: int | None = None,
) -> bytes:
    """Return a client's frame, as wrong as asked for.

    Arguments:
        declared: the length in the header, if not that of the payload.
        size_bytes: 0, 2 or 8 for the extended length; None for the shortest that is enough.
    """
    length = len(payload) if declared is None else declared
    if size_bytes is None:
        size_bytes = 0 if length <= 125 else 2 if length < 65536 else 8
    short = {0: length, 2: 126, 8: 127}[size_bytes]
    header = bytes([(0x80 if fin else 0) | reserved << 4 | opcode, (0x80 if masked else 0) | short])
    header += length.to_bytes(size_bytes, "big") if size_bytes else b""
    if not masked:
        return header + payload
    key = (MASK * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return header + MASK + mixed.to_bytes(len(payload), "big")


def text(message: str) -> bytes:
    return frame(TEXT, message.encode())


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


@attrs.frozen
class Answer:
    """An HTTP response."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The code of a refusal's body."""
        return str(json.loads(self.body)["error"])


@attrs.frozen
class Frame:
    """A frame from the gateway."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int | None:
        """A Close frame's code; 1005 without one, None for another frame."""
        if self.opcode != CLOSE:
            return None
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005

    @property
    def reason(self) -> str:
        """A Close frame's reason."""
        return self.payload[2:].decode()


class Peer:
    """A client's end of a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    @property
    def socket(self) -> "trio.socket.SocketType":
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        assert isinstance(stream, trio.SocketStream)
        return stream.socket

    # Sending.

    async def send(self, *segments: bytes) -> None:
        """Send each segment by itself: the gateway has read it before the next one leaves."""
        for segment in segments:
            await self.stream.send_all(segment)
            if len(segments) > 1:
                await trio.testing.wait_all_tasks_blocked()

    def send_eof(self) -> None:
        """Half-close the socket: we are done, the answer may still come. TLS is not told."""
        self.socket.shutdown(socket.SHUT_WR)

    async def reset(self) -> None:
        """Hang up with an RST (on a Unix socket: with a plain close)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self.stream)

    # Receiving.

    async def answer(self, *, head_only: bool = False) -> Answer:
        """Read one HTTP response."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), "a header twice"
        self._buffer[:] = rest
        length = 0 if head_only else int(headers.get("content-length", 0))
        return Answer(int(status), reason, headers, await self.exactly(length))

    async def upgrade(self, target: str = "/", *headers: bytes, behind: bytes = b"") -> Answer:
        """Shake hands; ``behind`` goes out in the same segment as the request."""
        await self.send(handshake(target, *headers) + behind)
        answer = await self.answer()
        assert answer.status == 101, answer
        return answer

    async def frame(self) -> Frame:
        """Read one frame, which has to be unmasked, unfragmented and minimal."""
        first, length = await self.exactly(2)
        assert first & 0xF0 == 0x80, f"not the first byte of a frame: {first:#04x}"
        if length == 126:
            length = int.from_bytes(await self.exactly(2), "big")
            assert length > 125
        elif length == 127:
            length = int.from_bytes(await self.exactly(8), "big")
            assert length > 65535
        return Frame(first & 0x0F, await self.exactly(length))

    async def frames(self, *, answer_close: bool = True) -> list[Frame]:
        """Read frames until the gateway hangs up; its Close is answered as is proper."""
        frames = list[Frame]()
        while self._buffer or await self._or_eof():
            frames.append(await self.frame())
            if answer_close and frames[-1].opcode == CLOSE:
                await self.send(frame(CLOSE, frames[-1].payload[:2]))
        return frames

    async def rest(self) -> bytes:
        """Read until the gateway hangs up; an RST raises ``trio.BrokenResourceError``."""
        while await self._or_eof():
            pass
        return bytes(self._buffer)

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _more(self) -> None:
        assert await self._or_eof(), f"the gateway hung up behind {bytes(self._buffer)!r}"

    async def _or_eof(self) -> bool:
        data = await self.stream.receive_some(65536)
        self._buffer += data
        return bool(data)


def json_of(answer: Answer) -> Any:
    return json.loads(answer.body)
