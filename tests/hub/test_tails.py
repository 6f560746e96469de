"""Reads of the history that many joins share."""

import pytest
import trio
import trio.testing

from tests.hub.fakes import Recorder, SlowBroker, line, no_clock
from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Page, Publication, Retention
from trio_gateway.hub.hub import Hub, HubLimits, Joined
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position
from trio_gateway.hub.tails import Tail

TOPIC = "chat:lobby"


class Store(SlowBroker):
    """A memory broker whose reads take a second of virtual time, and may fail."""

    def __init__(self, memory: MemoryBroker | None = None) -> None:
        super().__init__(memory or MemoryBroker(), self)
        self.failing = ""

    async def __call__(self, step: str) -> None:
        if step == f"before {self.failing}":
            await trio.sleep(1)
            raise StoreUnavailable("disk full")
        if step == "after history":
            await trio.sleep(1)

    @property
    def reads(self) -> int:
        return self.calls.count(f"history {TOPIC}")


async def open_hub(nursery: trio.Nursery, broker: SlowBroker, **limits: int) -> Hub:
    hub = Hub(broker, limits=HubLimits(**limits), clock=no_clock)
    hub.encode_with("chat", line)
    await nursery.start(hub.run)
    return hub


async def publish(hub: Hub, count: int) -> Position:
    position = Position("", 0)
    for _ in range(count):
        position = await hub.publish(TOPIC, b"x")
    return position


def back(position: Position, count: int) -> Position:
    return Position(position.epoch, position.offset - count)


class Herd:
    """Subscribers that join at the same moment, and what they got."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.joined: list[Joined] = []
        self.failed: list[StoreUnavailable] = []
        self.members: list[Recorder] = []

    async def join(self, since: Position | None = None, limit: int = 100) -> None:
        member = Recorder()
        self.members.append(member)
        try:
            joined = await self.hub.subscribe(
                TOPIC, member, user=f"u{len(self.members)}", since=since, limit=limit
            )
        except StoreUnavailable as error:
            self.failed.append(error)
        else:
            self.joined.append(joined)

    async def all_join(self, *wishes: Position | None) -> None:
        async with trio.open_nursery() as nursery:
            for since in wishes:
                nursery.start_soon(self.join, since)


async def test_a_herd_reads_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A thousand who come back from one place cost one read, and one making of the answer."""
    hub = await open_hub(nursery, broker := Store())
    latest = await publish(hub, 150)
    herd, made = Herd(hub), list[int]()

    def make(publications: tuple[Publication, ...]) -> int:
        made.append(len(publications))
        return len(made)

    await herd.all_join(*[back(latest, 100)] * 1000)
    assert (1, 1) == (broker.reads, hub.statistics().reads)
    assert [True] * 1000 == [joined.recovered for joined in herd.joined]
    assert {1} == {joined.once(make) for joined in herd.joined}
    assert [100] == made
    assert 1 == len({id(joined.publications) for joined in herd.joined})


async def test_who_wants_more_than_the_read_has_reads_again_for_all(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """However many places they come back from, two reads are enough."""
    hub = await open_hub(nursery, broker := Store())
    latest = await publish(hub, 300)
    herd = Herd(hub)
    await herd.all_join(*[back(latest, n) for n in (3, 50, 100, 101, 250, 0)], None)
    expected = {3: True, 50: True, 100: False, 0: True}
    counts = sorted((len(j.publications), j.recovered) for j in herd.joined)
    assert expected.keys() == {count for count, _ in counts}
    assert [(0, True), (3, True), (50, True), (100, False), (100, False)] == counts[:5]
    assert [(100, True), (100, True)] == counts[5:]
    assert broker.reads <= 2


async def test_who_comes_soon_after_gets_the_same_read_as_the_stream_went_on(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Within a second no join reads again, and none is told of the past."""
    hub = await open_hub(nursery, broker := Store())
    latest = await publish(hub, 10)
    herd = Herd(hub)
    await herd.join(back(latest, 5))
    for n in range(1, 4):
        await publish(hub, 1)
        await herd.join(back(latest, 5))
        assert (latest.offset + n, 5 + n) == (
            herd.joined[-1].position.offset,
            len(herd.joined[-1].publications),
        )
    assert 1 == broker.reads
    await trio.sleep(1.5)
    await herd.join(back(latest, 5))
    assert (2, 8, True) == (
        broker.reads,
        len(herd.joined[-1].publications),
        herd.joined[-1].recovered,
    )


async def test_a_position_the_read_does_not_know_is_asked_for_anew(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Beyond the newest, or of another epoch: only a later read can tell that it is wrong."""
    hub = await open_hub(nursery, broker := Store())
    latest = await publish(hub, 10)
    herd = Herd(hub)
    await herd.join(latest)
    for reads, since in enumerate((back(latest, -1), Position("other", 3)), 2):
        await herd.join(since)
        assert (reads, False) == (broker.reads, herd.joined[-1].recovered)
        assert 10 == len(herd.joined[-1].publications)


async def test_another_takes_over_from_who_gives_up_reading(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The read of a cancelled join is begun again by one of those who wait for it."""
    hub = await open_hub(nursery, broker := Store())
    latest = await publish(hub, 10)
    herd = Herd(hub)
    with trio.CancelScope() as giving_up:

        async def follow() -> None:
            await trio.sleep(0.5)
            nursery.start_soon(herd.all_join, *[back(latest, 4)] * 5)
            await trio.sleep(0.1)
            giving_up.cancel()

        nursery.start_soon(follow)
        await herd.join(back(latest, 4))
    assert giving_up.cancelled_caught
    await trio.sleep(3)
    assert (2, [4] * 5) == (broker.reads, [len(j.publications) for j in herd.joined])
    assert (5, 0) == (hub.statistics().subscriptions, hub.statistics().joining)


@pytest.mark.parametrize("step", ["history", "subscribe"])
async def test_a_store_that_is_away_is_asked_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, step: str
) -> None:
    """All who wait for the same call get its failure, and none is left half in."""
    hub = await open_hub(nursery, broker := Store())
    latest = await publish(hub, 10)
    herd, broker.failing = Herd(hub), step
    await herd.all_join(*[back(latest, 4)] * 100)
    assert (100, 1) == (len(herd.failed), broker.calls.count(f"{step} {TOPIC}"))
    assert {"disk full"} == {str(error) for error in herd.failed}
    await trio.sleep(1)
    assert (0, 0, 0) == (
        hub.statistics().topics,
        hub.statistics().joining,
        broker.memory.statistics().subscribed,
    )
    broker.failing = ""
    await herd.join(back(latest, 4))
    assert 4 == len(herd.joined[0].publications)


async def test_what_was_read_goes_with_the_last_subscriber(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A topic that is not delivered any more has nothing to share."""
    hub = await open_hub(nursery, broker := Store())
    latest = await publish(hub, 10)
    herd = Herd(hub)
    await herd.join(latest)
    await hub.leave_all(herd.members[0])
    await publish(hub, 2)
    await herd.join(latest)
    assert (2, 2) == (broker.reads, len(herd.joined[-1].publications))


async def test_nothing_is_shared_while_the_hub_does_not_run() -> None:
    """Without a stream each join reads for itself."""
    hub = Hub(MemoryBroker(), clock=no_clock)
    hub.encode_with("chat", line)
    herd = Herd(hub)
    for n in range(3):
        await herd.join()
        assert n == herd.joined[-1].position.offset
        await publish(hub, 1)


async def test_what_is_shared_is_bounded(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Over the bound the oldest read goes: who comes then reads again."""
    hub = await open_hub(nursery, broker := Store(), max_shared_bytes=1)
    latest = await publish(hub, 10)
    herd = Herd(hub)
    await herd.join(latest)
    await herd.join(latest)
    assert 1 == broker.reads
    await hub.subscribe("chat:other", Recorder(), user="u")
    await herd.join(latest)
    assert 2 == broker.reads


async def test_a_tail_grows_no_further_than_a_page(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """What the stream brings pushes out the oldest; who needs that is answered by another read."""
    hub = await open_hub(nursery, broker := Store())
    latest = await publish(hub, 3)
    herd = Herd(hub)
    await herd.join(back(latest, 2), 2)
    await publish(hub, 2)
    await herd.join(latest, 2)
    assert (1, [4, 5]) == (broker.reads, [p.position.offset for p in herd.joined[-1].publications])
    await herd.join(back(latest, 2), 4)
    assert (2, [2, 3, 4, 5]) == (
        broker.reads,
        [p.position.offset for p in herd.joined[-1].publications],
    )


async def test_a_million_behind_is_the_newest_page(nursery: trio.Nursery) -> None:
    """Who was away for too long is told so, and gets a page, not a million publications."""
    memory = MemoryBroker(retention=Retention(max_publications=1_000_000, max_bytes=2**30))
    hub = await open_hub(nursery, broker := SlowBroker(memory))
    first = await memory.publish(TOPIC, b"x")
    for _ in range(20_000):
        await memory.publish(TOPIC, b"x")
    herd = Herd(hub)
    await herd.join(first)
    joined = herd.joined[0]
    assert (False, 100, 20_001) == (
        joined.recovered,
        len(joined.publications),
        joined.position.offset,
    )
    assert 1 == broker.calls.count(f"history {TOPIC}")


async def test_a_tail_that_the_stream_does_not_follow_is_over() -> None:
    """After a hole, or in another epoch, it is used no more; what it has is passed over."""
    for epoch, offset, follows in (
        ("e", 2, True),
        ("e", 3, True),
        ("e", 4, False),
        ("f", 3, False),
    ):
        tail = Tail(limit=10, known=None)
        first = Publication(TOPIC, Position("e", 1), b"x")
        second = Publication(TOPIC, Position("e", 2), b"x")
        assert tail.begin(Page((first, second), second.position, recovered=True, more=False), None)
        assert follows == tail.follow(Publication(TOPIC, Position(epoch, offset), b"x"))
        assert follows == tail.ready
