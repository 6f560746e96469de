"""A subscription on its way in: how it gets what it missed, and where it goes live.

In: a position to recover from. Out: the publications after it, and the position after the last of
them, in one step with going live. The rule: joins that come together share their reads; a hole
between history and live is never passed over in silence.
"""

import attrs

from trio_gateway.hub.positions import Position
from trio_gateway.hub.tails import Missed, Tails
from trio_gateway.hub.topics import Subscription

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
class Join:
    """One subscription until its history is in hand.

    Attributes:
        subscription: the one that joins.
        since: where it recovers from; None for the newest page.
        limit: of publications.
    """

    subscription: Subscription
    since: Position | None
    limit: int

    async def read(self, tails: Tails) -> Entry:
        """Find out what was missed, from a read of another join or from its own.

        The caller goes live with the entry before the next checkpoint: until then it is exact. If
        the topic outruns every read, the entry says so and is of this moment.

        Raises:
            StoreUnavailable: the read did, whoever's it was.

        Cancelled: nothing has happened; who waits for a read of this join begins another.
        """
        topic = self.subscription.topic
        before, crowded, reads = topic.tail, False, 0
        position = topic.last
        while self.subscription.active and reads < _MAX_READS:
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
        joins = self.subscription.topic.joins.values()
        alone = alone and all(join.since == self.since for join in joins)
        return self.since if alone else None, max(join.limit for join in joins)
