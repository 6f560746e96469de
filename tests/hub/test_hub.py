"""The hub, case by case: who is offered what, in which order, and what is left behind."""

import gc
import logging
import weakref

import pytest
import trio
import trio.testing

from tests.hub.fakes import Recorder, SlowBroker, greeting, line, no_clock
from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Publication
from trio_gateway.hub.hub import Hub, HubLimits
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position
from trio_gateway.transport.outbox import Verdict

TOPIC = "chat:lobby"


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


def new_hub(broker: MemoryBroker | SlowBroker | None = None, **limits: int) -> Hub:
    hub = Hub(broker or MemoryBroker(), limits=HubLimits(**limits), clock=no_clock)
    hub.encode_with("chat", line)
    return hub


@pytest.fixture
async def hub(nursery: trio.Nursery) -> Hub:
    hub = new_hub()
    await nursery.start(hub.run)
    return hub


async def test_a_publication_reaches_all_subscribers_as_one_object(hub: Hub) -> None:
    """Everybody in the topic is offered the same bytes object, nobody else anything."""
    ann, bob, cyd = Recorder(), Recorder(), Recorder()
    await hub.subscribe(TOPIC, ann, user="ann")
    await hub.subscribe(TOPIC, bob, user="bob")
    await hub.subscribe("chat:other", cyd, user="cyd")
    await hub.publish(TOPIC, b"hi")
    await settle()
    assert [b"1 hi\n"] == ann.offers
    assert ann.offers[0] is bob.offers[0]
    assert [] == cyd.offers


async def test_a_publication_is_encoded_once(nursery: trio.Nursery) -> None:
    """However many subscribers, the encoder is called once; with none, not at all."""
    encoded: list[Publication] = []

    def encode(publication: Publication) -> bytes:
        encoded.append(publication)
        return line(publication)

    hub = Hub(MemoryBroker(), clock=no_clock)
    hub.encode_with("news", encode)
    await nursery.start(hub.run)
    await hub.publish("news:a", b"nobody")
    for number in range(5):
        await hub.subscribe("news:a", Recorder(), user=str(number))
    await hub.publish("news:a", b"all")
    await settle()
    assert [b"all"] == [publication.payload for publication in encoded]


async def test_a_tick_is_a_batch(hub: Hub) -> None:
    """What is published within one tick is one offer."""
    ann = Recorder()
    await hub.subscribe(TOPIC, ann, user="ann")
    for word in (b"a", b"b", b"c"):
        await hub.publish(TOPIC, word)
    await settle()
    assert [b"1 a\n2 b\n3 c\n"] == ann.offers
    assert (1, 3) == (hub.statistics().batches, hub.statistics().deliveries)


async def test_a_long_burst_lets_the_flusher_run(nursery: trio.Nursery) -> None:
    """A task that only publishes lets the others run once in max_burst publications."""
    hub = new_hub(max_burst=4)
    await nursery.start(hub.run)
    ann = Recorder()
    await hub.subscribe(TOPIC, ann, user="ann")
    for _ in range(40):
        await hub.publish(TOPIC, b"x")
    # In a tick the flusher may have its turn before or after the publisher's.
    assert {4, 8} >= {offer.count(b"\n") for offer in ann.offers}
    assert 32 <= len(ann.lines)


async def test_several_topics_are_one_offer(hub: Hub) -> None:
    """A subscriber of several busy topics gets their frames of a tick at once."""
    both, one = Recorder(), Recorder()
    await hub.subscribe("chat:a", both, user="u")
    await hub.subscribe("chat:b", both, user="u")
    await hub.subscribe("chat:b", one, user="v")
    await hub.publish("chat:b", b"x")
    await hub.publish("chat:a", b"y")
    await hub.publish("chat:b", b"z")
    await settle()
    assert [b"1 x\n2 z\n1 y\n"] == both.offers
    assert [b"1 x\n2 z\n"] == one.offers
    assert 5 == hub.statistics().deliveries


async def test_publishing_delivers_to_a_hub_that_runs_later() -> None:
    """What is published before the hub runs is delivered once it does."""
    hub, ann = new_hub(), Recorder()
    joined = await hub.subscribe(TOPIC, ann, user="ann")
    await hub.publish(TOPIC, b"early")
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        await settle()
        assert (0, ["1 early"]) == (joined.position.offset, ann.lines)
        nursery.cancel_scope.cancel()


async def test_a_hub_that_runs_again_goes_on() -> None:
    """Between two runs nothing is lost and nothing comes twice."""
    hub, ann = new_hub(), Recorder()
    await hub.subscribe(TOPIC, ann, user="ann")
    for number in range(3):
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            await hub.publish(TOPIC, b"in")
            if number:
                await settle()
            nursery.cancel_scope.cancel()
        await hub.publish(TOPIC, b"between")
    assert ["1 in", "2 between", "3 in", "4 between", "5 in"] == ann.lines


async def test_run_twice_raises(hub: Hub) -> None:
    """A hub is run once at a time."""
    with pytest.raises(RuntimeError, match="running already"):
        await hub.run()


async def test_joined_tells_where_it_came_in(hub: Hub) -> None:
    """Without since there is the newest page; with it, what was missed; then come the rest."""
    first = await hub.publish(TOPIC, b"a")
    await hub.publish(TOPIC, b"b")
    ann, bob = Recorder(), Recorder()
    fresh = await hub.subscribe(TOPIC, ann, user="ann", limit=1)
    assert (2, [b"b"], True, 1) == (
        fresh.position.offset,
        [publication.payload for publication in fresh.publications],
        fresh.recovered,
        fresh.members,
    )
    back = await hub.subscribe(TOPIC, bob, user="bob", since=first)
    assert ([b"b"], True, 2) == (
        [publication.payload for publication in back.publications],
        back.recovered,
        back.members,
    )
    await hub.publish(TOPIC, b"c")
    await settle()
    assert ["3 c"] == ann.lines == bob.lines


async def test_stale_positions_are_not_recovered(hub: Hub) -> None:
    """A position of another epoch joins with recovered false and the newest page."""
    await hub.publish(TOPIC, b"a")
    joined = await hub.subscribe(TOPIC, Recorder(), user="ann", since=Position("gone", 1))
    assert (False, 1) == (joined.recovered, len(joined.publications))


async def test_the_greeting_comes_first(hub: Hub) -> None:
    """The greeting is offered before any frame of the topic, even one that is pending."""
    ann, bob = Recorder(), Recorder()
    await hub.subscribe(TOPIC, ann, user="ann", greet=greeting)
    await hub.publish(TOPIC, b"a")
    await hub.subscribe(TOPIC, bob, user="bob", greet=greeting)
    await hub.publish(TOPIC, b"b")
    await settle()
    assert ["joined 0", "1 a", "2 b"] == ann.lines
    assert ["joined 1", "2 b"] == bob.lines


async def test_a_greeting_that_fails_leaves_no_trace(hub: Hub) -> None:
    """When greet raises, the subscriber is not in."""

    def fail(_: object) -> list[bytes]:
        raise LookupError

    ann = Recorder()
    with pytest.raises(LookupError):
        await hub.subscribe(TOPIC, ann, user="ann", greet=fail)
    await hub.publish(TOPIC, b"a")
    await settle()
    assert ([], (0, []), 0) == (ann.offers, hub.members(TOPIC), hub.statistics().topics)


async def test_nothing_after_unsubscribe(hub: Hub) -> None:
    """What was pending when a subscription ended is not offered."""
    ann, bob = Recorder(), Recorder()
    await hub.subscribe(TOPIC, ann, user="ann")
    await hub.subscribe(TOPIC, bob, user="bob")
    await hub.publish(TOPIC, b"a")
    assert await hub.unsubscribe(TOPIC, ann)
    assert not await hub.unsubscribe(TOPIC, ann)
    await settle()
    assert ([], ["1 a"]) == (ann.lines, bob.lines)


async def test_joining_again_is_leaving_and_joining(hub: Hub) -> None:
    """A second subscribe replaces the first: no publication comes twice."""
    ann = Recorder()
    await hub.subscribe(TOPIC, ann, user="ann", greet=greeting)
    await hub.publish(TOPIC, b"a")
    await settle()
    await hub.publish(TOPIC, b"b")
    joined = await hub.subscribe(TOPIC, ann, user="ann", greet=greeting)
    await hub.publish(TOPIC, b"c")
    await settle()
    assert ["joined 0", "1 a", "joined 2", "3 c"] == ann.lines
    assert (1, 1) == (joined.members, hub.statistics().subscriptions)


async def test_leave_all_works_when_cancelled(hub: Hub) -> None:
    """In a cancelled scope leave_all still ends every subscription, and does not raise."""
    ann = Recorder()
    await hub.subscribe("chat:a", ann, user="ann")
    await hub.subscribe("chat:b", ann, user="ann")
    with trio.CancelScope() as scope:
        scope.cancel()
        await hub.leave_all(ann)
        await hub.leave_all(ann)
    assert not scope.cancelled_caught
    await hub.publish("chat:a", b"x")
    await settle()
    assert ([], 0, 0) == (ann.offers, hub.statistics().subscriptions, hub.statistics().topics)


async def test_unused_topics_leave_the_broker(nursery: trio.Nursery) -> None:
    """The broker is subscribed with the first subscriber and released after the last."""
    broker = SlowBroker(MemoryBroker())
    hub = new_hub(broker)
    await nursery.start(hub.run)
    ann, bob = Recorder(), Recorder()
    await hub.subscribe(TOPIC, ann, user="ann")
    await hub.subscribe(TOPIC, bob, user="bob")
    await hub.unsubscribe(TOPIC, ann)
    await settle()
    assert 1 == broker.memory.statistics().subscribed
    await hub.unsubscribe(TOPIC, bob)
    await settle()
    assert (0, 0) == (broker.memory.statistics().subscribed, hub.statistics().topics)
    assert [f"subscribe {TOPIC}", f"unsubscribe {TOPIC}"] == [
        call for call in broker.calls if "subscribe" in call
    ]


async def test_a_closed_subscriber_is_removed_everywhere(hub: Hub) -> None:
    """An offer answered CLOSED ends all subscriptions of that subscriber."""
    ann, bob = Recorder(), Recorder()
    for topic in ("chat:a", "chat:b"):
        await hub.subscribe(topic, ann, user="ann")
        await hub.subscribe(topic, bob, user="bob")
    ann.verdict = Verdict.CLOSED
    await hub.publish("chat:a", b"x")
    await settle()
    await hub.publish("chat:b", b"y")
    await settle()
    assert (1, ["1 x", "1 y"]) == (len(ann.offers), bob.lines)
    assert (1, 2) == (hub.statistics().closed, hub.statistics().subscriptions)
    assert (1, ["bob"]) == hub.members("chat:b")


async def test_a_slow_subscriber_is_counted_and_stays(hub: Hub) -> None:
    """SLOW is the connection's to act on; the hub counts it."""
    ann = Recorder(Verdict.SLOW)
    await hub.subscribe(TOPIC, ann, user="ann")
    for _ in range(2):
        await hub.publish(TOPIC, b"x")
        await settle()
    statistics = hub.statistics()
    assert (2, 1, 0) == (statistics.slow, statistics.subscriptions, statistics.deliveries)


async def test_closed_at_the_greeting(hub: Hub) -> None:
    """A subscriber that is closed when greeted does not stay."""
    ann = Recorder(Verdict.CLOSED)
    await hub.subscribe(TOPIC, ann, user="ann", greet=greeting)
    assert (0, (0, [])) == (hub.statistics().subscriptions, hub.members(TOPIC))


@pytest.mark.parametrize("topics", [["chat:a"], ["chat:a", "chat:b"]])
async def test_an_offer_that_raises_harms_nobody_else(
    hub: Hub, topics: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A subscriber whose offer fails is removed and logged; the others get everything."""

    class Broken(Recorder):
        def offer(self, frame: bytes) -> Verdict:
            raise LookupError

    before, broken, after = Recorder(), Broken(), Recorder()
    for topic in topics:
        for subscriber in (before, broken, after):
            await hub.subscribe(topic, subscriber, user="u")
    for topic in topics:
        await hub.publish(topic, b"x")
    await settle()
    assert ["1 x"] * len(topics) == before.lines == after.lines
    assert (1, 2 * len(topics)) == (hub.statistics().closed, hub.statistics().subscriptions)
    assert [logging.ERROR] == [record.levelno for record in caplog.records]


async def test_an_encoder_that_raises_skips_that_publication(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """The publisher and the other publications don't notice; it is counted and logged."""

    def encode(publication: Publication) -> bytes:
        if publication.payload == b"bad":
            raise LookupError
        return line(publication)

    hub, ann = Hub(MemoryBroker(), clock=no_clock), Recorder()
    hub.encode_with("chat", encode)
    await nursery.start(hub.run)
    await hub.subscribe(TOPIC, ann, user="ann")
    for payload in (b"a", b"bad", b"c"):
        await hub.publish(TOPIC, payload)
    await settle()
    assert (["1 a", "3 c"], 1) == (ann.lines, hub.statistics().failed)
    assert [logging.ERROR] == [record.levelno for record in caplog.records]


async def test_broadcasts_go_in_order_and_not_to_the_excluded(hub: Hub) -> None:
    """An ephemeral frame has its place among the publications, and one who doesn't get it."""
    ann, bob = Recorder(), Recorder()
    await hub.subscribe(TOPIC, ann, user="ann")
    await hub.subscribe(TOPIC, bob, user="bob")
    await hub.publish(TOPIC, b"a")
    hub.broadcast(TOPIC, b"bob types\n", exclude=bob)
    await hub.publish(TOPIC, b"b")
    hub.broadcast(TOPIC, b"all\n")
    hub.broadcast("chat:nobody", b"x\n")
    hub.broadcast(TOPIC, b"stranger types\n", exclude=Recorder())
    await settle()
    assert ["1 a", "bob types", "2 b", "all", "stranger types"] == ann.lines
    assert ["1 a", "2 b", "all", "stranger types"] == bob.lines


async def test_broadcasts_are_dropped_over_the_bound(nursery: trio.Nursery) -> None:
    """With too much pending, an ephemeral frame is dropped and counted."""
    hub, ann = new_hub(max_pending_bytes=5), Recorder()
    await nursery.start(hub.run)
    await hub.subscribe(TOPIC, ann, user="ann")
    for _ in range(4):
        hub.broadcast(TOPIC, b"xx\n")
    await settle()
    assert (["xx", "xx"], 2) == (ann.lines, hub.statistics().dropped)


async def test_publishing_waits_for_the_flusher_over_the_bound(nursery: trio.Nursery) -> None:
    """With too much pending, publishing waits until a round has taken it."""
    hub, ann = new_hub(max_pending_bytes=5), Recorder()
    await nursery.start(hub.run)
    await hub.subscribe(TOPIC, ann, user="ann")
    await hub.publish(TOPIC, b"long enough")
    assert [] == ann.lines
    await hub.publish(TOPIC, b"b")
    assert ["1 long enough"] == ann.lines
    await settle()
    assert ["1 long enough", "2 b"] == ann.lines


async def test_publishing_waits_for_no_hub_that_is_not_running(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody would take what is pending, so publishing stores and returns."""
    hub = new_hub(max_pending_bytes=1)
    await hub.subscribe(TOPIC, Recorder(), user="ann")
    hub.broadcast(TOPIC, b"pending\n")
    with trio.fail_after(1):
        assert 1 == (await hub.publish(TOPIC, b"x")).offset


async def test_a_publication_cancelled_while_it_waits_is_not_stored(nursery: trio.Nursery) -> None:
    """Cancelled before the broker was asked, nothing has happened."""
    hub = new_hub(max_pending_bytes=5)
    await nursery.start(hub.run)
    await hub.subscribe(TOPIC, Recorder(), user="ann")
    await hub.publish(TOPIC, b"long enough")
    with trio.CancelScope() as scope:
        scope.cancel()
        await hub.publish(TOPIC, b"cancelled")
    assert scope.cancelled_caught
    assert 1 == (await hub.history(TOPIC)).position.offset


async def test_topics_without_an_encoder_are_refused(hub: Hub) -> None:
    """A kind nobody encodes is a mistake, told before anything is stored."""
    for topic in ("lobby", "dance:lobby", ":lobby", ""):
        with pytest.raises(ValueError, match="no encoder"):
            await hub.publish(topic, b"x")
        with pytest.raises(ValueError, match="no encoder"):
            await hub.subscribe(topic, Recorder(), user="ann")
    for kind in ("", "a:b", "chat"):
        with pytest.raises(ValueError, match="kind"):
            hub.encode_with(kind, line)


async def test_reads_pass_through(hub: Hub) -> None:
    """History and cursors are the broker's."""
    position = await hub.publish(TOPIC, b"x", key="k")
    assert position == await hub.publish(TOPIC, b"x", key="k")
    assert position == (await hub.history(TOPIC)).position
    assert 1 == await hub.advance(TOPIC, "ann", 5)
    assert 1 == await hub.cursor(TOPIC, "ann")


@pytest.mark.parametrize("step", ["subscribe", "history"])
async def test_a_store_that_is_away_leaves_nobody_half_in(nursery: trio.Nursery, step: str) -> None:
    """When the store fails, the subscriber isn't in, others are, and a retry works."""
    away = True

    async def pause(at: str) -> None:
        if away and at == f"before {step}":
            raise StoreUnavailable

    broker = SlowBroker(MemoryBroker(), pause)
    hub, ann = new_hub(broker), Recorder()
    await nursery.start(hub.run)
    with pytest.raises(StoreUnavailable):
        await hub.subscribe(TOPIC, ann, user="ann")
    await settle()
    assert (0, 0) == (hub.statistics().topics, broker.memory.statistics().subscribed)
    away = False
    await hub.subscribe(TOPIC, ann, user="ann")
    await hub.publish(TOPIC, b"x")
    await settle()
    assert ["1 x"] == ann.lines


async def test_releasing_is_retried(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A store that is away when a topic is to be released is asked again later."""
    failures = 2

    async def pause(at: str) -> None:
        nonlocal failures
        if at == "before unsubscribe" and failures:
            failures -= 1
            raise StoreUnavailable

    broker = SlowBroker(MemoryBroker(), pause)
    hub, ann = new_hub(broker), Recorder()
    await nursery.start(hub.run)
    await hub.subscribe(TOPIC, ann, user="ann")
    await hub.leave_all(ann)
    await trio.sleep(10)
    assert (0, 0) == (hub.statistics().topics, broker.memory.statistics().subscribed)


async def test_who_left_is_not_kept(hub: Hub) -> None:
    """After leaving, in whatever state the topic was, the hub has no reference left."""
    await hub.subscribe(TOPIC, Recorder(), user="stays")
    left: list[weakref.ref[Recorder]] = []
    for pending in (False, True):
        if pending:
            await hub.publish(TOPIC, b"x")
        ann = Recorder()
        left.append(weakref.ref(ann))
        await hub.subscribe(TOPIC, ann, user="ann", presence=True, greet=greeting)
        hub.broadcast(TOPIC, b"typing\n", exclude=ann)
        await hub.leave_all(ann)
        del ann
    await settle()
    gc.collect()
    assert [None, None] == [reference() for reference in left]


async def test_an_idle_hub_sleeps(hub: Hub, autojump_clock: trio.testing.MockClock) -> None:
    """With nothing pending no timer runs: the clock jumps to our own deadline at once."""
    await hub.subscribe(TOPIC, Recorder(), user="ann", presence=True)
    await settle()
    before = trio.lowlevel.current_statistics().seconds_to_next_deadline
    assert float("inf") == before
