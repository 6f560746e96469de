"""The timer wheel: never early, at most a tick late, once; what is disarmed is forgotten."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.transport.fakes import on_virtual_time
from trio_gateway.transport.timers import Timers

TICK = 1 / 16


class Item:
    """Writes down when its time was up."""

    def __init__(self, action: Callable[[], object] = lambda: None) -> None:
        self.timer_tick = 0
        self.fired: list[float] = []
        self._action = action

    def expire(self) -> None:
        self.fired.append(trio.current_time())
        self._action()


@pytest.fixture
async def timers(nursery: trio.Nursery) -> Timers:
    timers = Timers()
    nursery.start_soon(timers.run)
    return timers


async def test_a_deadline_fires_once_and_not_early(
    timers: Timers, autojump_clock: MockClock
) -> None:
    """An armed item expires within a tick of its time, and never again."""
    item = Item()
    began = trio.current_time()
    timers.arm(item, 2.5)
    assert 1 == len(timers)
    await trio.sleep(100)
    (fired,) = item.fired
    assert began + 2.5 < fired <= began + 2.5 + TICK
    assert (0, 0) == (item.timer_tick, len(timers))


async def test_a_disarmed_item_is_forgotten(timers: Timers, autojump_clock: MockClock) -> None:
    """Nothing is left of a deadline that was taken back; taking it back twice is nothing."""
    item = Item()
    timers.arm(item, 1)
    timers.disarm(item)
    timers.disarm(item)
    assert 0 == len(timers)
    await trio.sleep(10)
    assert [] == item.fired


async def test_arming_again_replaces(timers: Timers, autojump_clock: MockClock) -> None:
    """The last arming counts, whether it is earlier or later than the one before."""
    earlier, later = Item(), Item()
    began = trio.current_time()
    timers.arm(earlier, 50)
    timers.arm(earlier, 1)
    timers.arm(later, 1)
    timers.arm(later, 50)
    await trio.sleep(100)
    assert [1, 50] == [math.floor(item.fired[0] - began) for item in (earlier, later)]
    assert [1, 1] == [len(item.fired) for item in (earlier, later)]


async def test_for_ever_is_no_deadline(timers: Timers, autojump_clock: MockClock) -> None:
    """``math.inf`` seconds disarm."""
    item = Item()
    timers.arm(item, 1)
    timers.arm(item, math.inf)
    assert 0 == len(timers)
    await trio.sleep(10)
    assert [] == item.fired


async def test_an_earlier_deadline_wakes_the_wheel(
    timers: Timers, autojump_clock: MockClock
) -> None:
    """A deadline that is set while the wheel sleeps for a later one is kept."""
    late, early = Item(), Item()
    timers.arm(late, 1000)
    await trio.sleep(10)
    timers.arm(early, 1)
    await trio.sleep(2)
    assert [1, 0] == [len(early.fired), len(late.fired)]


async def test_deadlines_of_one_tick_can_undo_each_other(
    timers: Timers, autojump_clock: MockClock
) -> None:
    """Of two items of one tick that disarm each other only the first expires."""
    first = Item(lambda: timers.disarm(second))
    second = Item(lambda: timers.disarm(first))
    timers.arm(first, 1)
    timers.arm(second, 1)
    await trio.sleep(10)
    assert 1 == len(first.fired) + len(second.fired)


async def test_an_item_may_arm_itself_when_it_expires(
    timers: Timers, autojump_clock: MockClock
) -> None:
    """A periodic deadline comes back, and time goes on between two of them."""
    item = Item(lambda: timers.arm(item, 1))
    timers.arm(item, 1)
    await trio.sleep(10)
    assert 9 == len(item.fired)
    assert all(b - a >= 1 for a, b in pairwise(item.fired))


async def test_a_failing_deadline_stops_nobody_else(
    timers: Timers, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception out of ``expire()`` is logged, and all other items expire."""

    def fail() -> None:
        raise RuntimeError("no")

    items = [Item(fail), Item(), Item(fail), Item()]
    for item in items:
        timers.arm(item, 1)
    late = Item()
    timers.arm(late, 2)
    await trio.sleep(10)
    assert [1] * 5 == [len(item.fired) for item in (*items, late)]
    assert ["a deadline failed"] * 2 == [record.message for record in caplog.records]


async def test_what_was_disarmed_leaves_no_bucket(
    timers: Timers, autojump_clock: MockClock
) -> None:
    """Deadlines that come and go leave nothing in the wheel once their time has passed."""
    for _ in range(1000):
        item = Item()
        timers.arm(item, 10)
        timers.disarm(item)
        await trio.sleep(0.01)
    await trio.sleep(11)
    timers.arm(Item(), 1)
    await trio.sleep(2)
    assert ({}, []) == (timers._buckets, timers._ticks)


OPERATIONS = st.one_of(
    st.tuples(st.just("arm"), st.integers(0, 4), st.integers(0, 300)),
    st.tuples(st.just("disarm"), st.integers(0, 4), st.just(0)),
    st.tuples(st.just("chain"), st.integers(0, 4), st.integers(0, 100)),
    st.tuples(st.just("pass"), st.just(0), st.integers(0, 200)),
)


@given(st.lists(OPERATIONS, max_size=40))
def test_against_a_model(program: list[tuple[str, int, int]]) -> None:
    """Whatever is armed, re-armed, chained and disarmed: each deadline fires once, in its tick."""
    on_virtual_time(_against_a_model, program)


async def _against_a_model(program: list[tuple[str, int, int]]) -> None:
    # Seconds are multiples of 1/64, so that all sums of floats are exact.
    timers = Timers()
    deadlines: dict[int, float] = {}
    chained: dict[int, float] = {}

    def arm(number: int, seconds: float) -> None:
        deadlines[number] = trio.current_time() + seconds
        timers.arm(items[number], seconds)

    def expired(number: int) -> None:
        deadline = deadlines.pop(number)  # a KeyError: it was not armed
        assert deadline < trio.current_time() <= deadline + TICK
        if number in chained:
            arm(number, chained.pop(number))

    items = [Item(lambda number=number: expired(number)) for number in range(5)]  # type: ignore[misc]  # a default that mypy cannot infer

    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        for operation, number, amount in program:
            match operation:
                case "arm":
                    arm(number, amount / 64)
                case "chain":
                    chained[number] = amount / 64
                case "disarm":
                    deadlines.pop(number, None)
                    timers.disarm(items[number])
                case _:
                    await trio.sleep(amount / 64)
                    await trio.testing.wait_all_tasks_blocked()
            assert len(deadlines) == len(timers)
            assert all(trio.current_time() < deadline + TICK for deadline in deadlines.values())
        await trio.sleep(300 / 64 + 100 / 64 + 2 * TICK)
        assert {} == deadlines
        nursery.cancel_scope.cancel()


async def test_lag_is_looked_at_every_second(autojump_clock: MockClock) -> None:
    """Where nothing is due, too; a clock that jumps exactly is never late."""
    timers = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        await trio.sleep(10.5)
        assert (10, 0.0) == (timers.lag.snapshot().count, timers.lag.snapshot().total)
        nursery.cancel_scope.cancel()


async def test_lag_is_how_late_the_wheel_wakes(mock_clock: MockClock) -> None:
    """As late as whatever has kept the event loop, once for each time."""
    timers = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1.75)  # due after 1
        await trio.testing.wait_all_tasks_blocked()
        assert (1, 0.75) == (timers.lag.snapshot().count, timers.lag.snapshot().total)
        nursery.cancel_scope.cancel()
