"""What a server says is read strictly, the same however it is cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.connection.frames import close_frame, ping_frame, text_frame
from trio_gateway.storm.octets import KEY, accept_of
from trio_gateway.storm.reader import Reader

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + accept_of(KEY) + b"\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
GOOD = SWITCH + text_frame(b"hello") + ping_frame(b"p") + text_frame(b"") + close_frame(1001)


def read(*parts: bytes) -> Reader:
    reader = Reader()
    for part in parts:
        reader.feed(part)
    reader.feed_eof()
    return reader


@given(st.lists(st.integers(0, len(GOOD)), max_size=8))
def test_cuts_change_nothing(cuts: list[int]) -> None:
    """Messages, pings and the code are the same."""
    places = [0, *sorted(cuts), len(GOOD)]
    reader = read(*(GOOD[a:b] for a, b in pairwise(places) if a < b))
    assert ([], 101, 2, [b"p"], 1001) == (
        reader.complaints,
        reader.status,
        reader.messages,
        reader.pings,
        reader.close,
    )


@pytest.mark.parametrize(
    "data, status, answers",
    [
        (OK, 200, 1),
        (OK + OK, 200, 2),
        (NO, 400, 1),
        (CHUNKED, 200, 1),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, 1),
        (b"\x15\x03\x03\x00\x02\x02\x46", "tls", 0),
        (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x01\x00\x00\x10\x00", "h2", 0),
    ],
)
def test_good_answers(data: bytes, status: int | str, answers: int) -> None:
    """No complaint, each answer counted, byte by byte too."""
    for reader in (read(data), read(*(bytes([octet]) for octet in data))):
        assert ([], status, answers) == (reader.complaints, reader.status, reader.answers)


@pytest.mark.parametrize(
    "data, rule",
    [
        (SWITCH + SWITCH, "second-101"),
        (SWITCH + text_frame(b"x") + OK, "http-after-101"),
        (SWITCH + NO, "http-after-101"),
        (SWITCH + b"\x81\x82abcdxx", "bad-frame"),
        (SWITCH + b"\x81\x01\xff", "bad-frame"),
        (SWITCH + close_frame(1000) + text_frame(b"x"), "frame-after-close"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "malformed-answer"),
        (b"hello\r\n", "malformed-answer"),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "malformed-answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "malformed-answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "malformed-answer"),
        (b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n", "malformed-answer"),
        (b"HTTP/1.1 200", "malformed-answer"),
        (b"\x00\x00\x06\x05\x00\x00\x00\x00\x00", "malformed-answer"),
        (b"\x00", "malformed-answer"),
    ],
)
def test_what_is_wrong_is_told(data: bytes, rule: str) -> None:
    """By the name of its rule, once."""
    for reader in (read(data), read(*(bytes([octet]) for octet in data))):
        assert [rule] == [complaint.rule for complaint in reader.complaints]


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise(data: bytes, upgraded: bool) -> None:
    """Whatever a server sends is at most a complaint."""
    read(SWITCH + data if upgraded else data)


def test_a_head_has_no_body() -> None:
    """The answer to a HEAD ends with its head."""
    reader = Reader(head_only=True)
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    reader.feed_eof()
    assert (1, []) == (reader.answers, reader.complaints)
