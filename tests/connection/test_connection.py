"""The connection: no message lost, no send cut, every control frame answered, one close reason."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection

from tests.connection.wire import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Frame,
    close,
    closing,
    from_server,
    text,
    to_server,
)
from tests.handshake.heads import handshake, read_head
from tests.transport.fakes import FakeLink, link_setup, on_virtual_time, url
from trio_gateway.connection.connection import Connection
from trio_gateway.connection.frames import text_frame
from trio_gateway.settings import Heartbeat, Limits, Timeouts
from trio_gateway.transport.outbox import Verdict
from trio_gateway.transport.timers import Timers

KIB = 1024
TICK = 1 / 16
GARBAGE = b"\xff\xff"
NO_HEARTBEAT = Heartbeat(interval=math.inf)
TIMEOUTS = Timeouts(closing_timeout=10, linger_timeout=2, send_timeout=30)


class Desk:
    """Notes what a gateway is told."""

    def __init__(self) -> None:
        self.closes: list[CloseReason | None] = []

    def closed(self, connection: Connection) -> None:
        self.closes.append(connection.closed)


class World:
    """A connection over a link without a socket; the peer sends with ``feed()``."""

    def __init__(
        self,
        *,
        timers: Timers | None = None,
        limits: Limits | None = None,
        heartbeat: Heartbeat = NO_HEARTBEAT,
        capacity: float = math.inf,
        max_outbox_bytes: int = KIB * KIB,
    ) -> None:
        setup = link_setup(timers=timers, timeouts=TIMEOUTS, max_outbox_bytes=max_outbox_bytes)
        self.link = FakeLink(setup, capacity=capacity)
        self.desk = Desk()
        self.connection = Connection(
            self.link,
            head=read_head(handshake(b"Cookie: a=b", target="/chat?user=ann")),
            subprotocol="chat",
            limits=limits or Limits(),
            heartbeat=heartbeat,
            desk=self.desk,
        )
        self.link.enter(self.connection)

    def feed(self, *data: bytes) -> None:
        self.link.feed(b"".join(data))

    def read(self) -> list[Frame]:
        """Return the frames the peer has got since the last call."""
        return from_server(self.link.read())

    @property
    def reason(self) -> tuple[int, str | None] | None:
        closed = self.connection.closed
        return None if closed is None else (int(closed.code), closed.reason)


@pytest.fixture
async def timers(nursery: trio.Nursery) -> Timers:
    timers = Timers()
    nursery.start_soon(timers.run)
    return timers


async def closed_reason(awaitable: Awaitable[object]) -> int:
    """Return the code of the ConnectionClosed that this must raise."""
    with pytest.raises(ConnectionClosed) as told:
        await awaitable
    assert told.value.reason is not None
    return int(told.value.reason.code)


# What a handler sees.


async def test_trio_websockets_names() -> None:
    """It is one of its connections, on the server's side, and knows the request."""
    world = World()
    connection: WebSocketConnection = world.connection
    assert isinstance(connection, WebSocketConnection)
    assert (False, True, None) == (connection.is_client, connection.is_server, connection.closed)
    assert ("/chat?user=ann", "chat") == (connection.path, connection.subprotocol)
    assert (b"cookie", b"a=b") in connection.handshake_headers
    assert b"host" not in dict(connection.handshake_headers)
    assert ["ws://192.0.2.7:50000", "ws://192.0.2.1:443"] == [
        url(connection.remote),
        url(connection.local),
    ]


async def test_connections_have_names() -> None:
    """Each its own, that stays."""
    one, other = World().connection, World().connection
    assert one.id == one.id != other.id
    assert str(one) != str(other)


def test_every_public_name_is_ours() -> None:
    """The base class's ``__init__`` is not called, so nothing of it may be reached."""
    theirs = {name for name in vars(WebSocketConnection) if not name.startswith("_")}
    assert theirs - {"CONNECTION_ID"} <= vars(Connection).keys()


# Receiving.


async def test_messages() -> None:
    """Texts and binaries in order, from fragments too."""
    world = World()
    world.feed(
        text("héllo"),
        to_server(BINARY, b"\x00\xff"),
        to_server(TEXT, b"in ", final=False),
        to_server(0, b"pieces"),
        text(""),
    )
    received = [await world.connection.get_message() for _ in range(4)]
    assert ["héllo", b"\x00\xff", "in pieces", ""] == received


async def test_a_message_wakes_its_receiver(nursery: trio.Nursery) -> None:
    """Who waits is given what comes, in the order they began to wait."""
    world, received = World(), list[tuple[str, str | bytes]]()

    async def receive(name: str) -> None:
        received.append((name, await world.connection.get_message()))

    for name in "ab":
        nursery.start_soon(receive, name)
        await wait_all_tasks_blocked()
    world.feed(text("one"))
    await wait_all_tasks_blocked()
    world.feed(text("two"))
    await wait_all_tasks_blocked()
    assert [("a", "one"), ("b", "two")] == received


async def test_receiving_lets_others_run(nursery: trio.Nursery) -> None:
    """A handler with a full queue is no reason for all others to wait."""
    world, turns = World(), list[int]()

    async def count() -> None:
        while True:
            turns.append(len(turns))
            await trio.lowlevel.checkpoint()

    world.feed(*[text("x")] * 100)
    nursery.start_soon(count)
    for _ in range(100):
        await world.connection.get_message()
    assert 5 <= len(turns) <= 100
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("messages", range(20))
async def test_receiving_looks_for_cancellation(messages: int) -> None:
    """At every call, whatever waits; the message stays."""
    world = World()
    world.feed(*[text("x")] * messages)
    for _ in range(messages // 2):
        await world.connection.get_message()
    with trio.CancelScope() as scope:
        scope.cancel()
        await world.connection.get_message()
    assert scope.cancelled_caught
    for _ in range(messages - messages // 2):
        assert "x" == await world.connection.get_message()


RECEIVING = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.integers(1, 5)),
        st.tuples(st.sampled_from(["receive", "receive and let run"]), st.integers(1, 3)),
        st.tuples(st.sampled_from(["cancel", "message and cancel", "let run"]), st.integers(0, 9)),
    ),
    max_size=30,
)


@given(RECEIVING, st.sampled_from(["none", "close", "eof"]))
def test_no_message_is_lost(program: list[tuple[str, int]], end: str) -> None:
    """Several receivers, some cancelled: each message comes out once, in order."""
    on_virtual_time(_no_message_is_lost, program, end)


async def _no_message_is_lost(program: list[tuple[str, int]], end: str) -> None:
    world = World()
    sent, received = list[str](), list[str | bytes]()
    scopes: list[trio.CancelScope] = []
    closed = 0

    def send(count: int) -> None:
        for _ in range(count):
            sent.append(f"m{len(sent)}")
            world.feed(text(sent[-1]))

    async def receive(scope: trio.CancelScope) -> None:
        nonlocal closed
        with scope:
            try:
                received.append(await world.connection.get_message())
            except ConnectionClosed:
                closed += 1

    async with trio.open_nursery() as nursery:
        for operation, number in program:
            if operation.startswith("receive"):
                for _ in range(number):
                    scopes.append(trio.CancelScope())
                    nursery.start_soon(receive, scopes[-1])
            if operation.startswith("message"):
                send(number or 1)
            if operation.endswith("cancel") and scopes:
                scopes.pop(number % len(scopes)).cancel()
            if operation.endswith("let run"):
                await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert sent[: len(received)] == received
        match end:
            case "close":
                world.feed(close(1000))
            case "eof":
                world.link.feed_eof()
            case _:
                send(len(scopes))  # enough for whoever still waits
        for _ in range(len(sent) - len(received)):
            nursery.start_soon(receive, trio.CancelScope())
        await wait_all_tasks_blocked()
        assert sent == received
        nursery.cancel_scope.cancel()


@given(
    st.lists(st.integers(0, 200) | st.just(-1), max_size=60),
    st.integers(1, 8) | st.none(),
    st.integers(1, 600),
)
def test_reading_pauses_at_the_bound(
    program: list[int], max_messages: int | None, max_bytes: int
) -> None:
    """Exactly while as many messages or bytes wait as may: reading goes on when some are taken."""
    limits = Limits(max_queued_messages=max_messages, max_queued_bytes=max_bytes)
    on_virtual_time(_reading_pauses_at_the_bound, program, limits)


async def _reading_pauses_at_the_bound(program: list[int], limits: Limits) -> None:
    world, waiting = World(limits=limits), list[int]()
    for size in [*program, *[-1] * len(program)]:
        if size < 0:
            if waiting:
                assert waiting.pop(0) == len(await world.connection.get_message())
        elif not world.link.paused:
            waiting.append(size)
            world.feed(text("x" * size))
        full = sum(waiting) + 64 * len(waiting) >= limits.max_queued_bytes
        if limits.max_queued_messages is not None:
            full = full or len(waiting) >= limits.max_queued_messages
        assert full is world.link.paused


async def test_a_paused_connection_is_read_again_when_it_closes() -> None:
    """Else it would never see the peer's Close."""
    world = World(limits=Limits(max_queued_messages=1))
    world.feed(text("unread"))
    assert world.link.paused
    world.connection.disconnect(1000)
    assert not world.link.paused


# The end.


async def test_messages_before_a_close() -> None:
    """What the peer said before it closed is still received; then the reason is raised."""
    world = World()
    world.feed(text("one"), text("two"), close(4000, "bye"))
    assert ["one", "two"] == [await world.connection.get_message() for _ in range(2)]
    for _ in range(2):
        assert 4000 == await closed_reason(world.connection.get_message())
    assert (4000, "bye") == world.reason


async def test_messages_before_the_link_is_lost() -> None:
    """A reset takes nothing away that has been read, not even from a paused connection."""
    world = World(limits=Limits(max_queued_messages=2))
    world.feed(text("one"), text("two"))
    world.link.abort()
    assert ["one", "two"] == [await world.connection.get_message() for _ in range(2)]
    assert 1006 == await closed_reason(world.connection.get_message())


async def test_messages_before_our_close() -> None:
    """After our own decision there is nothing to receive any more."""
    world = World()
    world.feed(text("one"))
    world.connection.disconnect(1000)
    world.feed(text("two"))
    assert 1000 == await closed_reason(world.connection.get_message())


async def test_iterating() -> None:
    """The loop gives every message and ends with the connection, whatever the reason."""
    world, received = World(), list[str | bytes]()
    world.feed(text("one"), text("two"), close(1011))
    async for message in world.connection:
        received.append(message)
    assert ["one", "two"] == received
    async for message in world.connection:
        received.append(message)
    assert 2 == len(received)


async def test_waiting_receivers_are_told_of_the_end(nursery: trio.Nursery) -> None:
    """All of them, at once."""
    world, codes = World(), list[int]()

    async def receive() -> None:
        codes.append(await closed_reason(world.connection.get_message()))

    for _ in range(3):
        nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    world.feed(close(4001))
    await wait_all_tasks_blocked()
    assert [4001] * 3 == codes


async def test_a_peers_close_is_answered() -> None:
    """With its code, once; the socket goes when our Close is out."""
    world = World(capacity=0)
    world.feed(close(4000, "bye"))
    assert not world.link.ended
    world.link.make_room()
    assert ([closing(4000)], True) == (world.read(), world.link.ended)
    assert [CloseReason(4000, "bye").code] == [
        closed.code for closed in world.desk.closes if closed
    ]


async def test_a_close_without_a_code() -> None:
    """It is answered without one, and the reason says 1005 (RFC 6455 §7.1.5)."""
    world = World()
    world.feed(close())
    assert ([Frame(8, b"")], (1005, None)) == (world.read(), world.reason)


async def test_bytes_behind_a_close() -> None:
    """They are read and forgotten, so that our Close arrives (no RST)."""
    world = World()
    world.feed(close(1000), text("late"))
    assert [closing(1000)] == world.read()
    assert (True, False) == (world.link.eof_sent, world.link.ended)
    world.link.feed_eof()
    assert world.link.ended


@pytest.mark.parametrize(
    "data, code",
    [
        (GARBAGE, 1002),
        (b"\x81\x05hello", 1002),  # not masked
        (to_server(TEXT, b"\xff"), 1007),
        (to_server(BINARY, bytes(2000)), 1009),
        (to_server(BINARY, bytes(600), final=False) + to_server(0, bytes(600)), 1009),
        (to_server(TEXT, final=False) + to_server(0, final=False) * 4, 1009),
    ],
)
async def test_a_peer_that_breaks_the_protocol(data: bytes, code: int) -> None:
    """It is told why in one Close frame; what it said before is still received."""
    world = World(limits=Limits(max_message_bytes=1000, max_fragments=4))
    world.feed(text("before"), data)
    world.feed(text("after"), GARBAGE)
    assert "before" == await world.connection.get_message()
    assert code == await closed_reason(world.connection.get_message())
    (frame,) = world.read()
    reason = world.connection.closed
    assert reason is not None
    assert closing(code, reason.reason or "") == frame
    assert (True, False) == (world.link.eof_sent, world.link.ended)


async def test_a_peer_that_hangs_up() -> None:
    """Without a Close it is 1006; what waits for it is still sent, and no Close."""
    world = World(capacity=0)
    await world.connection.send_message("hello")
    world.link.feed_eof()
    assert not world.link.ended
    world.link.make_room()
    assert ([Frame(TEXT, b"hello")], True) == (world.read(), world.link.ended)
    assert (1006, None) == world.reason


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1012, 1014, 3000, 4999])
async def test_codes_that_can_be_sent(code: int) -> None:
    """The registered ones, and everybody's own."""
    world = World()
    world.connection.disconnect(code, "why")
    assert ([closing(code, "why")], (code, "why")) == (world.read(), world.reason)


@pytest.mark.parametrize(
    "code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535, 70000]
)
async def test_codes_that_cannot_be_sent(code: int) -> None:
    """The caller is told; nothing is sent and the connection stays open."""
    world = World()
    with pytest.raises(ValueError, match=f"{code} is not a close code"):
        await world.connection.aclose(code)
    assert ([], None) == (world.read(), world.reason)


async def test_a_reason_that_cannot_be_sent() -> None:
    """A lone surrogate is the caller's to know; nothing is sent."""
    world = World()
    with pytest.raises(ValueError, match="surrogate"):
        world.connection.disconnect(1000, "\ud800")
    assert ([], None) == (world.read(), world.reason)


async def test_a_reason_that_is_too_long() -> None:
    """The frame has the first 123 bytes, cut between characters; ``closed`` has all of it."""
    world = World()
    world.connection.disconnect(1000, "é" * 100)
    assert [closing(1000, "é" * 61)] == world.read()
    assert (1000, "é" * 100) == world.reason


async def test_aclose_waits_for_the_peer(
    nursery: trio.Nursery, timers: Timers, autojump_clock: MockClock
) -> None:
    """Our Close goes out at once, what comes before the peer's is read, then the socket goes."""
    world = World(timers=timers)

    async def answer() -> None:
        await trio.sleep(3)
        world.feed(text("still talking"), to_server(PING, b"x"))
        await trio.sleep(3)
        world.feed(close(4000))

    nursery.start_soon(answer)
    began = trio.current_time()
    await world.connection.aclose(1001, "going")
    assert 6 == trio.current_time() - began
    assert ([closing(1001, "going")], True) == (world.read(), world.link.ended)
    assert (1001, "going") == world.reason


async def test_aclose_does_not_wait_for_ever(timers: Timers, autojump_clock: MockClock) -> None:
    """After the closing timeout the socket is dropped, however busy the peer is."""
    world = World(timers=timers)
    began = trio.current_time()
    await world.connection.aclose()
    assert 10 <= trio.current_time() - began <= 10 + 2 * TICK
    assert (True, (1000, None)) == (world.link.ended, world.reason)


async def test_a_cancelled_aclose(timers: Timers, autojump_clock: MockClock) -> None:
    """It drops the socket without waiting."""
    world = World(timers=timers)
    with trio.move_on_after(1):
        await world.connection.aclose()
    assert (True, (1000, None)) == (world.link.ended, world.reason)
    assert 0 == len(timers)


async def test_closing_for_a_slow_reader(timers: Timers, autojump_clock: MockClock) -> None:
    """What was sent before our Close is its to fetch; the closing timeout counts from the last of
    it, or from when it stops."""
    world = World(timers=timers, capacity=0)
    await world.connection.send_message(bytes(996))
    world.connection.disconnect(1000)
    for _ in range(5):
        await trio.sleep(9)
        world.link.make_room(200)
    assert not world.link.ended
    await trio.sleep(9)
    world.link.make_room()
    assert [BINARY, 8] == [frame.opcode for frame in world.read()]
    await trio.sleep(9.9)
    assert not world.link.ended
    await trio.sleep(0.3)
    assert world.link.ended
    for reads in range(4):
        world = World(timers=timers, capacity=0)
        await world.connection.send_message(bytes(996))
        world.connection.disconnect(1000)
        for _ in range(reads):
            await trio.sleep(9)
            world.link.make_room(200)
        await trio.sleep(20.3)
        assert (True, (1000, None)) == (world.link.ended, world.reason)


async def test_a_slow_consumer_is_not_waited_for(timers: Timers, autojump_clock: MockClock) -> None:
    """Cut off for being slow, it has the closing timeout and no more, though it reads."""
    world = World(timers=timers, capacity=0, max_outbox_bytes=1000)
    world.connection.offer(text_frame(bytes(996)))
    assert Verdict.SLOW is world.connection.offer(text_frame(b"x"))
    for _ in range(5):
        await trio.sleep(2)
        world.link.make_room(10)
    await trio.sleep(0.2)
    assert (True, (1013, "slow consumer")) == (world.link.ended, world.reason)


async def test_aclose_from_everywhere(nursery: trio.Nursery) -> None:
    """Several tasks close at once: one Close frame, the first reason, all wait."""
    world, done = World(), list[int]()

    async def aclose(code: int) -> None:
        await world.connection.aclose(code)
        done.append(code)

    for code in (4000, 4001, 4002):
        nursery.start_soon(aclose, code)
        await wait_all_tasks_blocked()
    assert [] == done
    world.feed(close(4000))
    await wait_all_tasks_blocked()
    await world.connection.aclose(4003)
    assert ([closing(4000)], (4000, None)) == (world.read(), world.reason)
    assert [4000, 4001, 4002] == sorted(done)


@pytest.mark.parametrize("end", ["close", "eof", "abort", "garbage"])
async def test_aclose_after_the_end(end: str) -> None:
    """There is nothing to wait for."""
    world = World()
    END[end](world)
    reason = world.reason
    await world.connection.aclose(4000)
    assert reason == world.reason


END: dict[str, Callable[[World], object]] = {
    "close": lambda world: world.feed(close(1000)),
    "eof": lambda world: world.link.feed_eof(),
    "abort": lambda world: world.link.abort(),
    "garbage": lambda world: world.feed(GARBAGE),
    "disconnect": lambda world: world.connection.disconnect(1000),
}

CLOSING: dict[str, tuple[Callable[[World], object], int]] = {
    "disconnect": (lambda world: world.connection.disconnect(4000, "us"), 4000),
    "disconnect too": (lambda world: world.connection.disconnect(4001), 4001),
    "close": (lambda world: world.feed(close(4002, "them")), 4002),
    "close without a code": (lambda world: world.feed(close()), 1005),
    "eof": (lambda world: world.link.feed_eof(), 1006),
    "abort": (lambda world: world.link.abort(), 1006),
    "garbage": (lambda world: world.feed(GARBAGE), 1002),
    "bad text": (lambda world: world.feed(to_server(TEXT, b"\xff")), 1007),
    "stall": (lambda world: world.link.stalled(), 1013),
}
LIVELY: dict[str, Callable[[World], object]] = {
    "expire": lambda world: world.link.expire() if world.link.timer_tick else None,
    "message": lambda world: world.feed(text("hello")),
    "ping": lambda world: world.feed(to_server(PING, b"x")),
    "pong": lambda world: world.feed(to_server(PONG, b"x")),
    "offer": lambda world: world.connection.offer(text_frame(b"hello")),
    "make room": lambda world: world.link.make_room(50),
    "break": lambda world: setattr(world.link, "broken", True),
}


@given(
    st.lists(st.sampled_from([*CLOSING, *LIVELY]), max_size=30),
    st.sampled_from([0, 30, math.inf]),
)
def test_one_reason(program: list[str], capacity: float) -> None:
    """The first cause stands and is told once; a Close is the last frame, and the only one."""
    on_virtual_time(_one_reason, program, capacity)


async def _one_reason(program: list[str], capacity: float) -> None:
    world = World(capacity=capacity, heartbeat=Heartbeat(), max_outbox_bytes=60)
    for operation in program:
        before = world.reason
        if operation in CLOSING:
            act, code = CLOSING[operation]
            act(world)
            assert world.reason is not None
            assert code == world.reason[0] or before is not None
        else:
            LIVELY[operation](world)
            if world.reason is not None and before is None:
                # Nobody closed it: the peer is broken, slow, or silent.
                assert world.reason[0] in {1006, 1013, 4408}
        assert before in {None, world.reason}
        assert [world.connection.closed] * (world.reason is not None) == world.desk.closes
    if not world.link.broken:
        world.link.make_room()
    frames = from_server(world.link.read(), cut=world.link.ended or world.link.broken)
    assert 8 not in [frame.opcode for frame in frames[:-1]]
    if world.reason is not None:
        code, connection = world.reason[0], world.connection
        for attempt in (connection.send_message("x"), connection.ping(), connection.pong()):
            assert code == await closed_reason(attempt)
        assert Verdict.CLOSED is connection.offer(b"x")
        assert b"" == world.link.read()


# Sending.


async def test_sending() -> None:
    """Texts, binaries and frames, each whole."""
    world = World()
    await world.connection.send_message("héllo")
    await world.connection.send_message(b"\x00\xff")
    await world.connection.send_frame(text_frame(b"a") + text_frame(b"b"))
    assert Verdict.ACCEPTED is world.connection.offer(text_frame(b"c"))
    assert [
        Frame(TEXT, "héllo".encode()),
        Frame(BINARY, b"\x00\xff"),
        Frame(TEXT, b"a"),
        Frame(TEXT, b"b"),
        Frame(TEXT, b"c"),
    ] == world.read()


@pytest.mark.parametrize("message", [None, 5, ["x"], bytearray(b"x"), "\ud800"])
async def test_what_cannot_be_sent(message: Any) -> None:
    """The caller is told, and the connection is none the worse."""
    world = World()
    with pytest.raises(ValueError):
        await world.connection.send_message(message)
    assert ([], None) == (world.read(), world.reason)


@pytest.mark.parametrize("end", END.values(), ids=END.keys())
async def test_sending_after_the_end(end: Callable[[World], object]) -> None:
    """Every call says why, and nothing is sent behind the Close."""
    world = World()
    end(world)
    world.read()
    connection = world.connection
    codes = [
        await closed_reason(connection.send_message("x")),
        await closed_reason(connection.send_frame(b"x")),
        await closed_reason(connection.ping()),
        await closed_reason(connection.pong()),
    ]
    assert world.reason is not None
    assert [world.reason[0]] * 4 == codes
    assert (Verdict.CLOSED, []) == (connection.offer(b"x"), world.read())


async def test_sending_to_a_peer_that_breaks() -> None:
    """The send that notices raises what all later ones do."""
    world = World()
    world.link.broken = True
    assert 1006 == await closed_reason(world.connection.send_message("x"))
    assert (1006, None) == world.reason


async def test_offering_to_a_peer_that_breaks() -> None:
    """The offer that notices is refused."""
    world = World()
    world.link.broken = True
    assert Verdict.CLOSED is world.connection.offer(b"x")
    assert (1006, None) == world.reason


async def test_a_send_waits_for_a_slow_peer(nursery: trio.Nursery) -> None:
    """At 64 KiB that wait, the next send waits; below, it does not."""
    world, sent = World(capacity=0), trio.Event()
    await world.connection.send_message(bytes(64 * KIB - 1 - 4))
    await world.connection.send_message("x" * 10)

    async def send() -> None:
        await world.connection.send_message("waits")
        sent.set()

    nursery.start_soon(send)
    await wait_all_tasks_blocked()
    assert not sent.is_set()
    assert 64 * KIB + 11 == world.link.outbox.size
    world.link.make_room(11)
    await wait_all_tasks_blocked()
    assert not sent.is_set()
    world.link.make_room(1)
    await sent.wait()
    world.link.make_room()
    assert Frame(TEXT, b"waits") == world.read()[-1]


async def test_a_cancelled_send(autojump_clock: MockClock) -> None:
    """Nothing of it is sent, neither now nor later."""
    world = World(capacity=0)
    await world.connection.send_message(bytes(100 * KIB))
    size = world.link.outbox.size
    with trio.move_on_after(1) as scope:
        await world.connection.send_message("never")
    assert (True, size) == (scope.cancelled_caught, world.link.outbox.size)
    with trio.CancelScope() as scope:
        scope.cancel()
        await World().connection.send_message("never")
    assert scope.cancelled_caught
    world.link.make_room()
    assert [BINARY] == [frame.opcode for frame in world.read()]


async def test_a_send_that_waits_when_the_connection_ends(nursery: trio.Nursery) -> None:
    """It raises, and its message is not sent behind the Close."""
    world, codes = World(capacity=0), list[int]()
    await world.connection.send_message(bytes(100 * KIB))

    async def send() -> None:
        codes.append(await closed_reason(world.connection.send_message("never")))

    nursery.start_soon(send)
    nursery.start_soon(send)
    await wait_all_tasks_blocked()
    world.connection.disconnect(1000)
    world.link.make_room()
    await wait_all_tasks_blocked()
    assert [1000] * 2 == codes
    assert [BINARY, 8] == [frame.opcode for frame in world.read()]


async def test_sends_of_several_tasks(nursery: trio.Nursery) -> None:
    """Each task's messages are whole and in order, and only one message is over the bound."""
    world, size = World(capacity=0), 20 * KIB
    frames: list[Frame] = []

    async def send(name: int) -> None:
        for number in range(10):
            await world.connection.send_message(bytes((name, number)) * (size // 2))

    for name in range(5):
        nursery.start_soon(send, name)
    received = b""
    for _ in range(1000):
        await wait_all_tasks_blocked()
        assert world.link.outbox.size < 64 * KIB + size + 4
        world.link.make_room(9999)
        received += world.link.read()
    frames = from_server(received)
    assert 50 == len(frames)
    for name in range(5):
        assert list(range(10)) == [f.payload[1] for f in frames if f.payload[0] == name]


async def test_sending_lets_others_run(nursery: trio.Nursery) -> None:
    """A handler that sends without end is no reason for all others to wait."""
    world, turns = World(), list[int]()

    async def count() -> None:
        while True:
            turns.append(len(turns))
            await trio.lowlevel.checkpoint()

    nursery.start_soon(count)
    for _ in range(100):
        await world.connection.send_message("x")
    assert 5 <= len(turns) <= 100
    nursery.cancel_scope.cancel()


async def test_a_slow_consumer() -> None:
    """Over the outbox's bound it is closed with 1013, and nothing is dropped silently."""
    world = World(capacity=0, max_outbox_bytes=100)
    assert Verdict.ACCEPTED is world.connection.offer(text_frame(b"x" * 80))
    assert Verdict.SLOW is world.connection.offer(text_frame(b"y" * 80))
    assert Verdict.CLOSED is world.connection.offer(text_frame(b"z"))
    world.link.make_room()
    assert [Frame(TEXT, b"x" * 80), closing(1013, "slow consumer")] == world.read()


async def test_a_peer_that_never_reads(timers: Timers, autojump_clock: MockClock) -> None:
    """After the send timeout it is closed with 1013, and dropped at the closing timeout."""
    world = World(timers=timers, capacity=5)
    await world.connection.send_message("hello")
    await trio.sleep(29.9)
    assert world.reason is None
    await trio.sleep(0.2)
    assert (1013, "slow consumer") == world.reason
    await trio.sleep(9.8)
    assert not world.link.ended
    await trio.sleep(0.3)
    assert (True, 0) == (world.link.ended, len(timers))


async def test_a_peer_that_does_not_even_take_its_close(
    timers: Timers, autojump_clock: MockClock
) -> None:
    """A stall while closing drops the socket."""
    world = World(capacity=5)
    await world.connection.send_message("hello")
    world.connection.disconnect(1000)
    world.link.stalled()
    assert (True, (1000, None)) == (world.link.ended, world.reason)


async def test_a_flood_of_pings_by_somebody_who_does_not_read() -> None:
    """The pongs count against the outbox like everything else."""
    world = World(capacity=0, max_outbox_bytes=1000)
    for _ in range(10):
        world.feed(to_server(PING, b"x" * 125))
    assert (1013, "slow consumer") == world.reason
    assert world.link.outbox.size < 1100


# Pings and pongs.


async def test_pings_are_answered_whether_or_not_the_handler_reads() -> None:
    """Also while it has too much unread to be given more."""
    world = World(limits=Limits(max_queued_messages=1))
    world.feed(text("unread"), to_server(PING, b"a"), to_server(PING))
    assert [Frame(PONG, b"a"), Frame(PONG, b"")] == world.read()


async def test_no_pong_behind_a_close() -> None:
    """A peer that pings while we wait for its Close gets no answer (FACTS: it killed a server)."""
    world = World()
    world.connection.disconnect(1000)
    world.feed(to_server(PING, b"x"))
    assert [closing(1000)] == world.read()


class Pings:
    """Pings in tasks, and how each ended."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.world = world
        self.ended: dict[bytes | None, str] = {}
        self._nursery = nursery

    async def send(self, payload: bytes | None, scope: trio.CancelScope | None = None) -> None:
        async def ping() -> None:
            with scope or trio.CancelScope():
                try:
                    await self.world.connection.ping(payload)
                except ConnectionClosed as error:
                    self.ended[payload] = f"closed {error.reason.code if error.reason else None}"
                else:
                    self.ended[payload] = "answered"

        self._nursery.start_soon(ping)
        await wait_all_tasks_blocked()

    async def answer(self, payload: bytes) -> None:
        self.world.feed(to_server(PONG, payload))
        await wait_all_tasks_blocked()


@pytest.fixture
def pings(nursery: trio.Nursery) -> Pings:
    return Pings(World(), nursery)


async def test_a_ping_waits_for_its_pong(pings: Pings) -> None:
    """Pongs that answer nothing change nothing."""
    await pings.send(b"a")
    await pings.answer(b"b")
    await pings.answer(b"")
    assert ({}, [Frame(PING, b"a")]) == (pings.ended, pings.world.read())
    await pings.answer(b"a")
    await pings.answer(b"a")
    assert {b"a": "answered"} == pings.ended


async def test_a_ping_without_a_payload(pings: Pings) -> None:
    """It gets a random one."""
    await pings.send(None)
    (frame,) = pings.world.read()
    assert (PING, 4) == (frame.opcode, len(frame.payload))
    await pings.answer(frame.payload)
    assert {None: "answered"} == pings.ended


async def test_a_pong_answers_earlier_pings(pings: Pings) -> None:
    """And no later one (RFC 6455 §5.5.3)."""
    for payload in (b"a", b"b", b"c"):
        await pings.send(payload)
    await pings.answer(b"b")
    assert {b"a": "answered", b"b": "answered"} == pings.ended
    await pings.answer(b"c")


async def test_a_cancelled_ping(pings: Pings) -> None:
    """Its pong is ignored, and its payload free again."""
    scope = trio.CancelScope()
    await pings.send(b"a", scope)
    await pings.send(b"b")
    scope.cancel()
    await pings.answer(b"a")
    assert {} == pings.ended
    scope = trio.CancelScope()
    await pings.send(b"a", scope)
    scope.cancel()
    await wait_all_tasks_blocked()
    await pings.send(b"a")
    await pings.answer(b"b")
    assert {b"b": "answered"} == pings.ended
    await pings.answer(b"a")
    assert {b"a": "answered", b"b": "answered"} == pings.ended


@pytest.mark.parametrize("end", END.values(), ids=END.keys())
async def test_a_ping_wakes_when_the_connection_ends(
    pings: Pings, end: Callable[[World], object]
) -> None:
    """All of them, with the reason."""
    for payload in (b"a", b"b"):
        await pings.send(payload)
    end(pings.world)
    await wait_all_tasks_blocked()
    assert pings.world.reason is not None
    closed = f"closed {pings.world.reason[0]}"
    assert {b"a": closed, b"b": closed} == pings.ended


async def test_a_ping_to_a_peer_that_breaks(pings: Pings) -> None:
    """The ping that notices raises."""
    pings.world.link.broken = True
    await pings.send(b"a")
    assert {b"a": "closed 1006"} == pings.ended


async def test_a_ping_that_is_answered_and_closed_at_once(pings: Pings) -> None:
    """The pong came first."""
    await pings.send(b"a")
    pings.world.feed(to_server(PONG, b"a"), close(1000))
    await wait_all_tasks_blocked()
    assert {b"a": "answered"} == pings.ended


async def test_a_payload_in_flight(pings: Pings) -> None:
    """It cannot be sent again before its pong; one over 125 bytes never."""
    await pings.send(b"a")
    with pytest.raises(ValueError, match="already in flight"):
        await pings.world.connection.ping(b"a")
    with pytest.raises(ValueError, match="125"):
        await pings.world.connection.ping(bytes(126))
    with pytest.raises(ValueError, match="125"):
        await pings.world.connection.pong(bytes(126))
    assert 1 == len(pings.world.read())
    await pings.answer(b"a")


@pytest.mark.parametrize("calls", range(17))
async def test_one_payload_from_two_tasks(nursery: trio.Nursery, calls: int) -> None:
    """Whether or not the calls let each other run, one is told and one is answered.

    Checked before the checkpoint, both were sent, and the first waited for ever.
    """
    world, outcomes = World(), list[str]()

    async def ping() -> None:
        try:
            await world.connection.ping(b"x")
            outcomes.append("answered")
        except ValueError:
            outcomes.append("in flight")

    for _ in range(calls):
        await world.connection.pong()
    nursery.start_soon(ping)
    nursery.start_soon(ping)
    await wait_all_tasks_blocked()
    world.feed(to_server(PONG, b"x"))
    await wait_all_tasks_blocked()
    assert ["in flight", "answered"] == outcomes


async def test_an_unsolicited_pong() -> None:
    """With a payload or without."""
    world = World()
    await world.connection.pong(b"a")
    await world.connection.pong()
    assert [Frame(PONG, b"a"), Frame(PONG, b"")] == world.read()


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_too_many_control_frames(autojump_clock: MockClock, opcode: int) -> None:
    """More in a second than may be are 4429; spread over time they are fine."""
    world = World(limits=Limits(max_control_frames=10))
    for _ in range(3):
        world.feed(*[to_server(opcode)] * 10)
        await trio.sleep(1)
    assert None is world.reason
    world.feed(*[to_server(opcode)] * 20)
    assert (4429, "too many control frames") == world.reason
    assert [8] == [frame.opcode for frame in world.read() if frame.opcode != PONG]


# Heartbeat.


BEAT = Heartbeat(interval=25, pong_timeout=20)
HEARTBEAT = Frame(PING, b"heartbeat")


async def test_a_silent_peer_is_pinged(timers: Timers, autojump_clock: MockClock) -> None:
    """After each interval, not before; its pong keeps it for another."""
    world = World(timers=timers, heartbeat=BEAT)
    await trio.sleep(24.9)
    assert [] == world.read()
    await trio.sleep(0.2)
    assert [HEARTBEAT] == world.read()
    for _ in range(5):
        world.feed(to_server(PONG, b"heartbeat"))
        await trio.sleep(25.2)
        assert ([HEARTBEAT], None) == (world.read(), world.reason)


async def test_a_dead_peer(timers: Timers, autojump_clock: MockClock) -> None:
    """No byte after the ping is 4408 at the pong timeout, and the end at the closing timeout."""
    world = World(timers=timers, heartbeat=BEAT)
    await trio.sleep(44.9)
    assert (None, [HEARTBEAT]) == (world.reason, world.read())
    await trio.sleep(0.3)
    assert ((4408, "no pong"), [closing(4408, "no pong")]) == (world.reason, world.read())
    await trio.sleep(9.7)
    assert not world.link.ended
    await trio.sleep(0.4)
    assert (True, 0) == (world.link.ended, len(timers))


@pytest.mark.parametrize(
    "sign_of_life", [text("x"), to_server(PING), to_server(PONG, b"other"), b"\x81", b"\x81\x80"]
)
async def test_any_byte_is_a_sign_of_life(
    timers: Timers, autojump_clock: MockClock, sign_of_life: bytes
) -> None:
    """It need not be the pong, nor a whole frame."""
    world = World(timers=timers, heartbeat=BEAT)
    await trio.sleep(44)
    world.feed(sign_of_life)
    await trio.sleep(2)
    assert world.reason is None
    await trio.sleep(50)
    assert world.reason == (4408, "no pong")


async def test_a_peer_that_talks_is_not_pinged(timers: Timers, autojump_clock: MockClock) -> None:
    """Nor does a heartbeat that is turned off ever ping."""
    world, off = World(timers=timers, heartbeat=BEAT), World(timers=timers)
    for _ in range(20):
        await trio.sleep(10)
        world.feed(b"\x81\x81\0\0\0\0x")
    assert ([], []) == (world.read(), off.read())
    assert 1 == len(timers)


async def test_a_busy_handler_is_not_the_peers_fault(
    timers: Timers, autojump_clock: MockClock
) -> None:
    """While reading is paused the peer's pong would lie unread: it is not asked for."""
    world = World(timers=timers, heartbeat=BEAT, limits=Limits(max_queued_messages=1))
    world.feed(text("unread"))
    await trio.sleep(1000)
    assert (None, []) == (world.reason, world.read())
    await world.connection.get_message()
    await trio.sleep(10)
    assert (None, [HEARTBEAT]) == (world.reason, world.read())


async def test_a_peer_that_reads_slowly_is_alive(timers: Timers, autojump_clock: MockClock) -> None:
    """A ping behind all that waits could not be answered in time: it is not even asked for."""
    world = World(timers=timers, heartbeat=BEAT, capacity=0)
    world.connection.offer(text_frame(bytes(1000)))
    for _ in range(100):
        await trio.sleep(1)
        world.link.make_room(10)
    assert None is world.reason
    world.link.make_room()
    assert [TEXT] == [frame.opcode for frame in world.read()]
    await trio.sleep(10)
    assert ([HEARTBEAT], None) == (world.read(), world.reason)


async def test_a_peer_that_reads_nothing_is_not(timers: Timers, autojump_clock: MockClock) -> None:
    """It is a slow consumer after the send timeout, whatever the heartbeat's."""
    world = World(timers=timers, heartbeat=BEAT, capacity=0)
    world.connection.offer(text_frame(b"hello"))
    await trio.sleep(30.2)
    assert (1013, "slow consumer") == world.reason
