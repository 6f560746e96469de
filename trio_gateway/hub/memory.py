"""The broker in memory: one process, nothing on disk, everything bounded.

In: publications, reads, subscriptions. Out: pages, and each publication of a subscribed topic
delivered inside ``publish``, so that the order is exact. The rule: the oldest publication goes
first, and a topic forgotten to keep to a bound comes back under a new epoch.
"""

import secrets
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice

import attrs
import trio

from trio_gateway.hub.broker import Page, Publication, Retention, check_page
from trio_gateway.hub.positions import Position

# What a kept publication takes beside its payload and key: objects, links, its share of a topic.
_BOOKKEEPING_BYTES = 512
# Losses are remembered by hash of the topic's name, not by name: bounded however many are lost.
_LOSS_BUCKETS = 1024


@attrs.frozen
class MemoryStatistics:
    """What a ``MemoryBroker`` holds now.

    Attributes:
        topics: with a history or a position to remember.
        subscribed: topics subscribed.
        publications: kept.
        bytes: their payloads and keys with bookkeeping.
        cursors: of readers.
        evicted: topics forgotten so far to keep to ``max_topics``.
    """

    topics: int
    subscribed: int
    publications: int
    bytes: int
    cursors: int
    evicted: int


@attrs.define(eq=False)
class _Kept:
    publication: Publication
    key: str | None
    expires: float
    cost: int


@attrs.define(eq=False)
class _History:
    """One topic's publications; ``kept`` holds the newest offsets without a hole."""

    epoch: str
    latest: int = 0
    size: int = 0
    kept: deque[_Kept] = attrs.Factory(deque)
    keys: dict[str, Position] = attrs.Factory(dict)


@attrs.define(eq=False)
class _Feed:
    """A subscribed topic: its epoch before the first publication, and what was delivered."""

    epoch: str
    delivered: int


class MemoryBroker:
    """A ``Broker`` in memory; see the protocol for what each method promises.

    Durable until the process ends. ``publish`` lets no other task run (it is a cancellation point,
    not a schedule point), so that one task's publications of a moment make one batch.

    Args:
        retention: the bounds of each topic; None for the defaults of ``Retention``.
        max_topics: topics remembered while nobody subscribes to them, the least recently used
            forgotten first, those without any history left before all others. Subscribed topics
            are always remembered.
        max_total_bytes: payloads and keys of all topics, with about 500 bytes of bookkeeping for
            each publication; over it the oldest publication of all goes.
        max_cursors: read cursors remembered, the least recently moved forgotten first.
    """

    def __init__(
        self,
        *,
        retention: Retention | None = None,
        max_topics: int = 50_000,
        max_total_bytes: int = 2**28,
        max_cursors: int = 100_000,
    ) -> None:
        if min(max_topics, max_total_bytes, max_cursors) < 1:
            raise ValueError("max_topics, max_total_bytes and max_cursors are at least 1")
        self._retention = retention or Retention()
        self._max_topics = max_topics
        self._max_total_bytes = max_total_bytes
        self._max_cursors = max_cursors
        self._run = secrets.token_hex(4)
        self._losses = [0] * _LOSS_BUCKETS
        self._evicted = 0
        self._histories: dict[str, _History] = {}
        self._feeds: dict[str, _Feed] = {}
        # Unsubscribed topics by last use: with publications kept, and with a position alone.
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._spent: OrderedDict[str, None] = OrderedDict()
        # Every kept publication, oldest first; each is also the oldest of its own topic.
        self._order: OrderedDict[_Kept, _History] = OrderedDict()
        self._total_bytes = 0
        self._cursors: OrderedDict[tuple[str, str], Position] = OrderedDict()
        self._deliver: Callable[[Publication], None] | None = None

    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        """Store and deliver; cancelled, it has not happened."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._expire()
        history = self._histories.get(topic)
        if history is None:
            history = self._histories[topic] = _History(self._epoch(topic))
        elif key is not None and (first := history.keys.get(key)) is not None:
            return first
        history.latest += 1
        position = Position(history.epoch, history.latest)
        publication = Publication(topic, position, payload)
        self._keep(history, publication, key)
        feed = self._feeds.get(topic)
        if feed is None:
            self._rest(topic)
        elif self._deliver is not None:
            feed.delivered = position.offset
            self._deliver(publication)
        return position

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        """Read a page; it costs as many steps as the page ends before the latest, and is long."""
        check_page(since, before, limit)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._expire()
        position = self._position(topic)
        history = self._histories.get(topic)
        kept: deque[_Kept] = deque() if history is None else history.kept
        recovered = True
        end = position.offset
        count = min(limit, len(kept))
        if since is not None:
            missed = end - since.offset
            recovered = since.epoch == position.epoch and 0 <= missed <= count
            if recovered:
                count = missed
        elif before is not None:
            end = min(end, before - 1)
            first = position.offset - len(kept) + 1
            count = min(limit, max(0, end - first + 1))
        behind = position.offset - end
        newest_first = [k.publication for k in islice(reversed(kept), behind, behind + count)]
        return Page(
            publications=tuple(reversed(newest_first)),
            position=position,
            recovered=recovered,
            more=behind + count < len(kept),
            first=position.offset - len(kept) + 1,
        )

    async def subscribe(self, topic: str) -> None:
        """Deliver the topic from now on; cancelled, it has not happened."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if topic not in self._feeds:
            position = self._position(topic)
            self._feeds[topic] = _Feed(position.epoch, position.offset)
            self._idle.pop(topic, None)
            self._spent.pop(topic, None)

    async def unsubscribe(self, topic: str) -> None:
        """Stop delivering the topic; cancelled, it has not happened."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._feeds.pop(topic, None) is not None and topic in self._histories:
            self._rest(topic)

    async def advance(self, topic: str, reader: str, offset: int) -> int:
        """Move a cursor forward; cancelled, it has not moved."""
        await trio.lowlevel.checkpoint_if_cancelled()
        latest = self._position(topic)
        now = max(self._cursor(topic, reader), min(offset, latest.offset))
        if now > 0:
            self._cursors[topic, reader] = Position(latest.epoch, now)
            self._cursors.move_to_end((topic, reader))
            if len(self._cursors) > self._max_cursors:
                self._cursors.popitem(last=False)
        return now

    async def cursor(self, topic: str, reader: str) -> int:
        """Return where a cursor is."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._cursor(topic, reader)

    async def run(
        self,
        deliver: Callable[[Publication], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver until cancelled, beginning with what was published while nobody ran this."""
        if self._deliver is not None:
            raise RuntimeError("this broker is running already; one hub runs one broker")
        self._deliver = deliver
        try:
            self._expire()
            for topic, feed in self._feeds.items():
                for publication in self._after(topic, feed.delivered):
                    feed.delivered = publication.position.offset
                    deliver(publication)
            task_status.started()
            await trio.sleep_forever()
        finally:
            self._deliver = None

    def statistics(self) -> MemoryStatistics:
        """Return what is held now; expired publications count until they are next looked at."""
        return MemoryStatistics(
            topics=len(self._histories),
            subscribed=len(self._feeds),
            publications=len(self._order),
            bytes=self._total_bytes,
            cursors=len(self._cursors),
            evicted=self._evicted,
        )

    def _position(self, topic: str) -> Position:
        history = self._histories.get(topic)
        if history is None:
            return Position(self._epoch(topic), 0)
        return Position(history.epoch, history.latest)

    def _epoch(self, topic: str) -> str:
        """Name the epoch of a topic without a history: new after each loss, the same until then."""
        feed = self._feeds.get(topic)
        if feed is not None:
            return feed.epoch
        return f"{self._run}-{self._losses[_bucket(topic)]}"

    def _cursor(self, topic: str, reader: str) -> int:
        cursor = self._cursors.get((topic, reader))
        if cursor is None or cursor.epoch != self._position(topic).epoch:
            return 0
        return cursor.offset

    def _after(self, topic: str, offset: int) -> list[Publication]:
        history = self._histories.get(topic)
        if history is None:
            return []
        publications = (kept.publication for kept in history.kept)
        return [p for p in publications if p.position.offset > offset]

    def _keep(self, history: _History, publication: Publication, key: str | None) -> None:
        cost = len(publication.payload) + len(key or "") + _BOOKKEEPING_BYTES
        kept = _Kept(publication, key, trio.current_time() + self._retention.max_age, cost)
        history.kept.append(kept)
        history.size += len(publication.payload)
        if key is not None:
            history.keys[key] = publication.position
        self._order[kept] = history
        self._total_bytes += cost
        while len(history.kept) > self._retention.max_publications or (
            history.size > self._retention.max_bytes and len(history.kept) > 1
        ):
            self._drop(history.kept[0])
        while self._total_bytes > self._max_total_bytes and len(self._order) > 1:
            self._drop(next(iter(self._order)))

    def _drop(self, kept: _Kept) -> None:
        """Forget a publication, which is the oldest of its topic."""
        history = self._order.pop(kept)
        history.kept.popleft()
        history.size -= len(kept.publication.payload)
        self._total_bytes -= kept.cost
        if kept.key is not None:
            del history.keys[kept.key]
        topic = kept.publication.topic
        if not history.kept and topic in self._idle:
            del self._idle[topic]
            self._spent[topic] = None

    def _expire(self) -> None:
        now = trio.current_time()
        while self._order:
            oldest = next(iter(self._order))
            if oldest.expires > now:
                return
            self._drop(oldest)

    def _rest(self, topic: str) -> None:
        """Count an unsubscribed topic as the most recently used, and keep to ``max_topics``."""
        self._idle.pop(topic, None)
        self._spent.pop(topic, None)
        (self._idle if self._histories[topic].kept else self._spent)[topic] = None
        while len(self._idle) + len(self._spent) > self._max_topics:
            self._evict((self._spent or self._idle).popitem(last=False)[0])

    def _evict(self, topic: str) -> None:
        history = self._histories.pop(topic)
        while history.kept:
            self._drop(history.kept[0])
        self._losses[_bucket(topic)] += 1
        self._evicted += 1


def _bucket(topic: str) -> int:
    return zlib.crc32(topic.encode("utf-8", "surrogatepass")) % _LOSS_BUCKETS
