"""A client of bytes: the opening handshake and frames as they are on the socket.

In: requests and masked frames, cut as a check likes. Out: the server's head, then its frames. The
rule: after the 101 every byte must belong to a frame (RFC 6455 §5.2); one that does not is shown.
"""

import base64
import hashlib
import re
import secrets
import struct
from urllib.parse import urlencode

import attrs

from trio_gateway.cli.checklist.probe import CheckFailed, Site, require, shorten
from trio_gateway.client.target import ClientStream

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
_OPCODES = frozenset({0x0, TEXT, 0x2, CLOSE, PING, PONG})
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_HEAD = 2**14


@attrs.frozen
class Request:
    """An opening handshake, ready to be sent.

    Attributes:
        head: its bytes.
        accept: what the answer must say (RFC 6455 §4.2.2).
    """

    head: bytes
    accept: bytes

    @classmethod
    def make(cls, site: Site, path: str, **query: str) -> "Request":
        """Ask for an upgrade at ``path``."""
        key = base64.b64encode(secrets.token_bytes(16))
        lines = [
            f"GET {site.target.prefix}{path}?{urlencode(query)} HTTP/1.1",
            f"Host: {site.target.authority}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
            "\r\n",
        ]
        digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
        return cls("\r\n".join(lines).encode(), base64.b64encode(digest))


@attrs.frozen
class RawFrame:
    """A frame of the server's."""

    opcode: int
    payload: bytes


@attrs.define
class RawClient:
    """A client on a stream; reads what the server sends, byte by byte."""

    stream: ClientStream
    buffer: bytes = b""

    async def upgraded(self, request: Request) -> None:
        """Read the head of the answer, which must be the 101 to ``request``."""
        while b"\r\n\r\n" not in self.buffer:
            if not await self._more() or len(self.buffer) > _MAX_HEAD:
                raise CheckFailed(f"expected a 101, got {shorten(self.buffer)}")
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        require(
            head.startswith(b"HTTP/1.1 101 ") and head.lower().count(b"http/1.1") == 1,
            f"expected a 101, got {shorten(head)}",
        )
        accepts = re.findall(rb"(?im)^sec-websocket-accept:[ \t]*(\S+)", head)
        require(accepts == [request.accept], "the 101 does not answer the request's key")

    async def frame(self) -> RawFrame | None:
        """Return the next frame, or None at the end of the stream."""
        while True:
            found = _cut_frame(self.buffer)
            if found is not None:
                frame, self.buffer = found
                return frame
            if not await self._more():
                require(not self.buffer, f"the stream ended within {shorten(self.buffer)}")
                return None

    async def rest(self) -> list[RawFrame]:
        """Return all frames until the stream ends; none may come after a Close."""
        frames: list[RawFrame] = []
        while (frame := await self.frame()) is not None:
            closed = frames and frames[-1].opcode == CLOSE
            require(not closed, f"after the Close came {shorten(frame.payload)}")
            frames.append(frame)
        return frames

    async def send_frame(self, opcode: int, payload: bytes) -> None:
        """Send a short masked frame (RFC 6455 §5.3)."""
        mask = secrets.token_bytes(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        await self.stream.send_all(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)

    async def _more(self) -> bool:
        data = await self.stream.receive_some()
        self.buffer += data
        return bool(data)


def close_code(frame: RawFrame) -> int:
    """Return the code of a Close frame, 1005 for none (RFC 6455 §7.1.5)."""
    return int.from_bytes(frame.payload[:2], "big") if len(frame.payload) >= 2 else 1005


def _cut_frame(data: bytes) -> tuple[RawFrame, bytes] | None:
    """Cut the first frame off; None when it is not whole."""
    if len(data) < 2:
        return None
    # No extension was offered, so the reserved bits are zero; a server does not mask.
    if data[0] & 0x70 or data[0] & 0x0F not in _OPCODES or data[1] & 0x80:
        raise CheckFailed(f"after the 101 came what is no frame: {shorten(data)}")
    length, start = data[1], 2
    if length >= 126:
        start = 4 if length == 126 else 10
        if len(data) < start:
            return None
        (length,) = struct.unpack("!H" if start == 4 else "!Q", data[2:start])
    end = start + length
    if len(data) < end:
        return None
    return RawFrame(data[0] & 0x0F, data[start:end]), data[end:]
