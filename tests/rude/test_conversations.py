"""After the 101: what a handler does wrong or leaves undone, and its client meanwhile."""

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from tests.rude.peer import (
    BINARY,
    CLOSE,
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
from tests.rude.site import GUARD, PATIENT, Serve, code_of, echo, until
from trio_gateway import Connection, Heartbeat, Limits, Timeouts, Upgrade
from trio_gateway.handshake.upgrade import _Early

over_each = pytest.mark.parametrize("transport", ["tcp", "tls", "unix"], indirect=True)
over_tcp_and_tls = pytest.mark.parametrize("transport", ["tcp", "tls"], indirect=True)

Misuse = Callable[[Connection], Awaitable[object]]

MISUSES: dict[str, Misuse] = {
    "aclose(70000)": lambda ws: ws.aclose(70000),
    "aclose(999)": lambda ws: ws.aclose(999),
    "aclose(0)": lambda ws: ws.aclose(0),
    "aclose(-1)": lambda ws: ws.aclose(-1),
    "aclose(1004)": lambda ws: ws.aclose(1004),
    "aclose(1005)": lambda ws: ws.aclose(1005),
    "aclose(1006)": lambda ws: ws.aclose(1006),
    "aclose(1015)": lambda ws: ws.aclose(1015),
    "aclose(2999)": lambda ws: ws.aclose(2999),
    "aclose(5000)": lambda ws: ws.aclose(5000),
    "aclose with a lone surrogate": lambda ws: ws.aclose(1000, "\ud800"),
    "sending a lone surrogate": lambda ws: ws.send_message("\ud800"),
    "sending a number": lambda ws: ws.send_message(cast(Any, 42)),
    "sending None": lambda ws: ws.send_message(cast(Any, None)),
    "a ping of 126 bytes": lambda ws: ws.ping(bytes(126)),
    "a pong of 126 bytes": lambda ws: ws.pong(bytes(126)),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES.keys())
async def test_a_misuse_raises_in_the_handler_alone(serve: Serve, misuse: Misuse) -> None:
    """A ValueError, no byte, and the connection goes on."""

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        with pytest.raises(ValueError):
            await misuse(connection)
        assert connection.closed is None
        await connection.send_message(await connection.get_message())

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await peer.send(text("still there?"))
            message, last = await peer.frames()
            assert message == Frame(TEXT, b"still there?")
            assert last.code == 1000
    await site.settle()
    assert not site.now.handler_failures


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES.keys())
async def test_a_misuse_that_nobody_catches(serve: Serve, misuse: Misuse) -> None:
    """The handler failed: 1011 for this client, nothing for the others."""

    async def handler(upgrade: Upgrade) -> None:
        await misuse(await upgrade.accept())

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            (last,) = await peer.frames()
            assert last.code == 1011
    await site.settle()
    assert site.now.handler_failures == 1


async def test_two_pings_with_one_payload(serve: Serve) -> None:
    """The second raises; the first is answered."""

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.ping, b"same")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ValueError):
                await connection.ping(b"same")
            await connection.send_message("go on")

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            assert await peer.frame() == Frame(PING, b"same")
            assert await peer.frame() == Frame(TEXT, b"go on")
            await peer.send(frame(PONG, b"same"))
            (last,) = await peer.frames()
            assert last.code == 1000
    await site.settle()


async def test_a_reason_that_is_too_long(serve: Serve) -> None:
    """It is cut between characters, not within one."""

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        await connection.aclose(4000, "é" * 100)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            (last,) = await peer.frames()
            assert (4000, "é" * 61) == (last.code, last.reason)
    await site.settle()


async def everything_after_the_end(connection: Connection) -> None:
    """Each call says that the connection is closed; closing it again is no error."""
    for call in (
        connection.get_message,
        lambda: connection.send_message("too late"),
        lambda: connection.send_message(b"too late"),
        connection.ping,
        connection.pong,
    ):
        with pytest.raises(ConnectionClosed) as raised:
            await call()
        assert raised.value.reason == connection.closed
    await connection.aclose()
    await connection.aclose(4000, "again")


@over_each
async def test_a_handler_that_goes_on_after_the_end(serve: Serve) -> None:
    """After its own aclose(), and after the client is gone."""
    codes = list[int | None]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        if upgrade.path == "/ours":
            await connection.aclose(4321)
        else:
            with pytest.raises(ConnectionClosed):
                await connection.get_message()
        await everything_after_the_end(connection)
        codes.append(code_of(connection.closed))

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade("/ours")
            await peer.frames()
        async with await site.connect() as peer:
            await peer.upgrade("/theirs")
            await peer.send(close(3000))
            await peer.rest()
        peer = await site.connect()
        await peer.upgrade("/rst")
        await peer.reset()
    await site.settle()
    assert codes == [4321, 3000, 1006]


@over_each
async def test_a_handler_that_never_reads(serve: Serve) -> None:
    """Its client's pings are answered and so is its Close, whatever lies unread before them."""
    ended = trio.Event()

    async def handler(upgrade: Upgrade) -> None:
        await upgrade.accept()
        await ended.wait()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await peer.send(*[text("unread")] * 20, frame(PING, b"hello?"))
            assert await peer.frame() == Frame(PONG, b"hello?")
            await peer.send(close(1001))
            (last,) = await peer.frames(answer_close=False)
            assert last.code == 1001
    with trio.fail_after(GUARD):
        await until(lambda: not site.now.sockets)
    ended.set()
    await site.settle()


@over_each
async def test_messages_before_the_close_are_still_read(serve: Serve) -> None:
    """A handler that was busy gets what came in before the client closed, then the reason."""
    busy = trio.Event()
    seen = list[object]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        await busy.wait()
        async for message in connection:
            seen.append(message)
        seen.append(code_of(connection.closed))

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await peer.send(text("one") + text("two") + frame(BINARY, b"three") + close(1000))
            await peer.rest()
    busy.set()
    await site.settle()
    assert seen == ["one", "two", b"three", 1000]


class Flood:
    """A client that sends for as long as anybody takes it."""

    def __init__(self, peer: Peer, piece: bytes) -> None:
        self.sent = 0
        self._peer = peer
        self._piece = piece

    async def until_blocked(self) -> None:
        """Send until the gateway has not taken a byte for a while."""
        stuck = False
        while not stuck:
            with trio.move_on_after(0.2) as scope:
                await self._peer.stream.send_all(self._piece)
                self.sent += len(self._piece)
            stuck = scope.cancelled_caught


KERNEL = 16 * 1024 * 1024
"""More than both sockets' buffers hold on any Linux."""


@over_tcp_and_tls
async def test_input_before_the_decision_is_bounded(serve: Serve) -> None:
    """trio-websocket took 30 MB here; the gateway stops reading until the decision."""
    decide = trio.Event()
    undecided = list[Upgrade]()
    received = 0

    async def handler(upgrade: Upgrade) -> None:
        nonlocal received
        undecided.append(upgrade)
        await decide.wait()
        connection = await upgrade.accept()
        async for message in connection:
            received += len(message)

    site = await serve(handler)
    with trio.fail_after(2 * GUARD):
        async with await site.connect() as peer:
            piece = frame(BINARY, bytes(65536))
            flood = Flood(peer, piece)
            await peer.send(handshake())
            await flood.until_blocked()
            assert flood.sent < KERNEL
            assert received == 0
            early = undecided[0].link.receiver
            assert isinstance(early, _Early)
            assert early._size < 128 * 1024
    decide.set()
    await site.settle()


@over_tcp_and_tls
async def test_input_for_a_handler_that_does_not_read_is_bounded(serve: Serve) -> None:
    """The client is held back, and every message is there when the handler reads at last."""
    read = trio.Event()
    received = list[str | bytes]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        await read.wait()
        async for message in connection:
            received.append(message)

    site = await serve(handler)
    with trio.fail_after(2 * GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            sent = 0
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    nonlocal sent
                    with trio.move_on_after(GUARD):
                        while not read.is_set():
                            await peer.stream.send_all(frame(BINARY, bytes(65536)))
                            sent += 1
                    await peer.stream.send_all(close(1000))

                nursery.start_soon(send)
                before = -1
                while before != sent:
                    before = sent
                    await trio.sleep(0.2)
                assert sent * 65536 < KERNEL
                read.set()
            (last,) = await peer.frames(answer_close=False)
            assert last.code == 1000
    await site.settle()
    assert received == [bytes(65536)] * sent


@over_each
async def test_early_frames_are_delivered(serve: Serve) -> None:
    """Frames in the request's segment, and frames before the decision, come first and in order."""
    decide = trio.Event()
    seen = list[str | bytes]()

    async def handler(upgrade: Upgrade) -> None:
        await decide.wait()
        connection = await upgrade.accept()
        async for message in connection:
            seen.append(message)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake() + text("one") + text("two")[:3])
            await peer.send(text("two")[3:], text("three"), frame(PING, b"early"))
            decide.set()
            assert (await peer.answer()).status == 101
            assert await peer.frame() == Frame(PONG, b"early")
            await peer.send(text("four"), close(1000))
            await peer.rest()
    await site.settle()
    assert seen == ["one", "two", "three", "four"]


@over_each
async def test_an_early_close_and_an_early_half_close(serve: Serve) -> None:
    """The client has said all before it is accepted: it still gets its 101 and its Close."""
    decide = trio.Event()
    seen = list[object]()

    async def handler(upgrade: Upgrade) -> None:
        await decide.wait()
        connection = await upgrade.accept()
        async for message in connection:
            seen.append(message)
        seen.append(code_of(connection.closed))

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake() + text("all") + close(1000))
            if not isinstance(peer.stream, trio.SSLStream):  # a FIN under TLS breaks its stream
                peer.send_eof()
            await trio.testing.wait_all_tasks_blocked()
            decide.set()
            assert (await peer.answer()).status == 101
            assert [last.code for last in await peer.frames(answer_close=False)] == [1000]
    await site.settle()
    assert seen == ["all", 1000]


@over_each
@pytest.mark.parametrize("segments", [1, 2], ids=["in one segment", "behind the 101"])
async def test_a_second_handshake(serve: Serve, segments: int) -> None:
    """Pipelined or later, it is no HTTP any more: a frame error, 1002, and no second handler."""
    handlers = 0

    async def handler(upgrade: Upgrade) -> None:
        nonlocal handlers
        handlers += 1
        connection = await upgrade.accept()
        async for _ in connection:
            pass

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            if segments == 1:
                await peer.upgrade(behind=handshake("/healthy"))
            else:
                await peer.upgrade()
                await peer.send(handshake("/healthy"))
            everything = await peer.rest()
    assert everything[:1] == b"\x88"
    assert everything[1] == len(everything) - 2
    assert everything[2:4] == struct.pack("!H", 1002)
    await site.settle()
    assert handlers == 1


@over_each
async def test_a_second_handshake_behind_a_refused_one(serve: Serve) -> None:
    """The first answer says close; what is behind it is not answered."""

    async def handler(upgrade: Upgrade) -> None:
        await upgrade.reject(403)

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake() + handshake("/healthy"))
            assert (await peer.answer()).status == 403
            assert await peer.rest() == b""
    await site.settle()


@over_tcp_and_tls
async def test_a_cancelled_send_sends_all_or_nothing(serve: Serve) -> None:
    """After many sends, cancelled while the client did not read, its stream is whole frames."""
    finished = trio.Event()
    outcome: dict[int, bool] = {}

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        for number in range(200):
            with trio.move_on_after(0.001) as scope:
                await connection.send_message(number.to_bytes(2, "big") + bytes(100_000))
            outcome[number] = not scope.cancelled_caught
        finished.set()
        await connection.get_message()

    site = await serve(handler, timeouts=PATIENT)
    received = list[int]()
    with trio.fail_after(2 * GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await finished.wait()
            await peer.send(text("enough"))
            *messages, last = await peer.frames()
            for message in messages:
                assert message.opcode == BINARY
                assert message.payload[2:] == bytes(100_000)
                received.append(int.from_bytes(message.payload[:2], "big"))
            assert last.code == 1000
    await site.settle()
    assert not all(outcome.values())
    assert received == [number for number, sent in outcome.items() if sent]


async def waits_for_a_ping(connection: Connection) -> None:
    await connection.ping(b"anybody?")


async def waits_for_a_message(connection: Connection) -> None:
    await connection.get_message()


async def waits_for_room(connection: Connection) -> None:
    while True:
        await connection.send_message(bytes(100_000))


async def waits_for_the_end(connection: Connection) -> None:
    await connection.aclose(4000)
    raise ConnectionClosed(connection.closed)


@over_each
@pytest.mark.parametrize(
    "wait", [waits_for_a_ping, waits_for_a_message, waits_for_room, waits_for_the_end]
)
@pytest.mark.parametrize("death", ["RST", "FIN"])
async def test_whoever_waits_is_woken_when_the_peer_dies(
    serve: Serve, wait: Callable[[Connection], Awaitable[None]], death: str
) -> None:
    """trio-websocket's ping() slept for ever."""
    codes = list[int | None]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        with pytest.raises(ConnectionClosed) as raised:
            await wait(connection)
        codes.append(code_of(raised.value.reason))

    site = await serve(handler)
    with trio.fail_after(GUARD):
        peer = await site.connect()
        await peer.upgrade()
        await trio.testing.wait_all_tasks_blocked(0.01)
        if death == "RST":
            await peer.reset()
        else:
            await trio.aclose_forcefully(peer.stream)
    await site.settle()
    assert codes == [4000 if wait is waits_for_the_end else 1006]


@over_each
async def test_a_later_pong_answers_earlier_pings(serve: Serve) -> None:
    """RFC 6455 §5.5.3: a peer may answer the latest ping alone."""
    answered = list[bytes]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()

        async def ping(payload: bytes) -> None:
            await connection.ping(payload)
            answered.append(payload)

        async with trio.open_nursery() as nursery:
            for payload in (b"1", b"2", b"3"):
                nursery.start_soon(ping, payload)
                await trio.testing.wait_all_tasks_blocked()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            assert [(await peer.frame()).payload for _ in range(3)] == [b"1", b"2", b"3"]
            await peer.send(frame(PONG, b"2"))
            await until(lambda: len(answered) == 2)
            await peer.send(frame(PONG, b"3"))
            (last,) = await peer.frames()
            assert last.code == 1000
    await site.settle()
    assert sorted(answered) == [b"1", b"2", b"3"]


@over_each
async def test_a_client_that_never_answers_a_close(serve: Serve) -> None:
    """It is dropped after ``closing_timeout``; the handler's reason is its own."""
    codes = list[int | None]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        await connection.aclose(4000)
        codes.append(code_of(connection.closed))

    site = await serve(handler, timeouts=Timeouts(closing_timeout=0.1, linger_timeout=0.1))
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            assert (await peer.frame()).code == 4000
            assert await peer.rest() == b""
    await site.settle()
    assert codes == [4000]


@over_each
async def test_a_client_that_answers_no_ping(serve: Serve) -> None:
    """The gateway's heartbeat finds it and closes with 4408."""
    codes = list[int | None]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        async for _ in connection:
            pass
        codes.append(code_of(connection.closed))

    heartbeat = Heartbeat(interval=0.1, pong_timeout=0.1)
    site = await serve(handler, heartbeat=heartbeat, timeouts=Timeouts(closing_timeout=0.1))
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            ping, last = await peer.frames(answer_close=False)
            assert ping.opcode == PING
            assert last.code == 4408
    await site.settle()
    assert codes == [4408]


@over_tcp_and_tls
async def test_a_client_that_never_reads(serve: Serve) -> None:
    """Its handler's sends wait, then it is a slow consumer: 1013, and dropped."""
    codes = list[int | None]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        with pytest.raises(ConnectionClosed):
            await waits_for_room(connection)
        codes.append(code_of(connection.closed))

    site = await serve(handler, timeouts=Timeouts(send_timeout=0.1, closing_timeout=0.1))
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await until(lambda: codes)
            await until(lambda: not site.now.sockets)
    await site.settle()
    assert codes == [1013]


@over_tcp_and_tls
async def test_a_client_that_pings_and_never_reads(serve: Serve) -> None:
    """Pongs that nobody fetches are bounded like everything else."""
    codes = list[int | None]()

    async def handler(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        async for _ in connection:
            pass
        codes.append(code_of(connection.closed))

    site = await serve(
        handler,
        limits=Limits(max_outbox_bytes=10_000),
        timeouts=Timeouts(send_timeout=0.2, closing_timeout=0.2),
    )
    with trio.fail_after(2 * GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            with suppress(trio.BrokenResourceError):
                while True:
                    await peer.send(frame(PING, bytes(125)) * 100)
    await site.settle()
    assert codes in ([1013], [4429])


async def test_pongs_to_a_handler_that_leaves_at_once(serve: Serve) -> None:
    """The gateway's Close and the client's ping cross; both sides end in order."""

    async def handler(upgrade: Upgrade) -> None:
        await upgrade.accept()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        for _ in range(10):
            async with await site.connect() as peer:
                await peer.upgrade(behind=frame(PING, b"x") * 3)
                frames = await peer.frames()
                assert frames[-1] == Frame(CLOSE, struct.pack("!H", 1000))
    await site.settle()


@pytest.mark.parametrize(
    "transport, end",
    [("tcp", "return"), ("tls", "return"), ("tcp", "aclose"), ("tcp", "rejection")],
    indirect=["transport"],
)
async def test_a_slow_reader_gets_everything(serve: Serve, end: str) -> None:
    """It reads on, though slowly: ``closing_timeout`` is for a Close that it has been sent."""
    size = 12 * 1024 * 1024

    async def handler(upgrade: Upgrade) -> None:
        if end == "rejection":
            await upgrade.reject(403, body=bytes(size))
            return
        connection = await upgrade.accept()
        await connection.send_message(bytes(size))
        if end == "aclose":
            await connection.aclose()

    site = await serve(handler, timeouts=Timeouts(closing_timeout=0.6))
    with trio.fail_after(2 * GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            piece = size // 10
            for _ in range(8):
                await trio.sleep(0.1)
                await peer.exactly(piece)
            received = 8 * piece + len(await peer.rest())
    assert received > size
    await site.settle()


@over_each
async def test_a_client_that_does_not_hang_up_after_its_fault(serve: Serve) -> None:
    """It has had its Close frame; it holds its socket for ``linger_timeout`` and no longer."""
    site = await serve(echo, timeouts=Timeouts(linger_timeout=0.1))
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await peer.send(frame(BINARY, declared=2**40))
            assert (await peer.frame()).code == 1009
            await until(lambda: not site.now.sockets)
    await site.settle()
