"""What goes in and out of a hub as data: bounds, where a subscriber came in, statistics."""

import attrs

from trio_gateway.hub.broker import Publication
from trio_gateway.hub.positions import Position


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


@attrs.frozen(kw_only=True)
class HubLimits:
    """The bounds of a hub.

    Attributes:
        max_held: publications held for one join while its history is being read.
        max_held_bytes: their frames.
        max_pending_bytes: frames of one topic waiting for the flusher, over which publishing to
            it waits and ephemeral frames are dropped.
        max_burst: publications after which publishing lets the flusher run.
        max_presence_names: members, or changes, above which presence tells the count alone.
        presence_interval: seconds between two presence frames of a topic.
        turn_seconds: of a fan-out, after which the other tasks run.
        turn_check: offers between two looks at the clock.
    """

    max_held: int = attrs.field(default=1_024, validator=attrs.validators.ge(1))
    max_held_bytes: int = attrs.field(default=2**18, validator=attrs.validators.ge(1))
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
        joining: subscriptions that are reading their history now.
        publications: taken from the broker's stream for somebody.
        deliveries: frames accepted in fan-outs, each counted once for each subscriber.
        batches: fan-outs of one topic's frames of one tick, each counted once.
        slow: offers answered ``SLOW``.
        closed: offers answered ``CLOSED``, or that raised; the subscriber was removed.
        held: publications held back for a join, each counted once for each join.
        gaps: subscriptions ended because the broker's stream had a gap.
        dropped: ephemeral frames dropped for a topic with too much pending.
        failed: publications and presence changes whose encoder raised.
    """

    topics: int
    subscriptions: int
    joining: int
    publications: int
    deliveries: int
    batches: int
    slow: int
    closed: int
    held: int
    gaps: int
    dropped: int
    failed: int


@attrs.define
class Counters:
    """The counts of a hub that only grow; see ``HubStatistics``."""

    publications: int = 0
    slow: int = 0
    closed: int = 0
    held: int = 0
    gaps: int = 0
    dropped: int = 0
    failed: int = 0
