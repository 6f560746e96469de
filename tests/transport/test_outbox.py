"""The outbox: what is accepted goes out whole and in order, what waits is bounded, nobody waits."""

import errno
import math
from unittest import mock

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.transport.fakes import on_virtual_time
from trio_gateway.transport.outbox import Outbox, Sender, Verdict
from trio_gateway.transport.timers import Timers

TICK = 1 / 16


class Sink:
    """A peer that takes ``capacity`` bytes."""

    def __init__(self, capacity: float = 0) -> None:
        self.capacity = capacity
        self.received = bytearray()
        self.calls = 0
        self.blocks_by_exception = False
        self.broken = False
        self.wants_write = False
        self.stalls: list[float] = []
        self.overflows = 0
        self.aborts = 0

    @property
    def got(self) -> bytes:
        return bytes(self.received)

    @property
    def sender(self) -> Sender:
        return self

    def send(self, data: bytes | memoryview) -> int:
        self.calls += 1
        if self.broken:
            raise ConnectionResetError(errno.ECONNRESET, "gone")
        fitting = int(min(self.capacity, len(data)))
        if not fitting and self.blocks_by_exception:
            raise BlockingIOError(errno.EAGAIN, "full")
        self.capacity -= fitting
        self.received += data[:fitting]
        return fitting

    def want_write(self) -> None:
        self.wants_write = True

    def overflowed(self) -> None:
        self.overflows += 1

    def stalled(self) -> None:
        self.stalls.append(trio.current_time())

    def abort(self) -> None:
        self.aborts += 1


def outbox_of(
    sink: Sink,
    *,
    max_bytes: int = 100,
    timers: Timers | None = None,
    send_timeout: float = 4,
    max_age: float = math.inf,
) -> Outbox:
    return Outbox(
        sink,
        max_bytes=max_bytes,
        timers=Timers() if timers is None else timers,  # an empty wheel is false
        send_timeout=send_timeout,
        max_age=max_age,
    )


async def test_what_fits_goes_straight_out() -> None:
    """A peer with room costs one send and leaves nothing behind."""
    sink = Sink(capacity=100)
    outbox = outbox_of(sink)
    assert Verdict.ACCEPTED is outbox.offer(b"hello")
    assert (b"hello", 1, 0, False) == (sink.got, sink.calls, outbox.size, sink.wants_write)


@pytest.mark.parametrize("blocks_by_exception", [False, True])
async def test_what_does_not_fit_waits(blocks_by_exception: bool) -> None:
    """The rest of a frame waits, later frames behind it, and one send takes them all."""
    sink = Sink(capacity=3)
    sink.blocks_by_exception = blocks_by_exception
    outbox = outbox_of(sink)
    assert [Verdict.ACCEPTED] * 3 == [outbox.offer(data) for data in (b"first", b"2nd", b"3rd")]
    assert (b"fir", 8, True) == (sink.got, outbox.size, sink.wants_write)
    outbox.flush()
    sink.capacity = 100
    calls = sink.calls
    outbox.flush()
    assert (b"first2nd3rd", 0, calls + 1) == (sink.got, outbox.size, sink.calls)


async def test_a_shut_outbox_still_writes() -> None:
    """Once shut, nothing is offered any more; a Close frame still goes out."""
    sink = Sink()
    outbox = outbox_of(sink)
    outbox.shut_down()
    assert Verdict.CLOSED is outbox.offer(b"frame")
    assert Verdict.ACCEPTED is outbox.write(b"close")
    sink.capacity = 100
    outbox.flush()
    assert b"close" == sink.got


@pytest.mark.parametrize("how", ["offer", "write"])
async def test_a_peer_that_takes_nothing_at_first(how: str) -> None:
    """A full socket may say so by an exception; the frame waits whole."""
    sink = Sink(capacity=0)
    sink.blocks_by_exception = True
    outbox = outbox_of(sink)
    assert Verdict.ACCEPTED is getattr(outbox, how)(b"hello")
    assert (5, True) == (outbox.size, sink.wants_write)
    sink.capacity = 100
    outbox.flush()
    assert b"hello" == sink.got


async def test_a_frame_is_refused_whole() -> None:
    """Over the bound the answer is SLOW, no byte of the frame is taken; what must go still does."""
    sink = Sink()
    outbox = outbox_of(sink, max_bytes=10)
    assert Verdict.ACCEPTED is outbox.offer(b"x" * 8)
    assert Verdict.SLOW is outbox.offer(b"y" * 3)
    assert 1 == sink.overflows
    assert Verdict.ACCEPTED is outbox.offer(b"z" * 2)
    assert Verdict.ACCEPTED is outbox.write(b"close")
    sink.capacity = 100
    outbox.flush()
    assert b"xxxxxxxxzzclose" == sink.got


async def test_one_frame_may_be_larger_than_the_bound() -> None:
    """With nothing waiting any frame is taken: else it could never be sent."""
    sink = Sink(capacity=1)
    outbox = outbox_of(sink, max_bytes=10)
    assert Verdict.ACCEPTED is outbox.offer(b"x" * 50)
    assert 49 == outbox.size


async def test_nothing_is_a_frame_too() -> None:
    """Empty data is accepted, in front of a full peer and behind what waits."""
    sink = Sink()
    outbox = outbox_of(sink)
    assert [Verdict.ACCEPTED] * 3 == [outbox.offer(data) for data in (b"", b"x", b"")]
    sink.capacity = 100
    outbox.flush()
    assert (b"x", 0) == (sink.got, outbox.size)


@pytest.mark.parametrize("behind", [False, True])
async def test_a_broken_sink_is_aborted_once(behind: bool) -> None:
    """A failing send, straight or in a flush, closes the outbox and tells the sink."""
    sink = Sink()
    outbox = outbox_of(sink)
    if behind:
        outbox.offer(b"waits")
        sink.broken = True
        outbox.flush()
    else:
        sink.broken = True
        assert Verdict.CLOSED is outbox.offer(b"hello")
    outbox.flush()
    assert Verdict.CLOSED is outbox.offer(b"more")
    assert Verdict.CLOSED is outbox.write(b"more")
    assert (1, True, 0) == (sink.aborts, outbox.closed, outbox.size)


async def test_a_writer_takes_pieces() -> None:
    """What a writer has taken counts as waiting until it says that it is sent."""
    sink = Sink()
    outbox = outbox_of(sink, max_bytes=1 << 20)
    outbox.offer(b"a" * 10)
    outbox.offer(b"b" * 100_000)
    piece = bytes(outbox.take())
    assert 64 * 1024 == len(piece)
    assert 100_010 == outbox.size
    outbox.offer(b"c")
    outbox.took(len(piece))
    rest = bytes(outbox.take())
    outbox.took(len(rest))
    assert b"a" * 10 + b"b" * 100_000 + b"c" == piece + rest
    assert 0 == outbox.size


async def test_a_writer_may_be_late() -> None:
    """What is sent after the outbox was closed is not counted any more."""
    outbox = outbox_of(Sink())
    outbox.offer(b"hello")
    sent = len(outbox.take())
    outbox.close()
    outbox.took(sent)
    assert 0 == outbox.size


async def test_when_empty() -> None:
    """The action is done once: at once, or with the last byte, or never after a close."""
    sink = Sink(capacity=100)
    outbox = outbox_of(sink)
    done: list[str] = []
    outbox.when_empty(lambda: done.append("at once"))
    sink.capacity = 0
    outbox.offer(b"hello")
    outbox.when_empty(lambda: done.append("later"))
    sink.capacity = 3
    outbox.flush()
    assert ["at once"] == done
    sink.capacity = 100
    outbox.flush()
    outbox.offer(b"more")
    outbox.flush()
    assert ["at once", "later"] == done
    sink.capacity = 0
    outbox.offer(b"more")
    outbox.when_empty(lambda: done.append("never"))
    outbox.close()
    outbox.close()
    assert ["at once", "later"] == done


async def test_what_is_done_when_empty_may_send() -> None:
    """Bytes that the action sends go out behind all others, and are watched again."""
    sink = Sink()
    outbox = outbox_of(sink)
    outbox.offer(b"first")

    def action() -> None:
        sink.capacity = 2
        outbox.write(b"last")

    outbox.when_empty(action)
    sink.capacity, sink.wants_write = 5, False
    outbox.flush()
    assert (b"firstla", 2, True) == (sink.got, outbox.size, sink.wants_write)


async def test_room(nursery: trio.Nursery) -> None:
    """Whoever waits for room goes on when it is there, or when there will never be any."""
    sink = Sink()
    outbox = outbox_of(sink)
    outbox.offer(b"x" * 20)
    passed: list[int] = []

    async def wait(below: int) -> None:
        await outbox.room(below)
        passed.append(below)

    for below in (30, 15, 10, 5):
        nursery.start_soon(wait, below)
    await wait_all_tasks_blocked()
    assert [30] == passed
    sink.capacity = 5
    outbox.flush()
    await wait_all_tasks_blocked()
    assert [30, 15] == passed
    outbox.close()
    await wait_all_tasks_blocked()
    assert [5, 10, 15, 30] == sorted(passed)


async def test_waiting_for_room_can_be_cancelled(autojump_clock: MockClock) -> None:
    """A cancelled wait leaves the outbox as it was."""
    outbox = outbox_of(Sink())
    outbox.offer(b"x" * 20)
    with trio.move_on_after(1) as scope:
        await outbox.room(10)
    assert (True, 20, False) == (scope.cancelled_caught, outbox.size, outbox.closed)


async def test_a_peer_that_takes_nothing_stalls(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Without progress the sink is told after the send timeout, and again after every other."""
    sink, timers = Sink(), Timers()
    nursery.start_soon(timers.run)
    outbox = outbox_of(sink, timers=timers, send_timeout=4)
    began = trio.current_time()
    outbox.offer(b"hello")
    await trio.sleep(9)
    assert [4, 8] == [math.floor(at - began) for at in sink.stalls]


async def test_a_peer_that_takes_a_little_does_not_stall(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A byte now and then is progress; with the last one nothing is watched any more."""
    sink, timers = Sink(), Timers()
    nursery.start_soon(timers.run)
    outbox = outbox_of(sink, timers=timers, send_timeout=4)
    outbox.offer(b"x" * 10)
    for _ in range(9):
        await trio.sleep(3)
        sink.capacity = 1
        outbox.flush()
    assert [] == sink.stalls
    sink.capacity = 1
    outbox.flush()
    assert 0 == len(timers)
    await trio.sleep(20)
    assert [] == sink.stalls


async def test_what_never_gets_empty_grows_too_old(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A peer that is always behind stalls in the end, though it moves."""
    sink, timers = Sink(), Timers()
    nursery.start_soon(timers.run)
    outbox = outbox_of(sink, timers=timers, send_timeout=4, max_age=20)
    began = trio.current_time()
    outbox.offer(b"x" * 10)
    while not sink.stalls:
        await trio.sleep(1)
        sink.capacity = 1
        outbox.flush()
        outbox.offer(b"x")
        assert trio.current_time() < began + 30
    assert began + 20 <= sink.stalls[0] <= began + 20 + 4 + 6 * TICK


async def test_being_behind_again_is_young(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The age counts from when the outbox was last empty."""
    sink, timers = Sink(), Timers()
    nursery.start_soon(timers.run)
    outbox = outbox_of(sink, timers=timers, send_timeout=4, max_age=20)
    for _ in range(20):
        outbox.offer(b"xx")
        await trio.sleep(3)
        sink.capacity = 1
        outbox.flush()
        await trio.sleep(3)
        sink.capacity = 1
        outbox.flush()
    assert [] == sink.stalls


SIZES = st.integers(0, 40)
PROGRAMS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["offer", "offer", "write"]), SIZES),
        st.tuples(st.sampled_from(["fits", "fits", "exactly"]), SIZES),
        st.tuples(st.just("room"), st.integers(0, 80)),
        st.tuples(st.just("pass"), st.integers(1, 400)),
        st.tuples(st.sampled_from(["flush", "when empty", "cancel a room"]), st.just(0)),
        st.tuples(st.sampled_from(["break", "close", "shut"]), st.just(0)),
    ),
    max_size=40,
)


class World:
    """An outbox beside the list that it should behave like.

    Arguments:
        writes_itself: a task takes pieces, as for a stream; otherwise the sink sends, as a socket.
    """

    MAX_BYTES = 64
    SEND_TIMEOUT = 4
    MAX_AGE = 30

    def __init__(self, nursery: trio.Nursery, *, writes_itself: bool) -> None:
        self.timers = Timers()
        self.sink = Sink()
        self.outbox = outbox_of(
            self.sink,
            max_bytes=self.MAX_BYTES,
            timers=self.timers,
            send_timeout=self.SEND_TIMEOUT,
            max_age=self.MAX_AGE,
        )
        self.sink.stalled = self._stalled  # type: ignore[method-assign]  # checked when it happens
        self.nursery = nursery
        self.writes_itself = writes_itself
        self.accepted = bytearray()
        self.written = bytearray()  # by the writer task
        self.fits = 0
        self.closed = False
        self.waiting: dict[trio.CancelScope, int] = {}
        self.actions_due = 0
        self.progress_at = self.behind_since = self.stalled_at = 0.0

    @property
    def gone(self) -> bytes:
        return bytes(self.written) if self.writes_itself else self.sink.got

    def run(self, operation: str, amount: int) -> None:
        before = len(self.gone)
        if self.outbox.size == 0:
            self.behind_since = self.progress_at = trio.current_time()
        match operation:
            case "offer" | "write":
                self._add(operation, amount)
            case "fits" | "exactly":
                self._take(self.outbox.size if operation == "exactly" else amount)
            case "room":
                self.nursery.start_soon(self._room, amount)
            case "cancel a room":
                for scope in list(self.waiting)[:1]:
                    scope.cancel()
            case "flush":
                if not self.writes_itself:
                    self.outbox.flush()
            case "when empty":
                if not self.actions_due:
                    self.actions_due = 1
                    self.outbox.when_empty(self._emptied)
            case "shut":
                self.outbox.shut_down()
            case "break":
                self.sink.broken = not self.writes_itself
            case _:
                self.closed = True
                self.outbox.close()
        if len(self.gone) > before:
            self.progress_at = trio.current_time()

    def _add(self, operation: str, size: int) -> None:
        data = bytes((len(self.accepted) + index) % 251 for index in range(size))
        waiting, overflows = self.outbox.size, self.sink.overflows
        verdict = (self.outbox.offer if operation == "offer" else self.outbox.write)(data)
        if operation == "offer" and self.outbox.shut:
            assert Verdict.CLOSED is verdict
            self.closed = self.outbox.closed  # shut, or broken by this offer
        elif operation == "offer" and waiting and waiting + size > self.MAX_BYTES:
            assert Verdict.SLOW is verdict
            overflows += 1
        elif self.closed or (self.sink.broken and not waiting):
            assert Verdict.CLOSED is verdict
            self.closed = True
        else:
            assert Verdict.ACCEPTED is verdict
            self.accepted += data
        assert overflows == self.sink.overflows

    def _take(self, amount: int) -> None:
        if self.writes_itself:
            if self.outbox.size:
                piece = bytes(self.outbox.take())
                assert piece
                self._add("offer", amount)  # meanwhile
                self.written += piece
                self.outbox.took(len(piece))
        else:
            self.sink.capacity += amount
            if self.sink.wants_write:
                self.sink.wants_write = False
                self.closed = self.closed or bool(self.sink.broken and self.outbox.size)
                self.outbox.flush()

    async def _room(self, below: int) -> None:
        with trio.CancelScope() as scope:
            self.waiting[scope] = below
            await self.outbox.room(below)
            assert self.outbox.size <= below or self.outbox.closed
        del self.waiting[scope]

    def _emptied(self) -> None:
        assert self.actions_due
        assert 0 == self.outbox.size
        self.actions_due = 0

    def _stalled(self) -> None:
        now = trio.current_time()
        assert self.outbox.size
        assert now >= min(self.progress_at + self.SEND_TIMEOUT, self.behind_since + self.MAX_AGE)
        self.stalled_at = now

    def check(self) -> None:
        outbox = self.outbox
        assert self.accepted.startswith(self.gone)
        if self.sink.broken and not self.closed:
            self.closed = outbox.closed  # by a flush nobody asked for
        assert self.closed is outbox.closed
        assert int(self.sink.broken and self.closed) >= self.sink.aborts
        if self.closed:
            assert 0 == outbox.size
        else:
            assert len(self.accepted) - len(self.gone) == outbox.size
            assert outbox.size == 0 or self.writes_itself or self.sink.wants_write
            assert not (self.actions_due and not outbox.size)
        assert all(outbox.size > below and not self.closed for below in self.waiting.values())
        assert int(outbox.size > 0) == len(self.timers)
        if outbox.size:
            quiet = trio.current_time() - max(self.progress_at, self.stalled_at)
            assert quiet <= 2 * (self.SEND_TIMEOUT + TICK)
            old = trio.current_time() - max(self.behind_since, self.stalled_at)
            assert old <= self.MAX_AGE + 2 * (self.SEND_TIMEOUT + TICK)


@given(PROGRAMS, st.booleans())
def test_against_a_list(program: list[tuple[str, int]], writes_itself: bool) -> None:
    """Any offers, partial sends, breaks, closes and waits: as if it were a list of bytes."""
    # Pieces small enough for frames to be larger.
    with mock.patch("trio_gateway.transport.outbox._PIECE", 16):
        on_virtual_time(_against_a_list, program, writes_itself)


async def _against_a_list(program: list[tuple[str, int]], writes_itself: bool) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery, writes_itself=writes_itself)
        nursery.start_soon(world.timers.run)
        for operation, amount in program:
            if operation == "pass":
                await trio.sleep(amount / 64)
            else:
                world.run(operation, amount)
            await wait_all_tasks_blocked()
            world.check()
        while not world.closed and world.outbox.size and not world.sink.broken:
            world.run("exactly", 0) if not writes_itself else world.run("fits", 0)
            await wait_all_tasks_blocked()
            world.check()
        if not world.closed and not world.sink.broken:
            assert world.accepted == world.gone
        nursery.cancel_scope.cancel()
