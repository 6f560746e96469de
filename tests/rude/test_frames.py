"""Frames that break the protocol or a limit end in a Close frame, then in an end of file."""

import struct
import zlib
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio_websocket import CloseReason, ConnectionClosed

from tests.rude.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    close,
    frame,
    handshake,
    text,
)
from tests.rude.site import GUARD, Serve, echo
from trio_gateway import Limits, Upgrade

LIMIT = 1000
LIMITS = Limits(max_message_bytes=LIMIT, max_fragments=50)

over_each = pytest.mark.parametrize("transport", ["tcp", "tls", "unix"], indirect=True)


def deflated(message: bytes) -> bytes:
    compress = zlib.compressobj(wbits=-15)
    return compress.compress(message) + compress.flush(zlib.Z_SYNC_FLUSH)[:-4]


FAILED: dict[str, tuple[list[bytes], int]] = {
    # RFC 6455 §5.1–5.2
    "unmasked": ([frame(TEXT, b"hello", masked=False)], 1002),
    "unmasked ping": ([frame(PING, masked=False)], 1002),
    "RSV1": ([frame(TEXT, b"hello", reserved=4)], 1002),
    "RSV2": ([frame(TEXT, b"hello", reserved=2)], 1002),
    "RSV3": ([frame(TEXT, b"hello", reserved=1)], 1002),
    "compressed though declined": ([frame(TEXT, deflated(b"hello"), reserved=4)], 1002),
    "opcode 3": ([frame(3)], 1002),
    "opcode 11": ([frame(11)], 1002),
    "two bytes for a short length": ([frame(TEXT, b"hello", size_bytes=2)], 1002),
    "eight bytes for a short length": ([frame(TEXT, b"hello", size_bytes=8)], 1002),
    "a length of 2**63": ([frame(BINARY, declared=2**63)], 1002),
    # §5.4
    "continuation of nothing": ([frame(CONTINUATION, b"hello")], 1002),
    "text inside a text": ([frame(TEXT, b"a", fin=False), text("b")], 1002),
    "binary inside a text": ([frame(TEXT, b"a", fin=False), frame(BINARY, b"b", fin=False)], 1002),
    # §5.5
    "fragmented ping": ([frame(PING, fin=False)], 1002),
    "fragmented close": ([frame(CLOSE, fin=False)], 1002),
    "ping of 126 bytes": ([frame(PING, bytes(126))], 1002),
    "close of 126 bytes": ([frame(CLOSE, struct.pack("!H", 1000) + b"x" * 124)], 1002),
    "close of one byte": ([frame(CLOSE, b"\x03")], 1002),
    "close with 999": ([close(999)], 1002),
    "close with 1004": ([close(1004)], 1002),
    "close with 1005": ([close(1005)], 1002),
    "close with 1006": ([close(1006)], 1002),
    "close with 1015": ([close(1015)], 1002),
    "close with 2999": ([close(2999)], 1002),
    "close with 5000": ([close(5000)], 1002),
    "close with 65535": ([close(65535)], 1002),
    # §8.1
    "text that is no UTF-8": ([frame(TEXT, b"caf\xe9")], 1007),
    "text with a surrogate": ([frame(TEXT, b"\xed\xa0\x80")], 1007),
    "text cut within a character": ([frame(TEXT, "é".encode()[:1])], 1007),
    "no UTF-8 in a fragment": ([frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"\xff")], 1007),
    "no UTF-8, and more to come": ([frame(TEXT, b"caf\xe9t", fin=False)], 1007),
    "reason that is no UTF-8": ([close(1000, b"\xff")], 1007),
    # Limits, in bytes
    "one frame too big": ([frame(BINARY, bytes(LIMIT + 1))], 1009),
    "one header of 2**62 bytes": ([frame(BINARY, declared=2**62)], 1009),
    "too many bytes in few characters": ([text("é" * (LIMIT // 2 + 1))], 1009),
    "fragments too big": (
        [frame(BINARY, bytes(LIMIT), fin=False), frame(CONTINUATION, b"x", fin=False)],
        1009,
    ),
    "empty fragments": (
        [frame(TEXT, fin=False), b"".join([frame(CONTINUATION, fin=False)] * 50)],
        1009,
    ),
    "fragments of one byte": (
        [frame(TEXT, b"x", fin=False), *[frame(CONTINUATION, b"x", fin=False)] * 50],
        1009,
    ),
    # No WebSocket at all
    "a second handshake": ([handshake()], 1002),
    "a plain request": ([b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n"], 1002),
    "a TLS ClientHello": ([bytes.fromhex("16030100750100007103034b1f") + bytes(100)], 1002),
    "0xFF": ([b"\xff" * 100], 1002),
}

failed = pytest.mark.parametrize("segments, code", FAILED.values(), ids=FAILED.keys())


async def check_failure(peer: Peer, code: int) -> None:
    (last,) = await peer.frames(answer_close=False)
    assert code == last.code
    assert last.reason


@over_each
@failed
async def test_it_ends_in_a_close_frame(serve: Serve, segments: list[bytes], code: int) -> None:
    """The client learns what was wrong, reads an end of file, and the handler the same code."""
    reasons = list[CloseReason | None]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        with pytest.raises(ConnectionClosed) as closed:
            await connection.get_message()
        reasons.append(closed.value.reason)
        assert closed.value.reason == connection.closed

    site = await serve(handler, limits=LIMITS)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await peer.send(*segments)
            await check_failure(peer, code)
    await site.settle()
    assert [reason and reason.code for reason in reasons] == [code]
    assert not site.now.handler_failures


@failed
async def test_it_ends_in_a_close_frame_right_behind_the_request(
    serve: Serve, segments: list[bytes], code: int
) -> None:
    """All of it in one segment: a 101, a Close frame, and not one byte of HTTP behind them."""
    site = await serve(echo, limits=LIMITS)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade(behind=b"".join(segments))
            await check_failure(peer, code)
    await site.settle()


@pytest.mark.parametrize("transport", ["tcp", "tls"], indirect=True)
@failed
async def test_its_sender_hangs_up_rudely(serve: Serve, segments: list[bytes], code: int) -> None:
    """An RST right behind what is wrong, and one in the middle of it."""
    site = await serve(echo, limits=LIMITS)
    whole = b"".join(segments)
    for cut in (len(whole), len(whole) // 2, 1):
        with trio.fail_after(GUARD):
            peer = await site.connect()
            await peer.upgrade()
            await peer.send(whole[:cut])
            await peer.reset()
    await site.settle()


@over_each
async def test_a_close_frame_survives_a_flood_behind_the_fault(serve: Serve) -> None:
    """What the client still sends is read and forgotten: an RST would destroy the Close frame."""
    site = await serve(echo, limits=LIMITS)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await peer.send(frame(BINARY, bytes(500_000)))
            await check_failure(peer, 1009)
    await site.settle()


@over_each
async def test_an_answer_survives_a_flood_behind_the_request(serve: Serve) -> None:
    """The same before the upgrade: the refusal is read to its end."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(b"NONSENSE\r\n\r\n" + bytes(500_000))
            assert (await peer.answer()).status == 400
            assert await peer.rest() == b""
    await site.settle()


CLOSES: dict[str, tuple[bytes, int, str | None]] = {
    "normal": (close(1000), 1000, None),
    "going away": (close(1001, b"tab closed"), 1001, "tab closed"),
    "no code": (close(None), 1005, None),
    "ours": (close(4999, "à bientôt".encode()), 4999, "à bientôt"),
    "a reason of 123 bytes": (close(3000, b"x" * 123), 3000, "x" * 123),
}


@over_each
@pytest.mark.parametrize("sent, code, reason", CLOSES.values(), ids=CLOSES.keys())
async def test_a_close_is_answered_with_its_code(
    serve: Serve, sent: bytes, code: int, reason: str | None
) -> None:
    """Both sides know the same code; the reason reaches the handler."""
    reasons = list[CloseReason | None]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        async for _ in connection:
            pass
        reasons.append(connection.closed)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await peer.send(sent)
            (answer,) = await peer.frames(answer_close=False)
            assert code == answer.code
    await site.settle()
    (seen,) = reasons
    assert seen is not None
    assert (code, reason) == (seen.code, seen.reason)


Script = Callable[[Peer], Awaitable[None]]


async def pings_us(peer: Peer) -> None:
    await peer.send(frame(PING, b"are you closing?"), close(1000))


async def sends_too_much(peer: Peer) -> None:
    await peer.send(frame(BINARY, bytes(LIMIT + 1)), close(1000))


async def breaks_the_protocol(peer: Peer) -> None:
    await peer.send(frame(11), close(1000))


async def sends_messages(peer: Peer) -> None:
    await peer.send(*[text("still talking")] * 10, close(1000))


async def closes_twice(peer: Peer) -> None:
    await peer.send(close(1001) + close(1000))


async def half_closes(peer: Peer) -> None:
    peer.send_eof()


async def resets(peer: Peer) -> None:
    await peer.reset()


@over_each
@pytest.mark.parametrize(
    "script",
    [
        pings_us,
        sends_too_much,
        breaks_the_protocol,
        sends_messages,
        closes_twice,
        half_closes,
        resets,
    ],
)
async def test_rudeness_while_the_gateway_is_closing(serve: Serve, script: Script) -> None:
    """A PING or too big a message between our Close and theirs killed trio-websocket."""
    ended = list[CloseReason | None]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        await connection.aclose(4000, "enough")
        ended.append(connection.closed)

    site = await serve(handler, limits=LIMITS)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            assert await peer.frame() == Frame(CLOSE, struct.pack("!H", 4000) + b"enough")
            await script(peer)
            if script is not resets:
                assert await peer.rest() == b""
    await site.settle()
    (reason,) = ended
    assert reason is not None
    assert reason.code == 4000


@over_each
async def test_pings_and_pongs_of_every_size(serve: Serve) -> None:
    """Each ping gets its pong, also inside a message; a pong nobody asked for is ignored."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            for payload in (b"", b"x", bytes(125)):
                await peer.send(frame(PONG, payload), frame(PING, payload))
                assert await peer.frame() == Frame(PONG, payload)
            await peer.send(frame(TEXT, b"one ", fin=False), frame(PING, b"now"))
            assert await peer.frame() == Frame(PONG, b"now")
            await peer.send(frame(CONTINUATION, b"message"))
            assert await peer.frame() == Frame(TEXT, b"one message")
    await site.settle()


@over_each
async def test_messages_at_the_limit(serve: Serve) -> None:
    """The limit itself is allowed, whole, in fragments, and in characters of two bytes."""
    site = await serve(echo, limits=LIMITS)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await peer.send(frame(BINARY, bytes(LIMIT)))
            assert await peer.frame() == Frame(BINARY, bytes(LIMIT))
            await peer.send(text("é" * (LIMIT // 2)))
            assert await peer.frame() == Frame(TEXT, "é".encode() * (LIMIT // 2))
            half = bytes(LIMIT // 2)
            await peer.send(frame(BINARY, half, fin=False), frame(CONTINUATION, half))
            assert await peer.frame() == Frame(BINARY, bytes(LIMIT))
            parts = [frame(BINARY, b"x", fin=False), *[frame(CONTINUATION, b"x", fin=False)] * 48]
            await peer.send(b"".join([*parts, frame(CONTINUATION, b"x")]))
            assert await peer.frame() == Frame(BINARY, b"x" * 50)
    await site.settle()


async def test_frames_byte_by_byte(serve: Serve) -> None:
    """The cuts between segments mean nothing."""
    site = await serve(echo)
    stream = text("a") + frame(TEXT, "é".encode()[:1], fin=False) + frame(PING)
    stream += frame(CONTINUATION, "é".encode()[1:]) + text("x" * 130) + close(1000)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await peer.send(*[bytes([byte]) for byte in stream])
            assert await peer.frames(answer_close=False) == [
                Frame(TEXT, b"a"),
                Frame(PONG, b""),
                Frame(TEXT, "é".encode()),
                Frame(TEXT, b"x" * 130),
                Frame(CLOSE, struct.pack("!H", 1000)),
            ]
    await site.settle()
