"""Subscribers whose stream has a gap stay, and are told what they missed."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import trio
import trio.testing

from tests.hub.fakes import LossyBroker, Recorder, line, no_clock
from trio_gateway.errors import CloseCode, StoreUnavailable
from trio_gateway.hub.broker import Page
from trio_gateway.hub.hub import Greet, Hub, HubLimits, Joined, Rejoin, Subscriber, shared
from trio_gateway.hub.positions import Position
from trio_gateway.hub.presence import Change
from trio_gateway.transport.outbox import Verdict

TOPIC = "chat:lobby"


def again(joined: Joined) -> list[bytes]:
    what = "recovered" if joined.recovered else "stale"
    position = f"{joined.position.epoch}:{joined.position.offset}"
    return [f"{what} {position} of {joined.members}\n".encode(), *map(line, joined.publications)]


@asynccontextmanager
async def greeting(_: str) -> AsyncGenerator[Greet, None]:
    yield shared(again)


def tell(_: str, change: Change) -> bytes:
    return f"presence {change.count} {change.joined} {change.left} {change.members}\n".encode()


async def open_hub(
    nursery: trio.Nursery,
    broker: LossyBroker,
    *,
    rejoin: Rejoin | None = None,
    clock: Callable[[], float] = no_clock,
    **limits: int,
) -> Hub:
    hub = Hub(broker, limits=HubLimits(**limits), clock=clock)
    hub.encode_with("chat", line, presence=tell, rejoin=rejoin or Rejoin(greeting, limit=5))
    await nursery.start(hub.run)
    return hub


async def enter(hub: Hub, count: int = 1, *, presence: bool = False) -> list[Recorder]:
    recorders = [Recorder() for _ in range(count)]
    for number, recorder in enumerate(recorders):
        await hub.subscribe(TOPIC, recorder, user=f"u{number}", presence=presence)
    return recorders


async def miss(hub: Hub, broker: LossyBroker, *words: bytes) -> None:
    """Publish what the stream leaves out."""
    broker.deaf = True
    for word in words:
        await hub.publish(TOPIC, word)
    broker.deaf = False


rest = trio.testing.wait_all_tasks_blocked


async def test_a_hole_is_filled_from_the_history(nursery: trio.Nursery) -> None:
    """Who missed something hears it, and what comes then, once and in order; nobody is cut."""
    hub = await open_hub(nursery, broker := LossyBroker())
    (ann,) = await enter(hub)
    await hub.publish(TOPIC, b"a")
    await rest()
    await miss(hub, broker, b"b", b"c")
    await hub.publish(TOPIC, b"d")
    await rest()
    await hub.publish(TOPIC, b"e")
    await rest()
    assert ["1 a", "recovered e1:4 of 1", "2 b", "3 c", "4 d", "5 e"] == ann.lines
    assert [] == ann.disconnected
    told = hub.statistics()
    assert (1, 1, 1, 0, 3) == (
        *(told.gaps, told.rejoined, told.recovered, told.unrecovered, told.replayed),
    )
    assert (1, 0) == (told.subscriptions, told.joining)


async def test_a_history_that_was_lost_is_told(nursery: trio.Nursery) -> None:
    """When the epoch changes, the state is stale and what there is comes with that."""
    hub = await open_hub(nursery, broker := LossyBroker())
    (ann,) = await enter(hub)
    await hub.publish(TOPIC, b"a")
    await rest()
    broker.lose()
    for word in (b"b", b"c"):
        await hub.publish(TOPIC, word)
        await rest()
    assert ["1 a", "stale e2:1 of 1", "1 b", "2 c"] == ann.lines
    assert [] == ann.disconnected
    assert (0, 1) == (hub.statistics().recovered, hub.statistics().unrecovered)


async def test_more_than_a_page_is_stale(nursery: trio.Nursery) -> None:
    """A hole that is larger than what one may be given is told, with the newest."""
    hub = await open_hub(nursery, broker := LossyBroker())
    (ann,) = await enter(hub)
    await miss(hub, broker, b"a", b"b", b"c", b"d", b"e", b"f")
    await hub.publish(TOPIC, b"g")
    await rest()
    assert ["stale e1:7 of 1", "3 c", "4 d", "5 e", "6 f", "7 g"] == ann.lines


async def test_what_was_pending_comes_before_the_gap(nursery: trio.Nursery) -> None:
    """In the tick of the gap, what came before it is offered, and only then what was missed."""
    hub = await open_hub(nursery, broker := LossyBroker())
    (ann,) = await enter(hub, presence=True)
    await hub.publish(TOPIC, b"a")
    hub.broadcast(TOPIC, b"typing\n")
    await miss(hub, broker, b"b")
    await hub.publish(TOPIC, b"c")
    hub.broadcast(TOPIC, b"too early\n")
    await rest()
    assert ["1 a", "typing", "recovered e1:3 of 1", "2 b", "3 c"] == ann.lines


async def test_a_gap_in_the_middle_of_a_fan_out(nursery: trio.Nursery) -> None:
    """Whoever had not got the batch of before the gap yet gets it before the greeting."""
    ticks = count()
    hub = await open_hub(nursery, broker := LossyBroker(), clock=lambda: next(ticks), turn_check=1)
    everybody = await enter(hub, 20)
    await hub.publish(TOPIC, b"a")
    while not everybody[3].offers:
        await trio.lowlevel.checkpoint()
    assert not everybody[19].offers
    began = broker.reads
    await hub.publish(TOPIC, b"b")
    await miss(hub, broker, b"c")
    await hub.publish(TOPIC, b"d")
    await hub.publish(TOPIC, b"e")
    await rest()
    for one in everybody:
        assert ["1 a", "2 b", "recovered e1:5 of 20", "3 c", "4 d", "5 e"] == one.lines
    assert 1 == broker.reads - began


async def test_a_crowd_shares_a_read_and_lets_others_run(nursery: trio.Nursery) -> None:
    """A thousand come back from one read with one frame, a few in each turn."""
    hub = await open_hub(nursery, broker := LossyBroker())
    everybody = await enter(hub, 1_000)
    await miss(hub, broker, b"a")
    began = broker.reads
    turns = 0

    async def other() -> None:
        nonlocal turns
        while not everybody[-1].offers:
            turns += 1
            await trio.lowlevel.checkpoint()

    nursery.start_soon(other)
    await hub.publish(TOPIC, b"b")
    await rest()
    assert 1 == broker.reads - began
    assert turns >= 1_000 // HubLimits().turn_check
    assert all(["recovered e1:2 of 1000", "1 a", "2 b"] == one.lines for one in everybody)
    assert 1 == len({id(one.offers[0]) for one in everybody})


async def test_a_crowd_whose_history_is_lost_shares_a_read(nursery: trio.Nursery) -> None:
    """An unknown epoch has nobody read for himself."""
    hub = await open_hub(nursery, broker := LossyBroker())
    await hub.publish(TOPIC, b"a")
    everybody = await enter(hub, 200)
    broker.lose()
    began = broker.reads
    await hub.publish(TOPIC, b"b")
    await rest()
    assert 1 == broker.reads - began
    assert all(["stale e2:1 of 200", "1 b"] == one.lines for one in everybody)


class Gate:
    """Holds up the reading of histories until it is opened."""

    def __init__(self) -> None:
        self.closed = False
        self.waiting = 0
        self._opened = trio.Event()

    async def __call__(self, step: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed and step == "after history":
            self.waiting += 1
            try:
                await self._opened.wait()
            finally:
                self.waiting -= 1

    def open(self) -> None:
        self.closed = False
        self._opened.set()


async def on_the_way(
    nursery: trio.Nursery, count: int = 2, *, presence: bool = False
) -> tuple[Hub, LossyBroker, Gate, list[Recorder]]:
    """Return a hub with some on their way back, who miss ``a`` and ``b``."""
    gate = Gate()
    hub = await open_hub(nursery, broker := LossyBroker(gate))
    everybody = await enter(hub, count, presence=presence)
    gate.closed = True
    await miss(hub, broker, b"a")
    await hub.publish(TOPIC, b"b")
    await rest()
    assert 1 == gate.waiting
    assert count == hub.statistics().joining
    return hub, broker, gate, everybody


async def test_who_leaves_on_the_way_back_hears_nothing(nursery: trio.Nursery) -> None:
    """By leaving or by its end; the others come back."""
    hub, broker, gate, (ann, bob, eve) = await on_the_way(nursery, 3)
    assert await hub.unsubscribe(TOPIC, ann)
    assert not await hub.unsubscribe(TOPIC, ann)
    await hub.leave_all(bob)
    gate.open()
    await rest()
    assert ([], [], ["recovered e1:2 of 1", "1 a", "2 b"]) == (ann.lines, bob.lines, eve.lines)
    assert (1, ["u2"]) == hub.members(TOPIC)
    await hub.leave_all(eve)
    await rest()
    assert (0, set()) == (hub.statistics().topics, broker.topics)


async def test_a_topic_that_all_leave_on_the_way_back_is_let_go(nursery: trio.Nursery) -> None:
    """The hub has nothing of it any more, and its next subscriber comes in as the first."""
    hub, broker, gate, (ann, bob) = await on_the_way(nursery)
    await hub.leave_all(ann)
    await hub.leave_all(bob)
    await rest()
    assert (0, 0, set()) == (hub.statistics().topics, hub.statistics().joining, broker.topics)
    gate.open()
    await rest()
    (eve,) = await enter(hub)
    await hub.publish(TOPIC, b"c")
    await rest()
    assert ([], ["3 c"]) == (ann.lines, eve.lines)
    assert 0 == hub.statistics().rejoined


async def test_who_joins_by_itself_on_the_way_back_is_greeted_once(nursery: trio.Nursery) -> None:
    """Its own join takes the place of the hub's."""
    hub, _, gate, (ann, bob) = await on_the_way(nursery)

    async def join() -> None:
        since = Position("e1", 0)
        await hub.subscribe(TOPIC, ann, user="u0", since=since, greet=lambda _: [b"own\n"])

    nursery.start_soon(join)
    await rest()
    gate.open()
    await rest()
    await hub.publish(TOPIC, b"c")
    await rest()
    assert ["own", "3 c"] == ann.lines
    assert ["1 a", "2 b", "3 c"] == bob.lines[1:]
    assert 2 == hub.members(TOPIC)[0] == hub.statistics().subscriptions


async def test_who_comes_meanwhile_is_live_at_once(nursery: trio.Nursery) -> None:
    """A newcomer doesn't wait for those who come back, nor they for it."""
    hub, broker, gate, (ann, bob) = await on_the_way(nursery)
    gate.open()
    await rest()
    eve = Recorder()
    await hub.subscribe(TOPIC, eve, user="eve")
    await miss(hub, broker, b"c")
    await hub.publish(TOPIC, b"d")
    await rest()
    assert ["recovered e1:4 of 3", "3 c", "4 d"] == eve.lines
    assert ann.lines == bob.lines
    assert ["recovered e1:2 of 2", "1 a", "2 b", *eve.lines] == ann.lines


async def test_a_gap_while_the_history_is_read(nursery: trio.Nursery) -> None:
    """A read that the stream does not follow is done again; nobody is greeted twice."""
    hub, broker, gate, (ann, _) = await on_the_way(nursery)
    await miss(hub, broker, b"c")
    await hub.publish(TOPIC, b"d")
    await rest()
    gate.open()
    await rest()
    assert ["recovered e1:4 of 2", "1 a", "2 b", "3 c", "4 d"] == ann.lines
    assert 2 == hub.statistics().gaps == hub.statistics().rejoined


async def test_the_history_is_lost_while_it_is_read(nursery: trio.Nursery) -> None:
    """Two losses on the way are told as one."""
    hub, broker, gate, (ann, _) = await on_the_way(nursery)
    broker.lose()
    await hub.publish(TOPIC, b"c")
    broker.lose()
    await hub.publish(TOPIC, b"d")
    gate.open()
    await rest()
    assert ["stale e3:1 of 2", "1 d"] == ann.lines


async def test_gaps_in_a_row(nursery: trio.Nursery) -> None:
    """Of one tick, and of several: each publication comes once, in order."""
    hub = await open_hub(nursery, broker := LossyBroker(), rejoin=Rejoin(greeting))
    ann, bob = await enter(hub, 2)
    for _ in range(3):
        for _ in range(3):
            await miss(hub, broker, b"x")
            await hub.publish(TOPIC, b"y")
        await rest()
    for one in (ann, bob):
        offsets = [int(each.split()[0]) for each in one.lines if each[0].isdigit()]
        assert list(range(1, 19)) == offsets
        assert [] == one.disconnected


async def test_who_is_ahead_of_the_stream_goes_on_from_there(nursery: trio.Nursery) -> None:
    """Who joined beyond the stream misses less than the others, or nothing."""
    hub = await open_hub(nursery, broker := LossyBroker(), share_seconds=0)
    (old,) = await enter(hub)
    ahead, near = Recorder(), Recorder()
    await miss(hub, broker, b"a", b"b")
    await hub.subscribe(TOPIC, ahead, user="ahead")
    await miss(hub, broker, b"c")
    await hub.subscribe(TOPIC, near, user="near")
    await hub.publish(TOPIC, b"d")
    await rest()
    assert ["recovered e1:4 of 3", "1 a", "2 b", "3 c", "4 d"] == old.lines
    assert ["recovered e1:4 of 3", "3 c", "4 d"] == ahead.lines
    assert ["4 d"] == near.lines


async def test_a_store_that_is_down_is_waited_for(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """However long it takes: who is connected stays so, and the store is asked rarely."""
    hub = await open_hub(nursery, broker := LossyBroker())
    ann, bob = await enter(hub, 2)
    await miss(hub, broker, b"a")
    broker.down, broker.available = True, False
    began = broker.reads
    await hub.publish(TOPIC, b"b")
    await trio.sleep(600)
    assert ([], 2) == (ann.lines, hub.statistics().joining)
    assert broker.reads - began < 600 / 5 + 10
    assert 2 == hub.members(TOPIC)[0]
    broker.down, broker.available = False, True
    await trio.sleep(5)
    assert ["recovered e1:2 of 2", "1 a", "2 b"] == ann.lines == bob.lines
    assert [] == ann.disconnected


async def test_a_store_that_fails_and_says_nothing_ends_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """After half a minute who can't be brought back is disconnected, and may resume."""
    hub = await open_hub(nursery, broker := LossyBroker())
    (ann,) = await enter(hub)
    await miss(hub, broker, b"a")
    broker.down = True
    await hub.publish(TOPIC, b"b")
    await trio.sleep(29)
    assert [] == ann.disconnected
    await trio.sleep(10)
    assert [CloseCode.TRY_AGAIN_LATER] == [code for code, _ in ann.disconnected]
    assert (0, 0, 1) == (
        *(hub.statistics().subscriptions, hub.statistics().joining, hub.statistics().gaps),
    )
    broker.down = False
    await hub.subscribe(TOPIC, ann, user="ann", since=Position("e1", 0), greet=again)
    await rest()
    assert ["recovered e1:2 of 1", "1 a", "2 b"] == ann.lines


async def test_a_greeting_that_fails_costs_one_subscriber(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """It is parted with, as without a greeting; the others come back."""

    @asynccontextmanager
    async def picky(_: str) -> AsyncGenerator[Greet, None]:
        def greet(subscriber: Subscriber, joined: Joined) -> list[bytes]:
            if subscriber is ann:
                raise LookupError
            return again(joined)

        yield greet

    hub = await open_hub(nursery, broker := LossyBroker(), rejoin=Rejoin(picky))
    ann, bob = await enter(hub, 2)
    await miss(hub, broker, b"a")
    await hub.publish(TOPIC, b"b")
    await rest()
    assert ([], 1) == (ann.lines, len(ann.disconnected))
    assert ["recovered e1:2 of 1", "1 a", "2 b"] == bob.lines
    assert 1 == len(caplog.records)


async def test_what_cannot_be_prepared_ends_it_for_all(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the application's is logged and ends nothing but the subscriptions."""

    @asynccontextmanager
    async def broken(_: str) -> AsyncGenerator[Greet, None]:
        raise LookupError
        yield shared(again)

    hub = await open_hub(nursery, broker := LossyBroker(), rejoin=Rejoin(broken))
    ann, bob = await enter(hub, 2)
    await miss(hub, broker, b"a")
    await hub.publish(TOPIC, b"b")
    await rest()
    assert (1, 1, 1) == (len(ann.disconnected), len(bob.disconnected), len(caplog.records))
    assert 0 == hub.statistics().subscriptions


@pytest.mark.parametrize("verdict", [Verdict.SLOW, Verdict.CLOSED])
async def test_who_takes_no_greeting(nursery: trio.Nursery, verdict: Verdict) -> None:
    """One that is gone is let go; one that is slow sees to its own end, as with any frame."""
    hub = await open_hub(nursery, broker := LossyBroker())
    ann, bob = await enter(hub, 2)
    await miss(hub, broker, b"a")
    ann.verdict = verdict
    await hub.publish(TOPIC, b"b")
    await rest()
    assert ["1 a", "2 b"] == bob.lines[1:]
    gone = verdict is Verdict.CLOSED
    assert 2 - gone == hub.statistics().subscriptions
    assert (gone, not gone) == (hub.statistics().closed, hub.statistics().slow)


async def test_members_stay_members(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Nobody is told that they left; who listens for presence hears who is there when back."""
    hub, _, gate, (ann, _) = await on_the_way(nursery, presence=True)
    eve = Recorder()
    assert (2, ["u0", "u1"]) == hub.members(TOPIC)

    async def join() -> None:
        await hub.subscribe(TOPIC, eve, user="eve", presence=True)

    nursery.start_soon(join)
    await trio.sleep(5)
    gate.open()
    await trio.sleep(5)
    for one in (ann, eve):
        told = [each for each in one.lines if each.startswith("presence")]
        assert told[-1].endswith("('u0', 'u1', 'eve')")
        assert not any("('u0',)" in each or "('u1',)" in each for each in told)


async def test_users_on_the_way_back_can_be_disconnected(nursery: trio.Nursery) -> None:
    """They are found like all others."""
    hub, _, gate, (ann, _) = await on_the_way(nursery)
    assert 1 == await hub.disconnect_user("u0", 4403, "no more")
    assert [(4403, "no more")] == ann.disconnected
    gate.open()


async def test_a_hub_that_runs_again_brings_back(nursery: trio.Nursery) -> None:
    """Stopped at any moment of it, the next run goes on with what is left."""
    gate = Gate()
    broker = LossyBroker(gate)
    hub = Hub(broker, clock=no_clock, limits=HubLimits(turn_check=1))
    hub.encode_with("chat", line, rejoin=Rejoin(greeting))
    everybody = await enter(hub, 5)
    for checkpoints in range(12):
        for one in everybody:
            one.offers.clear()
        async with trio.open_nursery() as running:
            await running.start(hub.run)
            await rest()
            await hub.publish(TOPIC, b"before")
            await miss(hub, broker, b"a")
            await hub.publish(TOPIC, b"b")
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            running.cancel_scope.cancel()
        await hub.publish(TOPIC, b"between")
        async with trio.open_nursery() as running:
            await running.start(hub.run)
            await hub.publish(TOPIC, b"after")
            await rest()
            running.cancel_scope.cancel()
        for one in everybody:
            words = [each.split()[1] for each in one.lines if each[0].isdigit()]
            assert ["before", "a", "b", "between", "after"] == words, checkpoints
            assert [] == one.disconnected


async def test_few_topics_are_read_at_once(nursery: trio.Nursery) -> None:
    """A store that comes back isn't asked for every topic in the same moment."""
    gate = Gate()
    hub = await open_hub(nursery, broker := LossyBroker(gate))
    everybody = {f"chat:{n}": Recorder() for n in range(50)}
    for topic, one in everybody.items():
        await hub.subscribe(topic, one, user="u")
    gate.closed = True
    broker.lose()
    for topic in everybody:
        await hub.publish(topic, b"a")
    await rest()
    assert 0 < gate.waiting <= 8
    gate.open()
    await rest()
    assert all(["stale e2:1 of 1", "1 a"] == one.lines for one in everybody.values())


async def test_topics_that_fail_hold_up_no_others(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """While a part of the store can't be read, what is in the other part comes back at once."""

    class Half(LossyBroker):
        async def history(self, topic: str, **asked: Any) -> Page:
            if self.deaf and topic.startswith("chat:bad"):
                await trio.sleep(1)
                raise StoreUnavailable("this half is down")
            return await super().history(topic, **asked)

    broker = Half()
    hub = await open_hub(nursery, broker)
    everybody = {f"chat:{kind}{n}": Recorder() for kind in ("bad", "good") for n in range(50)}
    for topic, one in everybody.items():
        await hub.subscribe(topic, one, user="u")
    broker.lose()
    for topic in everybody:
        await hub.publish(topic, b"a")
    broker.deaf = True
    await trio.sleep(60 / 8)
    assert all(everybody[f"chat:good{n}"].lines for n in range(50))
    assert not any(everybody[f"chat:bad{n}"].lines for n in range(50))
    await hub.leave_all(everybody["chat:bad0"])
    broker.deaf = False
    await trio.sleep(20)
    assert all(everybody[f"chat:bad{n}"].lines for n in range(1, 50))
    assert 99 == hub.statistics().rejoined


async def test_a_kind_without_a_greeting_is_parted_with(nursery: trio.Nursery) -> None:
    """``on_gap`` is told, as before, and only then."""
    told: list[tuple[str, object]] = []
    broker = LossyBroker()
    hub = Hub(broker, on_gap=lambda topic, who: told.append((topic, who)), clock=no_clock)
    hub.encode_with("chat", line, rejoin=Rejoin(greeting))
    hub.encode_with("plain", line)
    await nursery.start(hub.run)
    ann = Recorder()
    for topic in (TOPIC, "plain:x"):
        await hub.subscribe(topic, ann, user="ann")
    broker.lose()
    for topic in (TOPIC, "plain:x"):
        await hub.publish(topic, b"a")
        await hub.publish(topic, b"b")
        await rest()
        broker.lose()
    await hub.publish(TOPIC, b"c")
    await hub.publish("plain:x", b"c")
    await rest()
    assert [("plain:x", ann)] == told
    assert 1 == hub.statistics().subscriptions
