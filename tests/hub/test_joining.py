"""Joining history and live over a broker that takes its time."""

import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.hub.fakes import Recorder, SlowBroker, greeting, line, no_clock
from trio_gateway.errors import CloseCode
from trio_gateway.hub.broker import Page, Publication, Retention
from trio_gateway.hub.hub import Hub, HubLimits, Joined
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position

TOPIC = "chat:lobby"


class Gate:
    """Stops a broker at one named step until it is opened."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.reached = trio.Event()
        self.opened = trio.Event()

    async def __call__(self, step: str) -> None:
        if step == self.step:
            self.reached.set()
            await self.opened.wait()


async def open_hub(
    nursery: trio.Nursery, broker: SlowBroker, *, share_seconds: float = 1.0, **limits: int
) -> Hub:
    hub = Hub(broker, limits=HubLimits(share_seconds=share_seconds, **limits), clock=no_clock)
    hub.encode_with("chat", line)
    await nursery.start(hub.run)
    return hub


async def test_live_is_held_until_the_history_is_read(nursery: trio.Nursery) -> None:
    """What is published while the history is read comes with it, once; the ephemeral is gone."""
    for step in ("before history", "after history"):
        gate = Gate(step)
        hub = await open_hub(nursery, SlowBroker(MemoryBroker(), gate))
        first = await hub.publish(TOPIC, b"a")
        await hub.publish(TOPIC, b"b")
        ann = Recorder()
        results: list[Joined] = []

        async def join(hub: Hub, ann: Recorder, since: Position, results: list[Joined]) -> None:
            results.append(await hub.subscribe(TOPIC, ann, user="ann", since=since, greet=greeting))

        nursery.start_soon(join, hub, ann, first, results)
        await gate.reached.wait()
        await hub.publish(TOPIC, b"c")
        hub.broadcast(TOPIC, b"typing\n")
        await hub.publish(TOPIC, b"d")
        await trio.testing.wait_all_tasks_blocked()
        assert (1, 2) == (hub.statistics().joining, hub.statistics().held)
        gate.opened.set()
        await trio.testing.wait_all_tasks_blocked()
        await hub.publish(TOPIC, b"e")
        await trio.testing.wait_all_tasks_blocked()
        page = [publication.position.offset for publication in results[0].publications]
        assert ([2, 3, 4], ["joined 4", "5 e"]) == (page, ann.lines)
        assert results[0].recovered


@pytest.mark.parametrize(
    "step", ["before subscribe", "after subscribe", "before history", "after history"]
)
async def test_a_cancelled_join_leaves_no_trace(nursery: trio.Nursery, step: str) -> None:
    """Wherever it is cancelled, nothing was offered, nobody is in and the topic is released."""
    gate = Gate(step)
    broker = SlowBroker(MemoryBroker(), gate)
    hub, ann = await open_hub(nursery, broker), Recorder()
    with trio.CancelScope() as scope:

        async def cancel() -> None:
            await gate.reached.wait()
            await hub.publish(TOPIC, b"x")
            scope.cancel()

        nursery.start_soon(cancel)
        await hub.subscribe(TOPIC, ann, user="ann", greet=greeting)
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    statistics = hub.statistics()
    assert ([], (0, [])) == (ann.offers, hub.members(TOPIC))
    assert (0, 0, 0) == (statistics.topics, statistics.joining, statistics.subscriptions)
    assert 0 == broker.memory.statistics().subscribed


@pytest.mark.parametrize("step", ["after subscribe", "after history"])
async def test_who_leaves_while_joining_is_not_greeted(nursery: trio.Nursery, step: str) -> None:
    """Leaving ends a join too: nothing is offered, and the call just returns."""
    gate = Gate(step)
    broker = SlowBroker(MemoryBroker(), gate)
    hub, ann = await open_hub(nursery, broker), Recorder()
    async with trio.open_nursery() as joining:
        joining.start_soon(_join, hub, ann)
        await gate.reached.wait()
        await hub.leave_all(ann)
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
    await trio.testing.wait_all_tasks_blocked()
    assert ([], 0, 0) == (
        ann.offers,
        hub.statistics().topics,
        broker.memory.statistics().subscribed,
    )


async def _join(hub: Hub, subscriber: Recorder) -> None:
    await hub.subscribe(TOPIC, subscriber, user="u", greet=greeting)


async def test_two_joins_of_one_subscriber_make_one_subscription(nursery: trio.Nursery) -> None:
    """The later of two concurrent joins is the one that counts, and greets."""
    gate = Gate("after history")
    hub, ann = await open_hub(nursery, SlowBroker(MemoryBroker(), gate)), Recorder()
    async with trio.open_nursery() as joining:
        joining.start_soon(_join, hub, ann)
        joining.start_soon(_join, hub, ann)
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
    await hub.publish(TOPIC, b"x")
    await trio.testing.wait_all_tasks_blocked()
    assert (["joined 0", "1 x"], 1) == (ann.lines, hub.statistics().subscriptions)


async def test_a_new_join_waits_for_the_release(nursery: trio.Nursery) -> None:
    """Joining while the broker is being unsubscribed subscribes it again afterwards."""
    gate = Gate("after unsubscribe")
    broker = SlowBroker(MemoryBroker(), gate)
    hub, ann = await open_hub(nursery, broker), Recorder()
    await _join(hub, ann)
    await hub.leave_all(ann)
    await gate.reached.wait()
    nursery.start_soon(_join, hub, ann)
    await trio.testing.wait_all_tasks_blocked()
    gate.opened.set()
    await trio.testing.wait_all_tasks_blocked()
    await hub.publish(TOPIC, b"x")
    await trio.testing.wait_all_tasks_blocked()
    assert ["joined 0", "joined 0", "1 x"] == ann.lines
    assert ["subscribe", "unsubscribe", "subscribe"] == [
        call.split()[0] for call in broker.calls if "subscribe" in call
    ]


async def test_who_gives_up_waiting_for_the_release_is_forgotten(nursery: trio.Nursery) -> None:
    """One that leaves while the broker is being unsubscribed does not bring the topic back."""
    gate = Gate("after unsubscribe")
    broker = SlowBroker(MemoryBroker(), gate)
    hub, ann = await open_hub(nursery, broker), Recorder()
    await _join(hub, ann)
    await hub.leave_all(ann)
    await gate.reached.wait()
    nursery.start_soon(_join, hub, ann)
    await trio.testing.wait_all_tasks_blocked()
    await hub.leave_all(ann)
    gate.opened.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (["joined 0"], 0, 0) == (
        ann.lines,
        hub.statistics().topics,
        broker.memory.statistics().subscribed,
    )
    assert 1 == broker.calls.count(f"subscribe {TOPIC}")


class Outrun:
    """Publishes during every read of the history, more than a join may hold."""

    def __init__(self, times: int, count: int) -> None:
        self.times = times
        self.count = count
        self.publish: Callable[[], object] = list
        self.broker = SlowBroker(MemoryBroker(), self)

    async def __call__(self, step: str) -> None:
        if step == "after history" and self.times:
            self.times -= 1
            for _ in range(self.count):
                await self.broker.memory.publish(TOPIC, b"x")


async def test_a_join_that_is_outrun_reads_again(nursery: trio.Nursery) -> None:
    """When more came than may be held, the history is read again, and nothing is missing."""
    outrun = Outrun(times=2, count=4)
    hub, ann = await open_hub(nursery, outrun.broker, max_held=3), Recorder()
    first = await hub.publish(TOPIC, b"x")
    joined = await hub.subscribe(TOPIC, ann, user="ann", since=first, greet=greeting)
    await hub.publish(TOPIC, b"y")
    await trio.testing.wait_all_tasks_blocked()
    assert 3 == outrun.broker.calls.count(f"history {TOPIC}")
    assert list(range(2, 10)) == [p.position.offset for p in joined.publications]
    assert (True, ["joined 9", "10 y"]) == (joined.recovered, ann.lines)


async def test_a_join_that_is_outrun_for_ever_starts_afresh(nursery: trio.Nursery) -> None:
    """After three reads it starts from now, and is told that its state is stale."""
    outrun = Outrun(times=99, count=4)
    hub, ann = await open_hub(nursery, outrun.broker, max_held=3), Recorder()
    first = await hub.publish(TOPIC, b"x")
    joined = await hub.subscribe(TOPIC, ann, user="ann", since=first, greet=greeting)
    await hub.publish(TOPIC, b"y")
    await trio.testing.wait_all_tasks_blocked()
    assert (Position(first.epoch, 13), (), False) == (
        joined.position,
        joined.publications,
        joined.recovered,
    )
    assert ["joined 13", "14 y"] == ann.lines


async def test_what_a_join_holds_is_bounded_in_bytes(nursery: trio.Nursery) -> None:
    """Two long publications are as many as many short ones."""
    outrun = Outrun(times=1, count=2)
    hub, ann = await open_hub(nursery, outrun.broker, max_held_bytes=7), Recorder()
    await hub.subscribe(TOPIC, ann, user="ann", greet=greeting)
    assert ["joined 2"] == ann.lines
    assert 2 == outrun.broker.calls.count(f"history {TOPIC}")


async def test_a_lagging_stream_brings_nothing_twice(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """What was in the history already is not offered again when the stream gets to it."""

    async def lag(_: str) -> None:
        await trio.sleep(1)

    hub = await open_hub(nursery, SlowBroker(MemoryBroker(), lag=lag))
    ann, bob = Recorder(), Recorder()
    await hub.subscribe(TOPIC, ann, user="ann", greet=greeting)
    for word in (b"a", b"b", b"c"):
        await hub.publish(TOPIC, word)
    await trio.sleep(1.5)
    await hub.subscribe(TOPIC, bob, user="bob", greet=greeting)
    await hub.publish(TOPIC, b"d")
    await trio.sleep(10)
    assert ["joined 0", "1 a", "2 b", "3 c", "4 d"] == ann.lines
    assert ["joined 3", "4 d"] == bob.lines


class Scripted(SlowBroker):
    """A broker whose stream and history are set by hand."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.position = Position("one", 0)
        self.deliver: Callable[[Publication], None] | None = None
        # What happens between the reading of a page and its return, once for each.
        self.during_reads: list[Callable[[], Awaitable[None]]] = []
        self.reads = 0

    async def run(
        self,
        deliver: Callable[[Publication], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.deliver = deliver
        task_status.started()
        await trio.sleep_forever()

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        self.reads += 1
        page = Page((), self.position, recovered=since in {None, self.position}, more=False)
        if self.during_reads:
            await self.during_reads.pop(0)()
        return page

    def stream(self, epoch: str, offset: int) -> None:
        assert self.deliver is not None
        self.position = Position(epoch, offset)
        self.deliver(Publication(TOPIC, self.position, epoch.encode()))


@pytest.mark.parametrize("epoch, offset", [("one", 3), ("two", 1), ("two", 2)])
async def test_a_gap_in_the_stream_is_told(nursery: trio.Nursery, epoch: str, offset: int) -> None:
    """Who would miss something is taken out and disconnected, so that it recovers."""
    broker = Scripted()
    hub, ann = await open_hub(nursery, broker), Recorder()
    await _join(hub, ann)
    broker.stream("one", 1)
    await trio.testing.wait_all_tasks_blocked()
    broker.stream(epoch, offset)
    await trio.testing.wait_all_tasks_blocked()
    assert ["joined 0", "1 one"] == ann.lines
    assert [CloseCode.TRY_AGAIN_LATER] == [code for code, _ in ann.disconnected]
    assert (1, 0) == (hub.statistics().gaps, hub.statistics().subscriptions)
    await _join(hub, ann)
    broker.stream(epoch, offset + 1)
    await trio.testing.wait_all_tasks_blocked()
    assert [f"joined {offset}", f"{offset + 1} {epoch}"] == ann.lines[2:]


@pytest.mark.parametrize("offset, gaps", [(6, 1), (7, 1), (8, 2)])
async def test_a_gap_spares_who_has_it_in_the_history(
    nursery: trio.Nursery, offset: int, gaps: int
) -> None:
    """When the stream jumps, who joined beyond the hole is not told; who misses something is."""
    broker = Scripted()
    hub = await open_hub(nursery, broker, share_seconds=0)
    old, new = Recorder(), Recorder()
    broker.position = Position("one", 1)
    await _join(hub, old)
    broker.position = Position("one", 6)
    await _join(hub, new)
    broker.stream("one", offset)
    await trio.testing.wait_all_tasks_blocked()
    assert (gaps, 1) == (hub.statistics().gaps, len(old.disconnected))
    assert ["joined 6", "7 one"][: 2 if offset == 7 else 1] == new.lines


@pytest.mark.parametrize("streamed", [[("two", 6)], [("one", 6), ("two", 1)], [("one", 7)]])
async def test_a_page_that_the_stream_does_not_follow_is_read_again(
    nursery: trio.Nursery, streamed: list[tuple[str, int]]
) -> None:
    """When history is lost, or the stream has a gap, during the read, the next one counts."""
    broker = Scripted()
    hub, ann = await open_hub(nursery, broker), Recorder()
    broker.position = Position("one", 5)

    async def stream() -> None:
        for epoch, offset in streamed:
            broker.stream(epoch, offset)

    broker.during_reads = [stream]
    joined = await hub.subscribe(TOPIC, ann, user="ann", greet=greeting)
    epoch, offset = streamed[-1]
    assert (Position(epoch, offset), True, 2) == (joined.position, joined.recovered, broker.reads)
    broker.stream(epoch, offset + 1)
    await trio.testing.wait_all_tasks_blocked()
    assert [f"joined {offset}", f"{offset + 1} {epoch}"] == ann.lines


async def test_who_left_ahead_of_the_stream_is_not_kept(nursery: trio.Nursery) -> None:
    """One that the stream had not caught up with leaves nothing behind either."""
    broker = Scripted()
    hub, ann = await open_hub(nursery, broker), Recorder()
    await _join(hub, Recorder())
    broker.position = Position("one", 5)
    await _join(hub, ann)
    await hub.leave_all(ann)
    left = weakref.ref(ann)
    del ann
    gc.collect()
    assert left() is None


async def test_a_repeated_delivery_is_ignored(nursery: trio.Nursery) -> None:
    """A stream that goes back over what it brought brings nothing twice."""
    broker = Scripted()
    hub, ann = await open_hub(nursery, broker), Recorder()
    await _join(hub, ann)
    for offset in (1, 2, 1, 2, 3):
        broker.stream("one", offset)
    await trio.testing.wait_all_tasks_blocked()
    assert ["joined 0", "1 one", "2 one", "3 one"] == ann.lines


async def test_a_new_epoch_spares_who_joined_in_it(nursery: trio.Nursery) -> None:
    """Who joined after the history was lost gets on; who joined before is told."""
    broker = Scripted()
    hub = await open_hub(nursery, broker, share_seconds=0)
    old, new = Recorder(), Recorder()
    broker.position = Position("one", 5)
    await _join(hub, old)
    broker.position = Position("two", 2)
    await _join(hub, new)
    broker.stream("one", 6)
    broker.stream("two", 3)
    await trio.testing.wait_all_tasks_blocked()
    assert (1, 0) == (len(old.disconnected), len(new.disconnected))
    assert ["joined 2", "3 two"] == new.lines


async def test_who_cannot_be_disconnected_is_logged(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """A subscriber without disconnect loses its subscription with a warning."""

    class Plain:
        offer = Recorder().offer

    broker = Scripted()
    hub = await open_hub(nursery, broker)
    await hub.subscribe(TOPIC, Plain(), user="u")
    broker.stream("one", 2)
    await trio.testing.wait_all_tasks_blocked()
    assert 1 == len(caplog.records)


async def test_on_gap_that_fails_is_contained(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in the callback is logged and ends nothing."""

    def fail(_: str, __: object) -> None:
        raise LookupError

    broker = Scripted()
    hub = Hub(broker, on_gap=fail, clock=no_clock)
    hub.encode_with("chat", line)
    await nursery.start(hub.run)
    await _join(hub, Recorder())
    broker.stream("one", 2)
    ann = Recorder()
    await _join(hub, ann)
    broker.stream("one", 3)
    await trio.testing.wait_all_tasks_blocked()
    assert (["joined 2", "3 one"], 1) == (ann.lines, len(caplog.records))


async def test_a_trimmed_catch_up_is_a_gap() -> None:
    """When more was published between two runs than is kept, subscribers are told."""
    hub = Hub(MemoryBroker(retention=Retention(max_publications=2)), clock=no_clock)
    hub.encode_with("chat", line)
    ann = Recorder()
    await _join(hub, ann)
    for _ in range(3):
        await hub.publish(TOPIC, b"x")
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (["joined 0"], 1) == (ann.lines, len(ann.disconnected))
