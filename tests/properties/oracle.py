"""What a client may find on the wire: HTTP responses, perhaps one 101, then WebSocket frames.

In: all bytes one socket received. Out: the same as values. The rule: nothing of the gateway's own
code reads them; h11 judges the HTTP, the frames are judged here to the letter of RFC 6455 §5.2.
Bytes that are not well formed raise AssertionError.
"""

import struct
import zlib
from base64 import b64encode
from hashlib import sha1

import attrs
import h11

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ONCE = (b"content-type", b"content-length", b"connection", b"sec-websocket-accept")
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@attrs.frozen
class Response:
    """A final HTTP response, or a 101."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the only header of that name."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name!r} is there {len(values)} times"
        return values[0] if values else None


@attrs.frozen
class Frame:
    """A frame of the server's."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int | None:
        """The code of a Close frame."""
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None


@attrs.frozen
class Wire:
    """What one socket received.

    Attributes:
        responses: in order; a 101 is the last.
        frames: behind the 101.
        cut: bytes of an unfinished response or frame at the end.
    """

    responses: list[Response]
    frames: list[Frame]
    cut: bytes

    @property
    def upgrade(self) -> Response | None:
        """The 101."""
        last = self.responses[-1] if self.responses else None
        return last if last is not None and last.status == 101 else None

    @property
    def messages(self) -> list[str | bytes]:
        """The messages behind the 101."""
        return [
            frame.payload.decode() if frame.opcode == TEXT else frame.payload
            for frame in self.frames
            if frame.opcode in {TEXT, BINARY}
        ]

    @property
    def close(self) -> Frame | None:
        """The Close frame."""
        last = self.frames[-1] if self.frames else None
        return last if last is not None and last.opcode == CLOSE else None


def accept_token(key: bytes) -> bytes:
    """Return the ``Sec-WebSocket-Accept`` for a key (RFC 6455 §4.2.2)."""
    return b64encode(sha1(key + _GUID).digest())


def read_wire(data: bytes) -> Wire:
    """Read everything a socket received; AssertionError says what should not be there."""
    responses: list[Response] = []
    while data:
        response, rest = _read_response(data)
        if response is None:
            return Wire(responses, [], rest)
        responses.append(response)
        if response.status == 101:
            deflated = response.header(b"sec-websocket-extensions") is not None
            frames, cut = read_frames(rest, deflated=deflated)
            return Wire(responses, frames, cut)
        assert response.header(b"connection") == b"keep-alive" or not rest, (
            f"{rest!r} behind a response that closes"
        )
        data = rest
    return Wire(responses, [], b"")


def read_frames(data: bytes, *, deflated: bool = False) -> tuple[list[Frame], bytes]:
    """Read a server's frames, inflated where agreed; returns what is not a whole one too."""
    frames: list[Frame] = []
    while len(data) >= 2:
        first, length = data[0], data[1]
        assert not length & 0x80, f"a server's frame is masked: {data[:14]!r}"
        assert first & 0x80, f"a server's frame is a fragment: {data[:14]!r}"
        opcode = first & 0x0F
        may_deflate = deflated and opcode in (TEXT, BINARY)
        assert not first & (0x30 if may_deflate else 0x70), f"reserved bits: {data[:40]!r}"
        assert opcode in (TEXT, BINARY, CLOSE, PING, PONG), f"no frame: {data[:40]!r}"
        start = 2
        if length >= 126:
            assert opcode < CLOSE, f"a control frame is long: {data[:14]!r}"
            start, least = (4, 126) if length == 126 else (10, 65536)
            if len(data) < start:
                break
            length = int.from_bytes(data[2:start], "big")
            assert length >= least, f"a length is not encoded in the shortest way: {data[:14]!r}"
        payload = data[start : start + length]
        if len(payload) < length:
            break
        data = data[start + length :]
        if first & 0x40:
            payload = _inflate(payload)
        if opcode == TEXT:
            payload.decode()
        frames.append(Frame(opcode, payload))
        if opcode == CLOSE:
            assert len(payload) != 1, "a Close frame has one byte"
            payload[2:].decode()
            assert not data, f"{data[:40]!r} behind a Close frame"
    return frames, data


def _inflate(payload: bytes) -> bytes:
    """Undo RFC 7692 §7.2.2 for one message; no context is taken over here."""
    return zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")


def _read_response(data: bytes) -> tuple[Response | None, bytes]:
    """Return the first final response, if it is whole, and what is left."""
    parser = h11.Connection(h11.CLIENT)
    offer = [("Host", "x"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
    parser.send(h11.Request(method="GET", target="/", headers=offer))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    head: h11.Response | h11.InformationalResponse | None = None
    body = b""
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            raise AssertionError(f"{error}: {data[:80]!r}") from error
        if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
            continue
        if isinstance(event, h11.InformationalResponse | h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) or (event is h11.PAUSED and head is not None):
            assert head is not None
            response = Response(head.status_code, list(head.headers), body)
            _check_response(response)
            return response, parser.trailing_data[0]
        else:
            assert event is h11.NEED_DATA, f"{event!r} in {data[:80]!r}"
            whole = head is None and not parser.trailing_data[0]  # a 100, and no more
            return None, b"" if whole else data


def _check_response(response: Response) -> None:
    for name in _ONCE:
        response.header(name)
    if response.status == 101:
        assert response.header(b"upgrade") == b"websocket"
        assert response.header(b"connection") == b"Upgrade"
        assert response.header(b"sec-websocket-accept") is not None
        assert response.header(b"content-length") is None
    elif response.status in {204, 304}:
        # RFC 9110 §8.6; h11 has seen that there is no body.
        assert response.header(b"content-length") is None
    else:
        assert response.header(b"content-length") is not None
        assert response.header(b"connection") in {b"close", b"keep-alive"}
