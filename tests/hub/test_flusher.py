"""A fan-out that yields: the others run, and whoever comes or goes meanwhile is treated exactly."""

import pytest
import trio
import trio.testing

from tests.hub.fakes import Recorder, greeting, line
from trio_gateway.hub.hub import Hub, HubLimits
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.transport.outbox import Verdict

TOPIC = "chat:lobby"
# A turn is over after each offer.
IMPATIENT = HubLimits(turn_seconds=0, turn_check=1)


class Trigger(Recorder):
    """Sets an event at its first offer, in the middle of a fan-out."""

    def __init__(self) -> None:
        super().__init__()
        self.offered = trio.Event()

    def offer(self, frame: bytes) -> Verdict:
        self.offered.set()
        return super().offer(frame)


@pytest.fixture(params=[["chat:lobby"], ["chat:lobby", "chat:other"]], ids=["direct", "gathered"])
def topics(request: pytest.FixtureRequest) -> list[str]:
    topics: list[str] = request.param
    return topics


@pytest.fixture
async def hub(nursery: trio.Nursery) -> Hub:
    hub = Hub(MemoryBroker(), limits=IMPATIENT)
    hub.encode_with("chat", line)
    await nursery.start(hub.run)
    return hub


async def start_fan_out(hub: Hub, topics: list[str]) -> tuple[Trigger, Recorder]:
    """Return the first and the last of some subscribers, just after the first was offered."""
    first, last = Trigger(), Recorder()
    for subscriber in (first, *[Recorder() for _ in range(8)], last):
        for topic in topics:
            await hub.subscribe(topic, subscriber, user="u")
    for topic in topics:
        await hub.publish(topic, b"a")
    await first.offered.wait()
    assert [] == last.offers
    return first, last


async def test_others_run_in_the_middle(hub: Hub, topics: list[str]) -> None:
    """A fan-out lets the other tasks run whenever its turn is over."""
    first, last = await start_fan_out(hub, topics)
    await trio.testing.wait_all_tasks_blocked()
    assert ["1 a"] * len(topics) == first.lines == last.lines


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks: two things in one step have no other task in between."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_a_turn_ends_by_the_clock(nursery: trio.Nursery) -> None:
    """Offers are written until the turn's seconds are over, then the others run."""
    now = 0.0
    steps = Steps()
    offered_in: list[int] = []

    class Costly(Recorder):
        def offer(self, frame: bytes) -> Verdict:
            nonlocal now
            now += 0.0004
            offered_in.append(steps.count)
            return super().offer(frame)

    trio.lowlevel.add_instrument(steps)
    hub = Hub(MemoryBroker(), limits=HubLimits(turn_check=2), clock=lambda: now)
    hub.encode_with("chat", line)
    await nursery.start(hub.run)
    for _ in range(10):
        await hub.subscribe(TOPIC, Costly(), user="u")
    await hub.publish(TOPIC, b"a")
    await trio.testing.wait_all_tasks_blocked()
    assert [4, 4, 2] == [offered_in.count(step) for step in sorted(set(offered_in))]


async def test_who_leaves_in_the_middle_gets_nothing_more(hub: Hub, topics: list[str]) -> None:
    """One that left in the middle of a fan-out, before its turn, is not offered it."""
    _, last = await start_fan_out(hub, topics)
    await hub.unsubscribe(TOPIC, last)
    await trio.testing.wait_all_tasks_blocked()
    assert len(topics) - 1 == len(last.lines)


@pytest.mark.parametrize("entirely", [False, True])
@pytest.mark.parametrize("ticks", range(24))
async def test_leaving_is_exact_at_every_moment(hub: Hub, ticks: int, entirely: bool) -> None:
    """Whatever the flusher is at, one that left gets nothing more of that topic, all of others."""
    hub.encode_with("loud", lambda publication: line(publication).upper())
    everybody = [Recorder() for _ in range(4)]
    for subscriber in everybody:
        await hub.subscribe(TOPIC, subscriber, user="u")
        await hub.subscribe("loud:x", subscriber, user="u")
    await hub.publish(TOPIC, b"a")
    await hub.publish("loud:x", b"a")
    for _ in range(ticks):
        await trio.lowlevel.checkpoint()
    leaver = everybody[-1]
    before = leaver.lines
    if entirely:
        await hub.leave_all(leaver)
    else:
        await hub.unsubscribe(TOPIC, leaver)
    await trio.testing.wait_all_tasks_blocked()
    # What is gathered is offered at once, so it had all or nothing before.
    assert (before if entirely or before else ["1 A"]) == leaver.lines
    assert b"" not in leaver.offers
    assert [["1 a", "1 A"]] * 3 == [subscriber.lines for subscriber in everybody[:3]]


async def test_who_leaves_and_returns_in_the_middle_gets_nothing_twice(
    hub: Hub, topics: list[str]
) -> None:
    """One that left and came back has its new position, and only what comes after it."""
    first, last = await start_fan_out(hub, topics)
    for subscriber in (first, last):
        await hub.leave_all(subscriber)
        await hub.subscribe(TOPIC, subscriber, user="u", greet=greeting)
    await hub.publish(TOPIC, b"b")
    await trio.testing.wait_all_tasks_blocked()
    assert ["1 a"] * len(topics) + ["joined 1", "2 b"] == first.lines
    assert ["joined 1", "2 b"] == last.lines


async def test_who_comes_in_the_middle_gets_the_next(hub: Hub, topics: list[str]) -> None:
    """One that joined during a fan-out gets exactly what is published after its position."""
    await start_fan_out(hub, topics)
    await hub.publish(TOPIC, b"b")
    late = Recorder()
    await hub.subscribe(TOPIC, late, user="late", greet=greeting)
    await hub.publish(TOPIC, b"c")
    await trio.testing.wait_all_tasks_blocked()
    assert ["joined 2", "3 c"] == late.lines


async def test_who_closes_in_the_middle_is_skipped(hub: Hub, topics: list[str]) -> None:
    """A neighbour whose verdict ends it does not disturb the fan-out."""
    first, last = await start_fan_out(hub, topics)
    first.verdict = last.verdict = Verdict.CLOSED
    await hub.publish(TOPIC, b"b")
    await trio.testing.wait_all_tasks_blocked()
    assert 1 == len(last.offers)
    assert 8 * len(topics) == hub.statistics().subscriptions


async def test_a_cancelled_hub_finishes_its_round(topics: list[str]) -> None:
    """A fan-out that has begun reaches everybody even if the hub is cancelled meanwhile."""
    hub = Hub(MemoryBroker(), limits=IMPATIENT)
    hub.encode_with("chat", line)
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        _, last = await start_fan_out(hub, topics)
        nursery.cancel_scope.cancel()
    assert ["1 a"] * len(topics) == last.lines


async def test_order_holds_over_rounds(hub: Hub) -> None:
    """Publications that come while a fan-out yields follow in the next, in order."""
    everybody = [Recorder() for _ in range(5)]
    for subscriber in everybody:
        await hub.subscribe(TOPIC, subscriber, user="u")
    for _ in range(50):
        await hub.publish(TOPIC, b"x")
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    expected = [f"{number} x" for number in range(1, 51)]
    assert [expected] * 5 == [subscriber.lines for subscriber in everybody]
