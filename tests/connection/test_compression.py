"""permessage-deflate without I/O: what is agreed, what is inflated, what is sent."""

import os
import struct
import tracemalloc
import zlib
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from wsproto.events import CloseConnection, Ping
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from trio_gateway.connection.compression import (
    Agreement,
    Deflaters,
    InflatingDecoder,
    SharedDeflater,
    agree,
    inflate,
)
from trio_gateway.connection.frames import (
    Failure,
    FrameDecoder,
    FrameEvent,
    binary_frame,
    ping_frame,
    text_frame,
    whole_frame,
)
from trio_gateway.connection.masking import xor_mask
from trio_gateway.settings import Compression

MASK = b"\x12\x34\x56\x78"
TAIL = b"\x00\x00\xff\xff"
ALONE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def masked(first: int, payload: bytes, *, declared: int | None = None) -> bytes:
    """Return a client's frame."""
    length = len(payload) if declared is None else declared
    if length < 126:
        header = bytes((first, 0x80 | length))
    elif length < 65536:
        header = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        header = struct.pack("!BBQ", first, 0x80 | 127, length)
    return header + MASK + xor_mask(payload, MASK)


def compressed(message: bytes, *, bits: int = 15) -> bytes:
    """Return the payload of a message as zlib makes it (§7.2.1)."""
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def final_blocks(message: bytes) -> bytes:
    """Return a stream that ends with its final block."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(message) + compressor.flush()


def decoder(
    *, max_message_bytes: int = 1 << 20, max_inflated_bytes: int = 1 << 30
) -> InflatingDecoder:
    return InflatingDecoder(
        max_message_bytes=max_message_bytes,
        max_fragments=1024,
        max_inflated_bytes=max_inflated_bytes,
    )


def read(frames: FrameDecoder, *pieces: bytes) -> list[object]:
    """Return the events, a failure reduced to its code."""
    events = [event for piece in pieces for event in frames.feed(piece)]
    return [event.code if isinstance(event, Failure) else event for event in events]


def client_protocol(bits: int = 15) -> FrameProtocol:
    """Return wsproto's client with the extension in force, which it says nothing more about."""
    extension = PerMessageDeflate()
    extension.finalize(f"{ALONE}; server_max_window_bits={bits}")
    return FrameProtocol(client=True, extensions=[extension])


def server_protocol() -> FrameProtocol:
    extension = PerMessageDeflate(client_no_context_takeover=True, server_no_context_takeover=True)
    extension.accept("permessage-deflate")
    return FrameProtocol(client=False, extensions=[extension])


def received(protocol: FrameProtocol, *pieces: bytes) -> list[object]:
    """Return what a side of wsproto's makes of bytes: messages, pings, a code at a failure."""
    events: list[object] = []
    parts: list[str | bytes] = []
    for piece in pieces:
        protocol.receive_bytes(piece)
        try:
            for frame in protocol.received_frames():
                payload = frame.payload
                if frame.opcode is Opcode.CLOSE:
                    assert isinstance(payload, tuple)
                    return [*events, CloseConnection(code=int(payload[0]), reason=payload[1])]
                if frame.opcode is Opcode.PING:
                    assert isinstance(payload, bytes)
                    events.append(Ping(payload))
                    continue
                assert isinstance(payload, str | bytes)
                parts.append(payload)
                if frame.message_finished:
                    empty = "" if frame.opcode is Opcode.TEXT else b""
                    events.append(empty.join(parts))  # type: ignore[arg-type]  # of one kind
                    parts = []
        except ParseFailed as error:
            return [*events, int(error.code)]
    return events


# Negotiation.


@pytest.mark.parametrize(
    "offers, bits, answer",
    [
        # RFC 7692 §7.1.3 and the examples of §7.1.1 and §7.1.2
        (["permessage-deflate"], 15, ALONE),
        (["permessage-deflate; client_max_window_bits"], 15, ALONE),
        (["permessage-deflate; client_max_window_bits=10"], 15, ALONE),
        (
            ["permessage-deflate; client_max_window_bits; server_max_window_bits=10"],
            10,
            f"{ALONE}; server_max_window_bits=10",
        ),
        (
            [
                "permessage-deflate; server_max_window_bits=10",
                "permessage-deflate; client_max_window_bits",
            ],
            10,
            f"{ALONE}; server_max_window_bits=10",
        ),
        (["permessage-deflate; server_no_context_takeover"], 15, ALONE),
        (["permessage-deflate; client_no_context_takeover"], 15, ALONE),
        (
            ["permessage-deflate; server_max_window_bits=15"],
            15,
            f"{ALONE}; server_max_window_bits=15",
        ),
        # any client's window can be inflated, ours cannot be 256 bytes
        (["permessage-deflate; client_max_window_bits=8"], 15, ALONE),
        (["permessage-deflate; server_max_window_bits=8", "permessage-deflate"], 15, ALONE),
        # a value may be quoted (RFC 6455 §9.1), space stands where it may
        (
            ['permessage-deflate; server_max_window_bits="9"'],
            9,
            f"{ALONE}; server_max_window_bits=9",
        ),
        (
            ['permessage-deflate \t;server_max_window_bits = "1\\2" '],
            12,
            f"{ALONE}; server_max_window_bits=12",
        ),
        # what is not this extension, or not valid, is passed over
        (["x-webkit-deflate-frame", "permessage-deflate"], 15, ALONE),
        (["permessage-deflate; x", "permessage-deflate"], 15, ALONE),
    ],
)
def test_the_first_good_offer_is_accepted(offers: list[str], bits: int, answer: str) -> None:
    """The answer names what the client asked for, and that nobody keeps a context."""
    assert Agreement(bits, answer.encode()) == agree(offers, Compression())


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-bzip2",
        "Permessage-Deflate",
        "permessage-deflate; server_max_window_bits=8",  # zlib makes no raw stream with it
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=+10",
        "permessage-deflate; server_max_window_bits=1_0",
        "permessage-deflate; server_max_window_bits=١٠",
        'permessage-deflate; server_max_window_bits="10',
        'permessage-deflate; server_max_window_bits=""',
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=08",
        "permessage-deflate; server_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover=1",
        'permessage-deflate; client_no_context_takeover=""',
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; Server_No_Context_Takeover",
        "permessage-deflate; max_window_bits=10",
        "permessage-deflate;",
        "permessage-deflate; ; server_no_context_takeover",
        "",
    ],
)
def test_a_bad_offer_is_declined(offer: str) -> None:
    """An unknown, repeated or ill-valued parameter, or what we cannot do, declines the offer."""
    assert agree([offer], Compression()) is None
    assert agree([offer, "permessage-deflate"], Compression()) is not None


def test_our_own_window_may_be_smaller() -> None:
    """The window is the smaller of what we want and what we are asked for."""
    offer = "permessage-deflate; server_max_window_bits=14"
    agreement = agree([offer], Compression(max_window_bits=10))
    assert Agreement(10, f"{ALONE}; server_max_window_bits=10".encode()) == agreement
    assert Agreement(10, ALONE.encode()) == agree(
        ["permessage-deflate"], Compression(max_window_bits=10)
    )


CLIENT_BITS: list[int | Literal[True] | None] = [None, True, 9, 12, 15]
booleans = st.booleans()
windows = st.one_of(st.none(), st.integers(8, 15))


@given(
    booleans,
    booleans,
    windows,
    st.sampled_from(CLIENT_BITS),
    st.integers(9, 15),
)
def test_websockets_understands_the_answer(
    server_alone: bool,
    client_alone: bool,
    server_bits: int | None,
    client_bits: int | Literal[True] | None,
    max_bits: int,
) -> None:
    """Whatever the client of ``websockets`` offers, it takes our answer, and means the same."""
    factory = ClientPerMessageDeflateFactory(
        server_alone,
        client_alone,
        server_bits,
        client_bits,
    )
    parameters = [
        name if value is None else f"{name}={value}" for name, value in factory.get_request_params()
    ]
    agreement = agree(
        ["; ".join([factory.name, *parameters])], Compression(max_window_bits=max_bits)
    )
    if server_bits == 8:
        assert agreement is None
        return
    assert agreement is not None
    answer = [part.strip().partition("=") for part in agreement.header.decode().split(";")[1:]]
    extension = factory.process_response_params(
        [(name, value or None) for name, _, value in answer], []
    )
    assert extension.local_no_context_takeover
    assert extension.remote_no_context_takeover
    assert agreement.window_bits <= extension.remote_max_window_bits


@given(st.lists(st.text('permsag-dflt; ="\\8915server_max_window_bits,\t\x00é'), max_size=3))
def test_no_offer_raises(offers: list[str]) -> None:
    """Any text is an offer that is accepted or declined."""
    agree(offers, Compression())


@pytest.mark.parametrize(
    "setting",
    [
        {"level": 0},
        {"level": 10},
        {"mem_level": 0},
        {"mem_level": 10},
        {"max_window_bits": 8},
        {"max_window_bits": 16},
        {"min_bytes": 0},
    ],
)
def test_settings_that_cannot_be_meant(setting: dict[str, int]) -> None:
    """A bad value is refused where it is given."""
    with pytest.raises(ValueError):
        Compression(**setting)


# Receiving.


@pytest.mark.parametrize(
    "payload",
    [
        "f248cdc9c90700",  # §7.2.3.1, one block
        "000500faff48656c6c6f00",  # §7.2.3.3, a block without compression
        "f348cdc9c9070000",  # §7.2.3.4, a final block
        "f248050000 00ffffcac9c90700",  # §7.2.3.5, two blocks
        "f348cdc9c90700",  # a final block, and not the octet that belongs behind it
    ],
)
def test_hello(payload: str) -> None:
    """The examples of the RFC, whole and one byte to a frame, say Hello."""
    data = bytes.fromhex(payload)
    first, *middle, last = (data[i : i + 1] for i in range(len(data)))
    fragments = [masked(0x41, first), *(masked(0x00, byte) for byte in middle), masked(0x80, last)]
    frames = decoder()
    assert ["Hello"] == read(frames, masked(0xC1, data))
    assert ["Hello"] == read(frames, *fragments)
    assert [b"Hello"] == read(frames, masked(0xC2, data))


def test_blocks_behind_a_final_block() -> None:
    """A final block ends no message, and what follows may refer to what was before it."""
    begun = final_blocks(b"context")
    compressor = zlib.compressobj(wbits=-15, zdict=b"context")
    more = (compressor.compress(b"context") + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(more) < len(compressed(b"context"))
    assert b"contextcontext" == inflate(begun + more, 1000)
    assert b"context" * 2 == inflate(begun * 2 + b"\x00", 1000)


def test_too_many_final_blocks() -> None:
    """Each costs more than its two bytes, so there is a limit."""
    assert b"" == inflate(b"\x03\x00" * 15 + b"\x00", 10)
    assert [1008] == read(decoder(), masked(0xC1, b"\x03\x00" * 200_000))


def test_an_empty_message() -> None:
    """Nothing, and nothing compressed (§7.2.3.6), are an empty message."""
    frames = decoder()
    assert ["", b"", ""] == read(
        frames, masked(0xC1, b""), masked(0xC2, b"\x00"), masked(0x41, b"") + masked(0x80, b"")
    )


@pytest.mark.parametrize(
    "whole",
    [b"Hello, Hello, Hello", os.urandom(100), b"x" * 100_000],
    ids=["Huffman", "stored", "repeated"],
)
def test_a_message_that_breaks_off(whole: bytes) -> None:
    """Of a compressed message no part passes for the whole; one byte can be an empty message."""
    payload = compressed(whole)
    for cut in {*range(2, min(len(payload), 200)), len(payload) - 1}:
        with pytest.raises(ParseFailed) as caught:
            inflate(payload[:cut], 1 << 20)
        assert 1007 == caught.value.code


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xff\xff",
        compressed(b"Hello") + TAIL,  # the tail that was to be taken off
        compressed(b"Hello") + b"\xff",
        final_blocks(b"Hello") + b"garbage",
        b"\x00\x09\x00\xf6\xffHello",  # a block that swallows the tail
        b"\x01\x09\x00\xf6\xffHello",  # a final one
        b"\x01\x0b\x00\xf4\xffHello",
    ],
)
def test_what_is_not_deflate(payload: bytes) -> None:
    """What cannot be inflated, or has something behind it, fails with 1007."""
    assert [1007] == read(decoder(), masked(0xC2, payload))
    assert [1007] == read(decoder(), masked(0x42, payload), masked(0x80, b""))


@given(
    st.one_of(st.binary(max_size=60), st.binary(max_size=30).map(final_blocks)),
    st.sampled_from([70, 1000]),
)
def test_any_payload(payload: bytes, limit: int) -> None:
    """Nothing raises but with a code; what passes begins as zlib has it and keeps the limit."""
    plain = zlib.decompressobj(-15)
    try:
        expected = plain.decompress(payload, limit + 1)
    except zlib.error:
        expected = None
    (event,) = read(decoder(max_message_bytes=limit), masked(0xC2, payload))
    if isinstance(event, bytes):
        assert expected is not None
        assert event.startswith(expected)
        assert plain.eof or event == expected
        assert len(event) <= limit
    else:
        assert event in {1007, 1008, 1009}
        assert (event == 1009) >= (expected is not None and len(expected) > limit)


@given(
    st.lists(st.tuples(st.one_of(st.text(), st.binary(max_size=400)), st.integers(9, 15))),
    st.data(),
)
def test_what_wsproto_sends(messages: list[tuple[str | bytes, int]], data: st.DataObject) -> None:
    """What wsproto's client compresses, in fragments, cut anywhere, is what it was before."""
    stream = b""
    for message, bits in messages:
        extension = PerMessageDeflate(client_max_window_bits=bits)
        extension.finalize(ALONE)
        client = FrameProtocol(client=True, extensions=[extension])
        for _ in range(data.draw(st.integers(0, 3))):
            stream += client.send_data(message[:0], fin=False)
        stream += client.send_data(message)
    assert [message for message, _ in messages] == read(decoder(), *data.draw(cut(stream)))


@st.composite
def cut(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    """The bytes in pieces, cut anywhere."""
    places = draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
    pieces = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]
    return [piece for piece in pieces if piece]


@st.composite
def client_frames(draw: st.DrawFn) -> list[bytes]:
    """The frames of a message, mostly good ones."""
    opcode = draw(st.sampled_from([0x1, 0x2]))
    message = draw(st.one_of(st.text(max_size=40).map(str.encode), st.just(b"ab" * 100)))
    rsv1 = draw(st.sampled_from([0x40, 0x40, 0x00]))
    payload = compressed(message) if rsv1 else message
    damage = draw(st.integers(0, 11))
    if damage == 0:
        return [masked(0x80 | rsv1 | opcode, compressed(b"\xff") if rsv1 else b"\xff")]
    places = [] if message != message.decode(errors="ignore").encode() else draw(splits(payload))
    pieces = [payload[a:b] for a, b in zip([0, *places], [*places, len(payload)], strict=True)]
    firsts = [rsv1 | opcode, *(0x00 for _ in places)]
    firsts[-1] |= 0x80
    if damage == 1:
        firsts[-1] |= 0x40
    elif damage == 2:
        firsts[0] |= draw(st.sampled_from([0x10, 0x20]))
    elif damage == 3 and rsv1:
        firsts[-1] |= draw(st.sampled_from([0x1, 0x2, 0x3]))
    frames = [masked(first, piece) for first, piece in zip(firsts, pieces, strict=True)]
    if damage == 4:
        frames.append(masked(0xC9, b"ping"))
    if damage == 5:
        frames.append(masked(0x89, b"ping"))
    return frames


def splits(payload: bytes) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(payload)), max_size=3).map(sorted)


def test_a_final_block_that_the_tail_completes() -> None:
    """What is whole once the tail is put behind it is a message (§7.2.2)."""
    assert b"" == inflate(b"\x31", 100)


@given(st.lists(client_frames(), max_size=5), st.data())
def test_the_same_as_wsproto(messages: list[list[bytes]], data: st.DataObject) -> None:
    """Compressed or not, in any fragments and cuts: the same messages and close codes."""
    stream = b"".join(frame for frames in messages for frame in frames)
    expected = received(server_protocol(), stream)
    assert expected == read(decoder(), stream)
    assert expected == read(decoder(), *data.draw(cut(stream)))


@given(st.lists(st.tuples(st.binary(max_size=200), st.booleans(), st.booleans())), st.data())
@example([(b"a" * 100, True, True), (b"\xff", False, True)], None)
def test_control_frames_come_between(
    messages: list[tuple[bytes, bool, bool]], data: st.DataObject | None
) -> None:
    """A ping among the fragments is seen at once and does not end their compression."""
    stream, expected = b"", list[object]()
    for message, squeezed, pinged in messages:
        payload = compressed(message) if squeezed else message
        middle = len(payload) // 2
        stream += masked(0x42 if squeezed else 0x02, payload[:middle])
        if pinged:
            stream += masked(0x89, b"there?")
            expected.append(Ping(b"there?"))
        stream += masked(0x80, payload[middle:])
        expected.append(message)
    pieces = [stream[i : i + 1] for i in range(len(stream))]
    assert expected == read(decoder(), *(pieces if data is None else data.draw(cut(stream))))


@given(st.binary(max_size=60), st.data())
@example(masked(0x01, b"a")[:1] + masked(0xC1, b"")[1:], None)
@example(masked(0xC1, b"", declared=126)[:3], None)
def test_any_bytes(stream: bytes, data: st.DataObject | None) -> None:
    """However a stream is cut, it says the same, and nothing raises."""
    pieces = [stream[i : i + 1] for i in range(len(stream))]
    expected = read(decoder(), stream)
    assert expected == read(decoder(), *(pieces if data is None else data.draw(cut(stream))))


@pytest.mark.parametrize(
    "stream",
    [
        masked(0xC9, b""),
        masked(0xC8, b"\x03\xe8"),
        masked(0xC0, b""),
        masked(0x41, compressed(b"a")) + masked(0xC0, b""),
        masked(0x01, b"a") + masked(0xC0, b""),
        masked(0x41, b"") + masked(0xC1, b"\x00"),
        masked(0x01, b"") + masked(0xC1, b"\x00"),
        masked(0xE1, b"\x00"),
        masked(0xD1, b"\x00"),
        masked(0xC3, b"\x00"),
        b"\xc1\x01\x00",
        b"\xc1\xfe\x00\x05" + MASK + b"\x00" * 5,
    ],
)
def test_rsv1_where_it_may_not_be(stream: bytes) -> None:
    """The bit is for the first frame of a message; the others of RFC 6455 §5.2 are for none."""
    assert [1002] == read(decoder(), stream)


def test_a_header_that_comes_in_two() -> None:
    """A compressed message is begun when its header is whole, and the next is not compressed."""
    stream = masked(0xC1, compressed(b"Hello")) + masked(0x02, b"\xff") + masked(0x80, b"")
    for middle in range(len(stream)):
        assert ["Hello", b"\xff"] == read(decoder(), stream[:middle], stream[middle:])


@pytest.mark.parametrize("first", [0xC1, 0xC2, 0x41])
def test_rsv1_without_an_agreement(first: int) -> None:
    """Without an agreement a compressed message fails (RFC 6455 §5.2)."""
    plain = FrameDecoder(max_message_bytes=100, max_fragments=10)
    assert [1002] == read(plain, masked(first, compressed(b"Hello")))


@pytest.mark.parametrize("first", [0xC1, 0x41])
def test_text_is_checked_when_it_is_inflated(first: int) -> None:
    """Text that is not UTF-8 fails with 1007; as bytes it is a message."""
    stream = masked(first, compressed(b"\xff" * 10))
    assert [1007] == read(decoder(), stream + (b"" if first & 0x80 else masked(0x80, b"")))
    assert [b"\xff" * 10] == read(decoder(), masked(0xC2, compressed(b"\xff" * 10)))


def test_a_character_in_two_fragments() -> None:
    """A message is decoded whole, wherever its fragments end."""
    payload = compressed("é".encode())
    for middle in range(len(payload)):
        stream = masked(0x41, payload[:middle]) + masked(0x80, payload[middle:])
        assert ["é"] == read(decoder(), stream)


def test_just_the_limit() -> None:
    """The limit holds for the inflated message, and is allowed itself."""
    for size, expected in ((1000, b"x" * 1000), (1001, 1009)):
        payload = compressed(b"x" * size)
        assert [expected] == read(decoder(max_message_bytes=1000), masked(0xC2, payload))
        fragments = masked(0x42, payload[:3]) + masked(0x80, payload[3:])
        assert [expected] == read(decoder(max_message_bytes=1000), fragments)


@pytest.mark.parametrize("declared", [1001, 70_000, (1 << 63) - 1])
@pytest.mark.parametrize("first", [0xC2, 0x42])
def test_the_compressed_size_is_limited_too(first: int, declared: int) -> None:
    """What is declared too long fails before any of it is kept."""
    header = masked(first, b"", declared=declared)
    assert [1009] == read(decoder(max_message_bytes=1000), header)
    frames = decoder(max_message_bytes=1000)
    assert [1009] == read(frames, masked(0x42, bytes(600)), masked(0x00, bytes(401)))


@pytest.mark.parametrize("cuts", [1, 10_000])
def test_a_bomb(cuts: int) -> None:
    """50 MB out of less than 64 KiB fail with 1009 and take little more than the limit."""
    payload = compressed(bytes(50_000_000))
    assert len(payload) < 65536
    stream = masked(0xC2, payload)
    frames = decoder()
    tracemalloc.start()
    try:
        pieces = (
            [stream[i : i + cuts] for i in range(0, len(stream), cuts)] if cuts > 1 else [stream]
        )
        assert [1009] == read(frames, *pieces)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


@pytest.mark.parametrize("fragmented", [False, True])
def test_many_small_bombs(fragmented: bool) -> None:
    """Of 64 messages in one read, as many are inflated as there is room for; none is lost."""
    payload = compressed(bytes(1_000_000))
    one = masked(0xC2, payload)
    if fragmented:
        one = masked(0x42, payload) + masked(0x80, b"")
    frames = decoder(max_inflated_bytes=2_000_000)
    stream = one * 64 + masked(0x89, b"") + masked(0x88, b"\x03\xe8")
    events: list[FrameEvent] = []
    data, rounds = stream, 0
    while data or frames.held_back:
        some = frames.feed(data)
        assert sum(isinstance(event, bytes) for event in some) <= 2
        events += some
        data, rounds = b"", rounds + 1
    assert [bytes(1_000_000)] * 64 + [Ping(b""), CloseConnection(1000)] == events
    assert rounds in {32, 33}


def test_nobody_waits_for_messages() -> None:
    """A decoder that is told so inflates nothing, and still finds the Close."""
    payload = compressed(bytes(1_000_000))
    frames = decoder(max_inflated_bytes=1)
    assert [bytes(1_000_000)] == frames.feed(
        masked(0xC2, payload) * 9 + masked(0xC1, b"garbage") + masked(0x88, b"\x03\xe8")
    )
    frames.forget()
    events = read(frames, b"")
    assert frames.held_back
    while frames.held_back:
        events += read(frames, b"")
    assert [b""] * 8 + ["", CloseConnection(1000)] == events


# Sending.


def deflater(min_bytes: int = 1, bits: int = 15) -> SharedDeflater:
    return SharedDeflater(Compression(min_bytes=min_bytes), bits)


payloads = st.one_of(
    st.text().map(str.encode),
    st.tuples(st.text(min_size=1, max_size=5), st.integers(1, 300)).map(
        lambda pair: (pair[0] * pair[1]).encode()
    ),
)
our_frames = st.one_of(
    payloads.map(text_frame),
    payloads.map(binary_frame),
    st.binary(max_size=125).map(ping_frame),
    st.tuples(payloads, payloads).map(
        lambda two: whole_frame(0x01, two[0]) + ping_frame(b"") + whole_frame(0x80, two[1])
    ),
)


@given(st.lists(st.lists(our_frames, max_size=4), max_size=4), st.integers(9, 15), st.data())
def test_what_a_client_gets(batches: list[list[bytes]], bits: int, data: st.DataObject) -> None:
    """Compressed, frames are never longer and say the same to a client that keeps no context."""
    shared = deflater(data.draw(st.sampled_from([1, 20])), bits)
    client, plain = client_protocol(bits), FrameProtocol(client=True, extensions=[])
    for frames in batches:
        joined = b"".join(frames)
        deflated = shared.deflate(joined)
        assert len(deflated) <= len(joined)
        assert deflated is shared.deflate(joined)
        # wsproto forgets at a control frame among fragments whether their message is compressed
        # (it is not): a client of its own for each keeps that out of the next.
        if all(frame[0] & 0x80 for frame in frames):
            assert received(plain, joined) == received(client, *data.draw(cut(deflated)))
        else:
            assert received(FrameProtocol(True, []), joined) == received(
                client_protocol(bits), deflated
            )


@given(st.lists(payloads, min_size=1), st.integers(9, 15))
def test_every_message_stands_alone(messages: list[bytes], bits: int) -> None:
    """One compressor serves all, and what it saw before is in no later message."""
    shared = deflater(bits=bits)
    for message in messages:
        frame = shared.deflate(binary_frame(message))
        if frame[0] & 0x40:
            payload = frame[2 if frame[1] < 126 else 4 if frame[1] < 127 else 10 :]
            assert message == zlib.decompressobj(-bits).decompress(payload + TAIL)
            assert message == inflate(payload, len(message))


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 200_000])
def test_all_forms_of_the_length(size: int) -> None:
    """Frames of every size are found among others, compressed, and put in their places."""
    frames = [b"\x89\x00", text_frame(b"x" * size), b"\x8a\x00", binary_frame(os.urandom(size))]
    deflated = deflater().deflate(b"".join(frames))
    assert received(FrameProtocol(True, []), *frames) == received(client_protocol(), deflated)
    assert deflated.endswith(b"\x8a\x00" + frames[3])
    assert len(deflated) < 1000 + len(frames[3])


def test_a_short_message_is_left_alone() -> None:
    """Below ``min_bytes`` nothing is compressed, alone or joined to others."""
    shared = deflater(min_bytes=100)
    short, long = text_frame(b"x" * 99), text_frame(b"x" * 100)
    assert short is shared.deflate(short)
    assert short * 3 == shared.deflate(short * 3)
    assert 0 == shared.compressed
    assert shared.deflate(short + long).startswith(short + b"\xc1")


@pytest.mark.parametrize(
    "frames",
    [
        b"",
        b"\x81",
        b"\x81\x7e\x01",
        b"\x81\x05abcd",
        masked(0x81, b"x" * 100),
        b"\xc1\x03abc" + b"y" * 100,
        text_frame(os.urandom(500)),
        whole_frame(0x01, b"x" * 100) + whole_frame(0x80, b"x" * 100),
    ],
)
def test_what_is_not_ours_to_compress(frames: bytes) -> None:
    """What would not shrink, fragments, and bytes that are no frames go out as they came."""
    assert frames == deflater().deflate(frames)


def test_one_compression_for_all() -> None:
    """The same publication is compressed once for each window, whatever it is joined to."""
    deflaters = Deflaters(Compression(min_bytes=1))
    shared = deflaters.shared(Agreement(15, b"one"))
    assert shared is deflaters.shared(Agreement(15, b"another"))
    assert shared is not deflaters.shared(Agreement(14, b"one"))
    news, chat = text_frame(b"news" * 100), text_frame(b"chat" * 100)
    for _ in range(100):
        shared.deflate(news)
    assert 1 == shared.compressed
    for _ in range(100):
        shared.deflate(b"".join([news, chat]))
        shared.deflate(b"".join([chat, news]))
        shared.deflate(b"".join([chat]))
    assert 2 == shared.compressed


def test_what_is_remembered_is_bounded() -> None:
    """Frames are forgotten, the oldest first, once they are too many bytes."""
    shared = deflater()
    frames = [binary_frame(b"%d" % i * 100_000) for i in range(10, 99)]
    tracemalloc.start()
    try:
        for frame in frames:
            shared.deflate(bytes(bytearray(frame)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 6 * 1024 * 1024
    count = shared.compressed
    shared.deflate(frames[-2])
    assert count == shared.compressed
    shared.deflate(frames[0])
    assert count + 1 == shared.compressed


def test_an_interrupt_while_compressing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks off one compression, a Ctrl-C even, leaves nothing of it in the next."""
    shared = deflater()

    class Interrupted:
        def __init__(self) -> None:
            self.inner = zlib.compressobj(wbits=-15)

        def compress(self, data: bytes) -> bytes:
            return self.inner.compress(data)

        def flush(self, mode: int) -> bytes:
            raise KeyboardInterrupt

    def interrupted(_: SharedDeflater) -> Interrupted:
        return Interrupted()

    with monkeypatch.context() as patch:
        patch.setattr(SharedDeflater, "_new_compressor", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shared.deflate(text_frame(b"secret" * 100))
    deflated = shared.deflate(text_frame(b"public" * 100))
    assert ["public" * 100] == received(client_protocol(), deflated)
