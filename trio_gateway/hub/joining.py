"""A subscription on its way in: how it gets what it missed, and where it goes live.

In: a position to recover from. Out: the publications after it, and the position after the last of
them, in one step with going live. The rule: joins that come together share their reads; a hole
between history and live is never passed over in silence.
"""

from abc import ABC, abstractmethod

import attrs

from trio_gateway.hub.positions import Position
from trio_gateway.hub.tails import Missed, Tails
from trio_gateway.hub.topics import Subscriber, Subscription, Topic

# Reads begun for one join that its topic may outrun before it starts afresh.
_MAX_READS = 3


@attrs.frozen
class Entry:
    """How a subscription comes in.

    Attributes:
        position: it has everything up to here, and is live from here on.
        missed: what it is given.
    """

    position: Position
    missed: Missed


@attrs.define(eq=False)
class Reading(ABC):
    """What needs a topic's history before it is live.

    Attributes:
        since: where it recovers from; None for the newest page.
        limit: of publications.
    """

    topic: Topic
    since: Position | None
    limit: int

    @property
    @abstractmethod
    def wanted(self) -> bool:
        """Whether anybody still needs it."""

    @abstractmethod
    def remove(self, subscription: Subscription) -> bool:
        """Let one go that ends or goes live; return whether it counts as a member already."""

    async def read(self, tails: Tails, *, fresh: bool = False) -> Entry:
        """Find out what was missed, from a read of another join or from its own.

        The caller goes live with the entry before the next checkpoint: until then it is exact. If
        the topic outruns every read, the entry says so and is of this moment.

        Args:
            tails: shares the reads.
            fresh: whether a read that there is already is known to be of a time after ``since``.

        Raises:
            StoreUnavailable: the read did, whoever's it was.

        Cancelled: nothing has happened; who waits for a read of this join begins another.
        """
        topic = self.topic
        before, crowded, reads = None if fresh else topic.tail, False, 0
        position = topic.last
        while self.wanted and reads < _MAX_READS:
            tail = tails.of(topic)
            if tail is None:
                since, limit = self._ask(alone=not crowded)
                tail = await tails.read(topic, since, limit)
                reads += 1
            elif not tail.done.is_set():
                await tail.settle()
                # One that was cancelled has read nothing, one from before may be too old.
                reads += tail.position is not None and tail is not before
            position = tail.position or position
            if tail.ready and tail.position is not None:
                missed = tail.missed(self.since, self.limit, fresh=tail is not before)
                if missed is not None:
                    return Entry(tail.position, missed)
                # Several want different things: the newest page has them all.
                crowded = True
                if topic.tail is tail:
                    tails.drop(topic)
        # The stream alone says where the topic is now; what is pending came before.
        now = topic.last or position or Position("", 0)
        return Entry(now, Missed((), recovered=False))

    def _ask(self, *, alone: bool) -> tuple[Position | None, int]:
        """Return what to read from, and how much: enough for all who are joining now."""
        all_of_them = set(self.topic.joins.values())
        alone = alone and all(each.since == self.since for each in all_of_them)
        return self.since if alone else None, max(each.limit for each in all_of_them)


@attrs.define(eq=False)
class Join(Reading):
    """One subscription until its history is in hand."""

    subscription: Subscription

    @property
    def wanted(self) -> bool:
        """Whether it has not ended."""
        return self.subscription.active

    def remove(self, subscription: Subscription) -> bool:
        """Say that it is no member before it is live."""
        return False


@attrs.define(eq=False)
class Stale(Reading):
    """Subscriptions that were live until the stream left out what comes after ``since``.

    They stay members of the topic, and come in again one after the other from one read.
    """

    subscriptions: dict[Subscriber, Subscription]

    @property
    def wanted(self) -> bool:
        """Whether some have neither ended nor come in again."""
        return bool(self.subscriptions)

    def remove(self, subscription: Subscription) -> bool:
        """Let one go; it has counted all the time."""
        del self.subscriptions[subscription.link.subscriber]
        return True
