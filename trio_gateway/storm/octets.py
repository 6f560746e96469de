"""What a client may send, as wrong as asked for (RFC 6455, RFC 9112).

In: names of what is to be right or wrong. Out: bytes, with ``{authority}`` and ``{path}`` where the
address goes. The rule: nothing here refuses anything; no library would send most of it.
"""

import base64
import hashlib
import struct
import zlib
from collections.abc import Iterable

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
OTHER_KEY = b"AQIDBAUGBwgJCgsMDQ4PEA=="
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_MASK = b"\x37\xfa\x21\x3d"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_of(key: bytes) -> bytes:
    """Return what a server answers to a key (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())  # noqa: S324  # the RFC's choice


ACCEPTS = frozenset({accept_of(KEY), accept_of(OTHER_KEY)})


def request(
    *more: bytes,
    line: bytes = b"GET {path} HTTP/1.1",
    key: bytes = KEY,
    without: Iterable[bytes] = (),
) -> bytes:
    """Return an opening handshake.

    Arguments:
        more: header lines; they replace those of the same name, and follow each other as given.
        line: the request line.
        key: of ``Sec-WebSocket-Key``.
        without: names of lines that are left out.
    """
    lines = [
        b"Host: {authority}",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + key,
        b"Sec-WebSocket-Version: 13",
    ]
    gone = {_name(each) for each in more} | {name.lower() for name in without}
    kept = [each for each in lines if _name(each) not in gone]
    return b"\r\n".join((line, *kept, *more, b"", b""))


def _name(header: bytes) -> bytes:
    return header.partition(b":")[0].strip().lower()


UPGRADE = request()
SECOND_UPGRADE = request(key=OTHER_KEY)
OTHER_UPGRADE = request(line=b"GET {other} HTTP/1.1", key=OTHER_KEY)


def plain(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """Return a plain HTTP request."""
    return b"\r\n".join((line, b"Host: {authority}", *headers, b"", body))


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
    """Return a frame.

    Arguments:
        opcode: of the frame, any of 16.
        payload: what follows the header.
        fin: whether it is the last of its message.
        reserved: the three reserved bits.
        masked: whether it is masked, as a client's has to be.
        declared: the length in the header, if not that of the payload.
        size_bytes: 0, 2 or 8 for the extended length; None for the shortest that is enough.
    """
    length = len(payload) if declared is None else declared
    if size_bytes is None:
        size_bytes = 0 if length <= 125 else 2 if length < 65536 else 8
    short = {0: length, 2: 126, 8: 127}[size_bytes]
    head = bytes(((0x80 if fin else 0) | reserved << 4 | opcode, (0x80 if masked else 0) | short))
    head += length.to_bytes(size_bytes, "big") if size_bytes else b""
    return head + (_MASK + _masked(payload) if masked else payload)


def _masked(payload: bytes) -> bytes:
    key = (_MASK * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload))


def text(message: str) -> bytes:
    """Return a text message."""
    return frame(TEXT, message.encode())


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """Return a Close frame; None for one without a code."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def deflated(payload: bytes) -> bytes:
    """Return a message compressed as RFC 7692 §7.2.1 says."""
    compressor = zlib.compressobj(9, wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


CLIENT_HELLO = bytes.fromhex("160301008f0100008b0303") + bytes(range(32)) + bytes(106)
"""A TLS record that begins as a ClientHello does (RFC 8446 §4.1.2) and goes on as none."""
