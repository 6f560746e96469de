"""The memory broker, case by case; the machine next door holds the whole contract."""

import itertools
import zlib

import pytest
import trio
import trio.testing

from trio_gateway.hub.broker import Broker, Page, Publication, Retention
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position

TOPIC = "chat:lobby"


def offsets(page: Page) -> list[int]:
    return [publication.position.offset for publication in page.publications]


async def filled(count: int, **keywords: int) -> MemoryBroker:
    broker = MemoryBroker(retention=Retention(**keywords))
    for number in range(1, count + 1):
        await broker.publish(TOPIC, f"m{number}".encode())
    return broker


def test_is_a_broker() -> None:
    """The memory broker has the protocol's signatures."""
    broker: Broker = MemoryBroker()
    assert isinstance(broker, MemoryBroker)


async def test_offsets_rise_by_one() -> None:
    """Publications of a topic have the offsets 1, 2, 3 in one epoch."""
    broker = MemoryBroker()
    positions = [await broker.publish(TOPIC, b"x") for _ in range(3)]
    assert [1, 2, 3] == [position.offset for position in positions]
    assert 1 == len({position.epoch for position in positions})


async def test_unknown_topic_is_empty_and_stays_unknown() -> None:
    """Reading a topic nobody published to creates nothing, and its position is stable."""
    broker = MemoryBroker()
    page = await broker.history(TOPIC)
    assert Page((), Position(page.position.epoch, 0), recovered=True, more=False) == page
    assert (await broker.history(TOPIC, since=page.position)).recovered
    assert 0 == broker.statistics().topics


async def test_first_publication_follows_the_empty_position() -> None:
    """Who read an empty topic recovers its first publication."""
    broker = MemoryBroker()
    empty = (await broker.history(TOPIC)).position
    await broker.publish(TOPIC, b"x")
    page = await broker.history(TOPIC, since=empty)
    assert (True, [1]) == (page.recovered, offsets(page))


@pytest.mark.parametrize(
    "since, limit, recovered, expected, more",
    [
        (5, 10, True, [], True),
        (3, 10, True, [4, 5], True),
        (0, 5, True, [1, 2, 3, 4, 5], False),
        (0, 4, False, [2, 3, 4, 5], True),
        (4, 0, False, [], True),
        (5, 0, True, [], True),
        (6, 2, False, [4, 5], True),
        (-1, 9, False, [1, 2, 3, 4, 5], False),
    ],
)
async def test_since(
    since: int, limit: int, recovered: bool, expected: list[int], more: bool
) -> None:
    """Since gives exactly what was missed, or the newest page and the news that it isn't all."""
    broker = await filled(5)
    epoch = (await broker.history(TOPIC)).position.epoch
    page = await broker.history(TOPIC, since=Position(epoch, since), limit=limit)
    assert (recovered, expected, more) == (page.recovered, offsets(page), page.more)


async def test_since_another_epoch() -> None:
    """A position of another epoch is never recovered from, even with nothing published since."""
    broker = await filled(2)
    page = await broker.history(TOPIC, since=Position("other", 2))
    assert (False, [1, 2]) == (page.recovered, offsets(page))


@pytest.mark.parametrize(
    "before, limit, expected, more",
    [
        (None, 2, [4, 5], True),
        (None, 9, [1, 2, 3, 4, 5], False),
        (4, 2, [2, 3], True),
        (3, 2, [1, 2], False),
        (1, 2, [], False),
        (-7, 2, [], False),
        (99, 1, [5], True),
        (3, 0, [], True),
    ],
)
async def test_before(before: int | None, limit: int, expected: list[int], more: bool) -> None:
    """Before gives the page that ends just below an offset, and says whether there is more."""
    broker = await filled(5)
    page = await broker.history(TOPIC, before=before, limit=limit)
    assert (expected, more, 5) == (offsets(page), page.more, page.position.offset)


async def test_senseless_reads_raise() -> None:
    """Since with before, and a negative limit, are the caller's mistakes."""
    broker = MemoryBroker()
    with pytest.raises(ValueError, match="either"):
        await broker.history(TOPIC, since=Position("e", 1), before=1)
    with pytest.raises(ValueError, match="negative"):
        await broker.history(TOPIC, limit=-1)


async def test_a_repeated_key_is_stored_once() -> None:
    """A repetition returns the first position, stores nothing and delivers nothing."""
    broker = MemoryBroker()
    first = await broker.publish(TOPIC, b"x", key="k")
    assert first == await broker.publish(TOPIC, b"y", key="k")
    assert 1 == (await broker.publish("chat:other", b"x", key="k")).offset
    assert [b"x"] == [p.payload for p in (await broker.history(TOPIC)).publications]


async def test_keys_live_as_long_as_their_publication() -> None:
    """A key whose publication was trimmed may be used again, and none is kept longer."""
    broker = MemoryBroker(retention=Retention(max_publications=2))
    for number in range(10):
        await broker.publish(TOPIC, b"x", key=f"k{number}")
    assert 11 == (await broker.publish(TOPIC, b"x", key="k7")).offset
    assert 11 == (await broker.publish(TOPIC, b"x", key="k7")).offset


async def test_count_bound() -> None:
    """The oldest goes first, offsets go on, and who is behind the trimming is told."""
    broker = await filled(5, max_publications=3)
    page = await broker.history(TOPIC)
    assert ([3, 4, 5], False) == (offsets(page), page.more)
    assert (await broker.history(TOPIC, since=Position(page.position.epoch, 2))).recovered
    assert not (await broker.history(TOPIC, since=Position(page.position.epoch, 1))).recovered


async def test_byte_bound_keeps_the_newest() -> None:
    """Payload bytes are bounded, but the newest publication is kept whatever its size."""
    broker = await filled(5, max_bytes=4)
    assert [4, 5] == offsets(await broker.history(TOPIC))
    await broker.publish(TOPIC, b"x" * 100)
    assert [6] == offsets(await broker.history(TOPIC))


async def test_age_bound(autojump_clock: trio.testing.MockClock) -> None:
    """Publications expire by age; the position stays, so that who saw all has missed nothing."""
    broker = await filled(2, max_age=10)
    await trio.sleep(5)
    latest = await broker.publish(TOPIC, b"x")
    await trio.sleep(5)
    assert [3] == offsets(await broker.history(TOPIC))
    await trio.sleep(5)
    page = await broker.history(TOPIC, since=latest)
    assert Page((), latest, recovered=True, more=False, first=4) == page
    assert 0 == broker.statistics().publications


async def test_total_bytes_take_the_oldest_of_all() -> None:
    """Over the broker's own bound the oldest publication of any topic goes."""
    broker = MemoryBroker(max_total_bytes=2_000)
    for name in "abcd":
        await broker.publish(f"chat:{name}", b"x" * 100)
    assert [[], [1], [1], [1]] == [offsets(await broker.history(f"chat:{n}")) for n in "abcd"]
    assert broker.statistics().bytes <= 2_000


async def test_the_least_recently_used_topic_is_forgotten() -> None:
    """Over the bound on topics one is forgotten, and comes back under a new epoch."""
    broker = MemoryBroker(max_topics=2)
    old = await broker.publish("chat:a", b"x")
    await broker.publish("chat:b", b"x")
    await broker.publish("chat:c", b"x")
    page = await broker.history("chat:a", since=old)
    assert (False, 0, ()) == (page.recovered, page.position.offset, page.publications)
    new = await broker.publish("chat:a", b"x")
    assert old.offset == new.offset
    assert old.epoch != new.epoch
    assert (2, 2) == (broker.statistics().topics, broker.statistics().evicted)


async def test_topics_without_history_are_forgotten_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A topic with nothing left but its position goes before one with history."""
    broker = MemoryBroker(retention=Retention(max_age=10), max_topics=2)
    await broker.publish("chat:a", b"x")
    await trio.sleep(9)
    kept = await broker.publish("chat:b", b"x")
    await trio.sleep(1)
    await broker.subscribe("chat:a")
    await broker.unsubscribe("chat:a")
    await broker.publish("chat:c", b"x")
    assert (await broker.history("chat:b", since=kept)).recovered


async def test_a_subscribed_topic_is_not_forgotten() -> None:
    """However many others come, a topic with subscribers keeps its history and epoch."""
    broker = MemoryBroker(max_topics=1)
    await broker.subscribe(TOPIC)
    first = await broker.publish(TOPIC, b"x")
    for number in range(5):
        await broker.publish(f"chat:{number}", b"x")
    page = await broker.history(TOPIC, since=Position(first.epoch, 0))
    assert (True, [1]) == (page.recovered, offsets(page))


async def test_deliveries_are_synchronous_and_in_order() -> None:
    """A subscribed topic's publications are delivered inside publish, others are not."""
    broker = MemoryBroker()
    delivered: list[Publication] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run, delivered.append)
        await broker.publish(TOPIC, b"before")
        await broker.subscribe(TOPIC)
        await broker.subscribe(TOPIC)
        await broker.publish(TOPIC, b"one", key="k")
        await broker.publish(TOPIC, b"again", key="k")
        await broker.publish("chat:other", b"x")
        await broker.publish(TOPIC, b"two")
        assert [b"one", b"two"] == [p.payload for p in delivered]
        await broker.unsubscribe(TOPIC)
        await broker.unsubscribe(TOPIC)
        await broker.publish(TOPIC, b"after")
        nursery.cancel_scope.cancel()
    assert [2, 3] == [p.position.offset for p in delivered]


async def test_run_catches_up() -> None:
    """What was published while nobody ran the stream is delivered when somebody does, once."""
    broker = MemoryBroker()
    delivered: list[Publication] = []
    await broker.subscribe(TOPIC)
    await broker.publish(TOPIC, b"1")
    for while_running in (False, False, True, False):
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.run, delivered.append)
            if while_running:
                await broker.publish(TOPIC, b"2")
            nursery.cancel_scope.cancel()
    await broker.publish(TOPIC, b"3")
    assert [b"1", b"2"] == [p.payload for p in delivered]


def same_bucket() -> tuple[str, str]:
    """Return two topics whose losses the broker does not tell apart."""
    by_bucket: dict[int, str] = {}
    for number in itertools.count():
        name = f"chat:{number}"
        twin = by_bucket.setdefault(zlib.crc32(name.encode()) % 1024, name)
        if twin != name:
            return name, twin
    raise AssertionError


async def test_an_epoch_is_stable_while_subscribed() -> None:
    """A subscribed topic nobody published to keeps its epoch, whatever else is forgotten."""
    name, twin = same_bucket()
    broker = MemoryBroker(max_topics=1)
    await broker.subscribe(name)
    epoch = (await broker.history(name)).position.epoch
    await broker.publish(twin, b"x")
    await broker.publish("chat:other", b"x")
    assert 1 == broker.statistics().evicted
    assert epoch == (await broker.publish(name, b"x")).epoch


async def test_run_twice_raises() -> None:
    """One stream at a time."""
    broker = MemoryBroker()
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run, print)
        with pytest.raises(RuntimeError, match="running already"):
            await broker.run(print)
        nursery.cancel_scope.cancel()


async def test_a_cancelled_publish_has_not_happened() -> None:
    """In memory a publication is stored after the cancellation point or not at all."""
    broker = MemoryBroker()
    with trio.CancelScope() as scope:
        scope.cancel()
        await broker.publish(TOPIC, b"x")
    assert scope.cancelled_caught
    assert () == (await broker.history(TOPIC)).publications


async def test_cursors_only_move_forward() -> None:
    """A cursor never moves back, nor beyond the latest, and each reader has its own."""
    broker = await filled(3)
    assert 0 == await broker.cursor(TOPIC, "ann")
    assert 2 == await broker.advance(TOPIC, "ann", 2)
    assert 2 == await broker.advance(TOPIC, "ann", 1)
    assert 3 == await broker.advance(TOPIC, "ann", 99)
    assert (3, 0) == (await broker.cursor(TOPIC, "ann"), await broker.cursor(TOPIC, "bob"))
    assert 0 == await broker.advance(TOPIC, "bob", -1)
    assert 0 == await broker.advance("chat:none", "ann", 7)
    assert 1 == broker.statistics().cursors


async def test_a_cursor_ends_with_its_epoch() -> None:
    """In a new epoch everything is unread."""
    broker = MemoryBroker(max_topics=1)
    await broker.publish(TOPIC, b"x")
    await broker.advance(TOPIC, "ann", 1)
    await broker.publish("chat:other", b"x")
    await broker.publish(TOPIC, b"x")
    assert 0 == await broker.cursor(TOPIC, "ann")


async def test_cursors_are_bounded() -> None:
    """The least recently moved cursor is forgotten."""
    broker = MemoryBroker(max_cursors=2)
    await broker.publish(TOPIC, b"x")
    for reader in ("ann", "bob", "ann", "cyd"):
        await broker.advance(TOPIC, reader, 1)
    assert [1, 0, 1] == [await broker.cursor(TOPIC, r) for r in ("ann", "bob", "cyd")]


def test_bounds_are_checked() -> None:
    """A bound that keeps nothing is a mistake."""
    with pytest.raises(ValueError, match="at least 1"):
        MemoryBroker(max_topics=0)
    with pytest.raises(ValueError, match="max_publications"):
        Retention(max_publications=0)
