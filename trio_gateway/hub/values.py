"""What goes in and out of a hub as data: bounds, where a subscriber came in, statistics."""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from trio_gateway.hub.broker import Publication
from trio_gateway.hub.positions import Position
from trio_gateway.metrics import NO_LATENCIES, NO_SIZES, Distribution

T = TypeVar("T")


@attrs.frozen
class Joined:
    """Where a subscriber came in.

    Attributes:
        position: it is offered every publication after this one, and none up to it.
        publications: oldest first: with ``since``, what it missed, or the newest page if not all
            of that is in hand; without ``since``, the newest page.
        recovered: with ``since``, whether ``publications`` is exactly what came after it. When
            false, the subscriber's state is stale.
        members: distinct users in the topic, itself included.
    """

    position: Position
    publications: tuple[Publication, ...]
    recovered: bool
    members: int
    _made: dict[Any, Any] = attrs.field(factory=dict, eq=False, repr=False)

    def once(self, make: Callable[[tuple[Publication, ...]], T]) -> T:
        """Return ``make(publications)``, made once for all who came in with the same ones.

        Args:
            make: the result is remembered by it, so it is no lambda.
        """
        if make not in self._made:
            self._made[make] = make(self.publications)
        made: T = self._made[make]
        return made


@attrs.frozen(kw_only=True)
class HubLimits:
    """The bounds of a hub.

    Attributes:
        max_topics: topics in use at once, over which ``Hub.has_room_for`` a new one is false.
        max_held: publications of one topic held while its history is being read for joins.
        max_held_bytes: the same, with some bookkeeping.
        share_seconds: how long a read of a topic's history serves those who join after it; 0 for
            those alone who came while it was under way.
        max_shared_bytes: what such reads may hold together; the oldest goes first.
        max_pending_bytes: frames of one topic waiting for the flusher, over which publishing to
            it waits and ephemeral frames are dropped.
        max_burst: publications after which publishing lets the flusher run.
        max_presence_names: members, or changes, above which presence tells the count alone.
        presence_interval: seconds between two presence frames of a topic.
        turn_seconds: of a fan-out, after which the other tasks run.
        turn_check: offers between two looks at the clock.
    """

    max_topics: int = attrs.field(default=200_000, validator=attrs.validators.ge(1))
    max_held: int = attrs.field(default=1_024, validator=attrs.validators.ge(1))
    max_held_bytes: int = attrs.field(default=2**18, validator=attrs.validators.ge(1))
    share_seconds: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    max_shared_bytes: int = attrs.field(default=2**24, validator=attrs.validators.ge(1))
    max_pending_bytes: int = attrs.field(default=2**18, validator=attrs.validators.ge(1))
    max_burst: int = attrs.field(default=64, validator=attrs.validators.ge(1))
    max_presence_names: int = attrs.field(default=100, validator=attrs.validators.ge(0))
    presence_interval: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    turn_seconds: float = attrs.field(default=0.001, validator=attrs.validators.ge(0))
    turn_check: int = attrs.field(default=32, validator=attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class HubStatistics:
    """What a hub has now and has done so far.

    Attributes:
        topics: known now, those about to be released included.
        subscriptions: live now.
        joining: subscriptions that are reading their history now, for the first time or again.
        publications: taken from the broker's stream for somebody.
        deliveries: frames accepted in fan-outs, each counted once for each subscriber.
        batches: fan-outs of one topic's frames of one tick, each counted once.
        slow: offers answered ``SLOW``.
        closed: offers answered ``CLOSED``, or that raised; the subscriber was removed.
        reads: of a topic's history for joins, each counted once however many shared it.
        held: publications that came during such a read.
        gaps: subscriptions that missed something because the broker's stream had a gap: those
            that ended, and those that came in again.
        rejoined: of those, how many came in again.
        dropped: ephemeral frames dropped for a topic with too much pending.
        failed: publications and presence changes whose encoder raised.
        crowded_out: new topics that there was no room for.
        recovered: joins with a position that got exactly what they missed.
        unrecovered: joins with a position whose history was no longer kept.
        replayed: publications given to those that recovered.
        unstored: publishing that ended with ``StoreUnavailable``.
        publishing: seconds until a publication was stored.
        batch_sizes: frames of a topic's batch.
    """

    topics: int
    subscriptions: int
    joining: int
    publications: int
    deliveries: int
    batches: int
    slow: int
    closed: int
    reads: int
    held: int
    gaps: int
    dropped: int
    failed: int
    crowded_out: int
    rejoined: int = 0
    recovered: int = 0
    unrecovered: int = 0
    replayed: int = 0
    unstored: int = 0
    publishing: Distribution = NO_LATENCIES
    batch_sizes: Distribution = NO_SIZES


@attrs.define
class Counters:
    """The counts of a hub that only grow; see ``HubStatistics``."""

    publications: int = 0
    slow: int = 0
    closed: int = 0
    reads: int = 0
    held: int = 0
    gaps: int = 0
    dropped: int = 0
    failed: int = 0
    crowded_out: int = 0
    rejoined: int = 0
    recovered: int = 0
    unrecovered: int = 0
    replayed: int = 0
    unstored: int = 0
