"""Frames as a client writes and reads them (RFC 6455 §5.2), with a mask of zeros."""

import struct
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Frame(NamedTuple):
    """A final frame."""

    opcode: int
    payload: bytes


def to_server(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """Return a client's frame."""
    first, length = opcode | (0x80 if final else 0), len(payload)
    if length < 126:
        header = bytes((first, 0x80 | length))
    elif length < 65536:
        header = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        header = struct.pack("!BBQ", first, 0x80 | 127, length)
    return header + bytes(4) + payload


def text(payload: str) -> bytes:
    return to_server(TEXT, payload.encode())


def close(code: int | None = None, reason: str = "") -> bytes:
    return to_server(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


def from_server(data: bytes, *, cut: bool = False) -> list[Frame]:
    """Return the frames in ``data``: whole, final and unmasked, or the test fails.

    Arguments:
        data: what a server sent.
        cut: the last one need not be whole; it is left out then.
    """
    frames: list[Frame] = []
    while len(data) > 1 or (data and not cut):
        first, length, start = data[0], data[1], 2
        assert 0x80 == first & 0xF0
        assert length < 0x80
        if length == 126:
            (length,), start = struct.unpack("!H", data[2:4]), 4
        elif length == 127:
            (length,), start = struct.unpack("!Q", data[2:10]), 10
        payload, data = data[start : start + length], data[start + length :]
        if cut and length > len(payload):
            break
        assert length == len(payload)
        frames.append(Frame(first & 0x0F, payload))
    return frames


def closing(code: int, reason: str = "") -> Frame:
    """Return the Close frame that a server sends."""
    return Frame(CLOSE, struct.pack("!H", code) + reason.encode())
