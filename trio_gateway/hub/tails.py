"""The newest publications of a topic, read once for all who join at the same time.

In: pages of history, and what the stream brings from the moment on at which a page is asked for.
Out: for each who joins, exactly what it missed. The rule: a tail follows its topic without a hole,
or it is dropped; and it is shared for a moment only, so that no join is told of a past one.
"""

from collections import OrderedDict, deque
from itertools import islice
from typing import Any

import attrs
import trio

from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Broker, Page, Publication
from trio_gateway.hub.positions import Position
from trio_gateway.hub.topics import Topic
from trio_gateway.hub.values import Counters, HubLimits

# What a publication in hand takes beside its payload.
_BOOKKEEPING_BYTES = 256
# What a tail may grow to by what the stream brings, however small the page was.
_MIN_ROOM = 16 * 1024


@attrs.frozen
class Missed:
    """What a join gets: the same object for all who ask the same of a tail that stands still.

    Attributes:
        publications: oldest first.
        recovered: whether they are all that came after the position asked for.
        made: what is made of the publications, by maker; see ``Joined.once``.
    """

    publications: tuple[Publication, ...]
    recovered: bool
    made: dict[Any, Any] = attrs.field(factory=dict, eq=False, repr=False)


@attrs.define(eq=False)
class Tail:
    """A read of a topic's history: under way, then in hand and followed by the stream.

    Attributes:
        limit: publications asked for, and held at most.
        known: what the stream had brought when the read began.
        position: the newest in hand; None while the read is under way.
        ready: whether it can be used; once it can't, it never can again.
        done: the read is over, one way or the other.
        failure: why there is no page.
        room: bytes it may hold.
    """

    limit: int
    known: Position | None
    position: Position | None = None
    ready: bool = False
    done: trio.Event = attrs.Factory(trio.Event)
    failure: StoreUnavailable | None = None
    expires: float = 0.0
    room: int = 0
    _publications: deque[Publication] = attrs.Factory(deque)
    _size: int = 0
    # Whether nothing older than what is in hand was kept when it was read.
    _whole: bool = False
    _missed: dict[tuple[Position | None, int], Missed] = attrs.Factory(dict)

    async def settle(self) -> None:
        """Wait until the read is over, which another join does; cancelled, it just ends.

        Raises:
            StoreUnavailable: the read did.
        """
        await self.done.wait()
        if self.failure is not None:
            raise StoreUnavailable(*self.failure.args) from self.failure

    def hold(self, publication: Publication, limits: HubLimits) -> None:
        """Hold what the stream brings during the read; too much of it leaves a hole."""
        self._add(publication)
        if len(self._publications) > limits.max_held or self._size > limits.max_held_bytes:
            self._publications.clear()
            self._size = 0

    def begin(self, page: Page, last: Position | None) -> bool:
        """Take the page; return whether what was held follows it, up to ``last``."""
        held, self._publications = self._publications, deque()
        self._size = 0
        self.position = page.position
        self._whole = not page.more
        for publication in page.publications:
            self._add(publication)
        self.room = max(2 * self._size, _MIN_ROOM)
        self.ready = all(self.follow(publication) for publication in held) and (
            last is None
            or (self.position.epoch == last.epoch and self.position.offset >= last.offset)
            # Only in another epoch may the stream's be the older one: it is, if it stood still.
            or (self.position.epoch != last.epoch and last is self.known)
        )
        return self.ready

    def follow(self, publication: Publication) -> bool:
        """Go on with what the stream brings; return false if that doesn't follow."""
        position, place = self.position, publication.position
        assert position is not None
        if place.epoch != position.epoch or place.offset > position.offset + 1:
            self.ready = False
        elif place.offset > position.offset:
            self.position = place
            self._missed.clear()
            self._add(publication)
            while len(self._publications) > self.limit or self._size > self.room:
                self._size -= _cost(self._publications.popleft())
                self._whole = False
            return True
        else:
            return True
        return False

    def missed(self, since: Position | None, limit: int, *, fresh: bool) -> Missed | None:
        """Return what was missed since a position, or None if that can't be told from here.

        Args:
            since: None asks for the newest page.
            limit: of publications.
            fresh: whether this was read after the question came up. Another epoch, or an offset
                beyond the newest, may be of a time after the read: only then is it known to be
                wrong.
        """
        key = since, limit
        found = self._missed.get(key)
        if found is None:
            found = self._find(since, limit, fresh)
            # Positions that are wrong are anybody's invention; they are not worth remembering.
            if found is not None and (since is None or found.recovered):
                self._missed[key] = found
        return found

    def _find(self, since: Position | None, limit: int, fresh: bool) -> Missed | None:
        position, in_hand = self.position, len(self._publications)
        assert position is not None
        if since is not None:
            behind = position.offset - since.offset
            unknown = since.epoch != position.epoch or behind < 0
            if not unknown and behind <= min(in_hand, limit):
                return Missed(self._newest(behind), recovered=True)
            if unknown and not fresh:
                return None
        if limit > in_hand and not self._whole:
            return None
        return Missed(self._newest(min(limit, in_hand)), recovered=since is None)

    def _newest(self, count: int) -> tuple[Publication, ...]:
        start = len(self._publications) - count
        return tuple(islice(self._publications, start, None)) if count else ()

    def _add(self, publication: Publication) -> None:
        self._publications.append(publication)
        self._size += _cost(publication)


class Tails:
    """The tails of a hub's topics, bounded together.

    Args:
        broker: read from.
        limits: the hub's.
        counters: of reads and of what was held during them.

    Attributes:
        sharing: whether a read that is over is still used; only while the stream runs.
    """

    def __init__(self, broker: Broker, limits: HubLimits, counters: Counters) -> None:
        self.sharing = False
        self._broker = broker
        self._limits = limits
        self._counters = counters
        self._kept: OrderedDict[Topic, Tail] = OrderedDict()
        self._bytes = 0

    def of(self, topic: Topic) -> Tail | None:
        """Return the tail to use or to wait for, if there is one."""
        tail = topic.tail
        if tail is None or not tail.done.is_set():
            return tail
        if self.sharing and trio.current_time() < tail.expires:
            return tail
        self.drop(topic)
        return None

    async def read(self, topic: Topic, since: Position | None, limit: int) -> Tail:
        """Read the history into a new tail of the topic, on behalf of all who wait for it.

        Returns:
            The tail; it isn't ready if the topic outran the read.

        Raises:
            StoreUnavailable: the broker's; whoever waits for this read gets it too.

        Cancelled: there is no tail; who waits for it reads anew.
        """
        self.drop(topic)
        tail = topic.tail = Tail(limit, topic.last)
        self._counters.reads += 1
        try:
            page = await self._broker.history(topic.name, since=since, limit=limit)
            # A topic that was let go of meanwhile has no stream to follow.
            if tail.begin(page, topic.last) and topic.tail is tail:
                tail.expires = trio.current_time() + self._limits.share_seconds
                self._keep(topic, tail)
            else:
                tail.ready = False
        except StoreUnavailable as error:
            tail.failure = error
            raise
        finally:
            if not tail.ready and topic.tail is tail:
                topic.tail = None
            tail.done.set()
        return tail

    def take(self, topic: Topic, publication: Publication) -> None:
        """Take the next publication of the stream into the topic's tail, which it has."""
        tail = topic.tail
        assert tail is not None
        if not tail.done.is_set():
            self._counters.held += 1
            tail.hold(publication, self._limits)
        elif trio.current_time() >= tail.expires or not tail.follow(publication):
            self.drop(topic)

    def drop(self, topic: Topic) -> None:
        """Share the topic's tail no more, if it has one."""
        topic.tail = None
        tail = self._kept.pop(topic, None)
        if tail is not None:
            tail.ready = False
            self._bytes -= tail.room

    def clear(self) -> None:
        """Share none any more."""
        for topic in list(self._kept):
            self.drop(topic)

    def _keep(self, topic: Topic, tail: Tail) -> None:
        """Keep to the bound; those that are being joined are spared."""
        self._kept[topic] = tail
        self._bytes += tail.room
        now = trio.current_time()
        while self._kept:
            oldest, kept = next(iter(self._kept.items()))
            over = self._bytes > self._limits.max_shared_bytes
            if oldest.joins or not (over or now >= kept.expires):
                return
            self.drop(oldest)


def _cost(publication: Publication) -> int:
    return len(publication.payload) + _BOOKKEEPING_BYTES
