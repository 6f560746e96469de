"""A subscription on its way in: what happens while its history is being read.

In: what the stream brings meanwhile, and the page that was read. Out: the page with the frames
that follow it, without gap or duplicate, or a fresh start. The rule: what is held is bounded, and
a hole between the page and the stream is never passed over in silence.
"""

import attrs

from trio_gateway.hub.broker import Broker, Publication
from trio_gateway.hub.positions import Position
from trio_gateway.hub.topics import Subscription, Topic

# Reads of one join that its topic may outrun before it starts afresh.
_MAX_READS = 3


@attrs.frozen
class Entry:
    """How a subscription comes in.

    Attributes:
        position: of the page, what its reader is told.
        publications: of the page.
        recovered: whether the page has all that was asked for.
        held: frames that follow the page, to be offered at once.
        live: the position after the held frames, from where on it is live.
    """

    position: Position
    publications: tuple[Publication, ...]
    recovered: bool
    held: tuple[bytes, ...]
    live: Position


@attrs.define(eq=False)
class Join:
    """Holds a topic's frames for one subscription until its history is in hand.

    Attributes:
        subscription: the one that joins.
        max_frames: held at most, else all are dropped.
        max_bytes: held at most, likewise.
    """

    subscription: Subscription
    max_frames: int
    max_bytes: int
    # A frame without a position is ephemeral.
    _held: list[tuple[Position | None, bytes]] = attrs.Factory(list)
    _size: int = 0
    _known: Position | None = None

    def hold(self, position: Position | None, frame: bytes) -> None:
        """Hold a frame; over the bound drop all held, which leaves a hole that will be seen."""
        self._held.append((position, frame))
        self._size += len(frame)
        if len(self._held) > self.max_frames or self._size > self.max_bytes:
            self._held.clear()
            self._size = 0

    async def read(self, broker: Broker, since: Position | None, limit: int) -> Entry:
        """Read the history, again while what is held doesn't follow it; then start afresh.

        Raises:
            StoreUnavailable, ValueError: the broker's.

        Cancelled: nothing has happened.
        """
        topic = self.subscription.topic
        page = None
        for _ in range(_MAX_READS):
            self._restart(topic)
            page = await broker.history(topic.name, since=since, limit=limit)
            following = self._following(topic, page.position)
            if following is not None:
                live, held = following
                return Entry(page.position, page.publications, page.recovered, held, live)
        # The stream alone says where the topic is now; what is pending came before.
        assert page is not None
        now = topic.last or page.position
        return Entry(now, (), recovered=False, held=(), live=now)

    def _restart(self, topic: Topic) -> None:
        """Hold for a read that begins now: it will see all that came before."""
        self._held.clear()
        self._size = 0
        self._known = topic.last

    def _following(
        self, topic: Topic, position: Position
    ) -> tuple[Position, tuple[bytes, ...]] | None:
        """Return the frames that follow a page and where they end, None if they don't follow it."""
        frames: list[bytes] = []
        for place, frame in self._held:
            if place is None:
                frames.append(frame)
            elif place.epoch != position.epoch or place.offset > position.offset + 1:
                return None
            elif place.offset > position.offset:
                position = place
                frames.append(frame)
        last = topic.last
        if last is None or _covers(position, last):
            return position, tuple(frames)
        # The topic is beyond what is in hand. Only in another epoch may that be the newer one: it
        # is, if the stream stood still while the page was read.
        if last.epoch != position.epoch and last is self._known:
            return position, tuple(frames)
        return None


def _covers(position: Position, other: Position) -> bool:
    return position.epoch == other.epoch and position.offset >= other.offset
