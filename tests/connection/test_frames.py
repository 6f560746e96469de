"""Frames: the same as wsproto on every input, and the limits wsproto does not have."""

import os
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.events import CloseConnection, Ping, Pong
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from trio_gateway.connection.frames import (
    Failure,
    FrameDecoder,
    FrameEvent,
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from trio_gateway.connection.masking import apply_mask, xor_mask

MASK = b"\x12\x34\x56\x78"


def masked(first: int, payload: bytes, mask: bytes = MASK, *, declared: int | None = None) -> bytes:
    """Return a client's frame."""
    length = len(payload) if declared is None else declared
    if length < 126:
        header = bytes((first, 0x80 | length))
    elif length < 65536:
        header = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        header = struct.pack("!BBQ", first, 0x80 | 127, length)
    return header + mask + xor_mask(payload, mask)


def decoder(*, max_message_bytes: int = 1 << 20, max_fragments: int = 1024) -> FrameDecoder:
    return FrameDecoder(max_message_bytes=max_message_bytes, max_fragments=max_fragments)


def ours(pieces: list[bytes]) -> list[FrameEvent]:
    frames = decoder()
    events: list[FrameEvent] = []
    for piece in pieces:
        events.extend(frames.feed(piece))
    return events


def theirs(pieces: list[bytes]) -> list[FrameEvent]:
    """What wsproto makes of the same pieces, in our events."""
    protocol = FrameProtocol(client=False, extensions=[])
    events: list[FrameEvent] = []
    parts: list[str] | list[bytes] = []
    for piece in pieces:
        protocol.receive_bytes(piece)
        try:
            for frame in protocol.received_frames():
                payload = frame.payload
                if frame.opcode is Opcode.CLOSE:
                    assert isinstance(payload, tuple)
                    events.append(CloseConnection(code=int(payload[0]), reason=payload[1] or None))
                    return events
                assert not isinstance(payload, tuple)
                if frame.opcode is Opcode.PING:
                    events.append(Ping(bytes(payload)))  # type: ignore[arg-type]  # bytes here
                elif frame.opcode is Opcode.PONG:
                    events.append(Pong(bytes(payload)))  # type: ignore[arg-type]  # bytes here
                else:
                    parts.append(payload)  # type: ignore[arg-type]  # one kind per message
                    if frame.message_finished:
                        empty: str | bytes = "" if frame.opcode is Opcode.TEXT else b""
                        events.append(empty.join(parts))  # type: ignore[arg-type]  # likewise
                        parts = []
        except ParseFailed as error:
            events.append(Failure(int(error.code), str(error)))
            return events
    return events


def codes(events: list[FrameEvent]) -> list[object]:
    """The events, a failure reduced to its code: wsproto's sentences are not ours to promise."""
    return [event.code if isinstance(event, Failure) else event for event in events]


def close_payload(code: int, reason: str) -> bytes:
    return struct.pack("!H", code) + reason.encode()


opcodes = st.sampled_from([0x0, 0x1, 0x2, 0x8, 0x9, 0xA, 0x3, 0xB])
payloads = st.one_of(
    st.binary(max_size=140),
    st.text(max_size=60).map(str.encode),
    st.builds(
        close_payload,
        st.sampled_from([999, 1000, 1001, 1004, 1005, 1006, 1012, 1015, 2999, 3000, 4999, 5000]),
        st.text(max_size=20),
    ),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame, mostly a good one."""
    first = draw(opcodes) | draw(st.sampled_from([0x80, 0x80, 0x80, 0x00]))
    if draw(st.integers(0, 15)) == 0:
        first |= draw(st.sampled_from([0x10, 0x20, 0x40]))
    payload = draw(payloads)
    frame = masked(first, payload, draw(st.binary(min_size=4, max_size=4)))
    damage = draw(st.integers(0, 15))
    if damage == 0:  # unmasked
        return bytes((first, len(payload) % 126)) + payload[: len(payload) % 126]
    if damage == 1:  # a longer form of the length than needed
        return struct.pack("!BBH", first, 0x80 | 126, len(payload) % 126) + MASK
    if damage == 2:
        return struct.pack("!BBQ", first, 0x80 | 127, draw(st.sampled_from([5, 1 << 63]))) + MASK
    if damage == 3:  # cut off
        return frame[: draw(st.integers(0, len(frame)))]
    return frame


@st.composite
def cut(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    """The bytes in pieces, cut anywhere."""
    places = draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
    pieces = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]
    return [piece for piece in pieces if piece]


streams = st.one_of(st.lists(frames(), max_size=6).map(b"".join), st.binary(max_size=80))


@given(streams.flatmap(cut))
@example([masked(0x01, b"a"), masked(0x89, b"p"), masked(0x80, b"b"), masked(0x88, b"\x03\xe8")])
@example([masked(0x81, "é".encode()[:1])])
@example([masked(0x81, b"x" * 126)[:7], masked(0x81, b"x" * 126)[7:]])
@example([b"\x88\x82" + MASK + xor_mask(b"\x03\xe8", MASK) + b"more"])
def test_the_same_as_wsproto(pieces: list[bytes]) -> None:
    """Any bytes, cut anywhere: the same messages, control frames, errors and close codes."""
    so_far = codes(theirs(pieces))
    assert so_far == codes(ours(pieces))[: len(so_far)]
    # wsproto sees with its first byte of payload only that a frame is out of order; we don't wait.
    more = [*pieces, bytes(200)]
    assert codes(theirs(more)) == codes(ours(more))


@given(streams, st.data())
def test_cuts_do_not_matter(whole: bytes, data: st.DataObject) -> None:
    """However a stream is cut, it says the same."""
    assert codes(ours([whole])) == codes(ours(data.draw(cut(whole))))


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_maskers_agree(data: bytes, mask: bytes) -> None:
    """Masking by integers, by the fastest there is, and byte by byte are one thing."""
    expected = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
    assert expected == xor_mask(data, mask) == apply_mask(data, mask)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_what_we_send_is_what_wsproto_sends(size: int) -> None:
    """Our encoders write the bytes wsproto would."""
    payload = os.urandom(size)
    assert bytes(FrameProtocol(False, []).send_data(payload)) == binary_frame(payload)
    assert bytes(FrameProtocol(False, []).send_data("x" * size)) == text_frame(b"x" * size)
    assert bytes(FrameProtocol(False, []).ping(payload[:125])) == ping_frame(payload[:125])
    assert bytes(FrameProtocol(False, []).pong(payload[:125])) == pong_frame(payload[:125])


@pytest.mark.parametrize("reason", ["", "bye", "é" * 100])
def test_a_close_is_what_wsproto_sends(reason: str) -> None:
    """A reason is cut between characters, as wsproto cuts it."""
    assert bytes(FrameProtocol(False, []).close(4000, reason)) == close_frame(4000, reason)
    assert b"\x88\x00" == close_frame(1005)


def test_control_frames_are_short() -> None:
    """A ping or pong of 126 bytes is the caller's error."""
    with pytest.raises(ValueError, match="125"):
        ping_frame(bytes(126))
    with pytest.raises(ValueError, match="125"):
        pong_frame(bytes(126))


@pytest.mark.parametrize("fragment", [b"", b"x"])
def test_too_many_fragments(fragment: bytes) -> None:
    """Empty and tiny fragments count, each of them."""
    frames = decoder(max_fragments=10)
    assert [] == frames.feed(masked(0x01, fragment) + masked(0x00, fragment) * 9)
    assert [1009] == codes(frames.feed(masked(0x00, fragment)))


def test_a_message_is_measured_over_its_fragments() -> None:
    """The limit is on the message in bytes, and a control frame between does not reset it."""
    frames = decoder(max_message_bytes=10)
    assert [Ping(b"")] == frames.feed(masked(0x01, "é".encode() * 3) + masked(0x89, b""))
    assert [1009] == codes(frames.feed(masked(0x80, b"12345")))


def test_a_message_of_just_the_limit() -> None:
    """The limit itself is allowed, whole or in pieces."""
    frames = decoder(max_message_bytes=10)
    assert ["x" * 10, b"yy"] == frames.feed(
        masked(0x81, b"x" * 10) + masked(0x02, b"y") + masked(0x80, b"y")
    )


@pytest.mark.parametrize("declared", [11, 200, 70_000, (1 << 63) - 1])
def test_a_declared_length_is_enough(declared: int) -> None:
    """What is declared too long fails before any of it is kept."""
    frames = decoder(max_message_bytes=10)
    assert [1009] == codes(frames.feed(masked(0x82, b"", declared=declared)))


def test_nothing_is_read_behind_a_close() -> None:
    """Bytes behind a Close are noticed and ignored."""
    frames = decoder()
    assert [CloseConnection(1000)] == frames.feed(masked(0x88, b"\x03\xe8") + masked(0x81, b"x"))
    assert frames.finished
    assert frames.trailing
    assert [] == frames.feed(masked(0x81, b"x"))


def test_a_bad_header_is_not_waited_for() -> None:
    """Two bytes that can only fail fail at once."""
    assert [1002] == codes(ours([b"\x81\x05"]))
    assert [1002] == codes(ours([b"\x09\x80"]))
