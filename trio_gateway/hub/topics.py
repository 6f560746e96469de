"""What the hub holds of one topic: its subscriptions, and the frames of the next tick.

In: frames in order, subscriptions that come and go at any moment. Out: batches, each one bytes
object with the subscriptions it is for. The rule: a subscription is in the batches of exactly the
frames that came while it was live, less those it was excluded from or has in its history.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs
import trio

from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Publication
from trio_gateway.hub.positions import Position
from trio_gateway.hub.presence import PresenceEncoder, Roster
from trio_gateway.transport.outbox import Lane

if TYPE_CHECKING:
    from trio_gateway.hub.joining import Reading
    from trio_gateway.hub.tails import Tail
    from trio_gateway.hub.values import Joined


class Subscriber(Lane, Protocol):
    """What the hub knows of a connection: where to offer frames. Hashable by identity."""


def lane_of(subscriber: Subscriber) -> Lane:
    """Return what a fan-out offers a subscriber's frames to: its ``lane``, if it has one.

    That is an outbox for most; the call that ``Subscriber.offer`` would be on top is saved.
    """
    lane: Lane = getattr(subscriber, "lane", subscriber)
    return lane


Greet: TypeAlias = "Callable[[Subscriber, Joined], Iterable[bytes]]"
"""Makes the frames that one subscriber gets before it is live."""


def shared(make: "Callable[[Joined], Iterable[bytes]]") -> Greet:
    """Return what greets with frames that are nobody's own: made once for who come in together."""
    last: tuple[object, bytes] = (None, b"")

    def greet(_: Subscriber, joined: "Joined") -> Iterable[bytes]:
        nonlocal last
        where = joined.position, joined.members, joined.recovered
        if where != last[0]:
            last = where, b"".join(make(joined))
        return (last[1],)

    return greet


@attrs.frozen
class Rejoin:
    """How subscribers of one kind of topic stay, when the broker's stream left something out.

    Attributes:
        greeting: called with a topic's name, once for all of its subscribers who miss something;
            gives what makes the complete frames for one of them, which say what it missed, or
            that its state is stale, and are offered before any other of the topic. Entered before
            the history is read and left when all are live; StoreUnavailable has it entered again.
        limit: publications given to one at most.
    """

    greeting: Callable[[str], AbstractAsyncContextManager[Greet]]
    limit: int = attrs.field(default=100, validator=attrs.validators.ge(0))


@attrs.frozen
class Kind:
    """How the topics of one kind become frames."""

    encode: Callable[[Publication], bytes]
    presence: PresenceEncoder | None
    rejoin: Rejoin | None = None


@attrs.define(eq=False)
class Link:
    """One subscriber with all its subscriptions.

    Attributes:
        lane: the subscriber's.
        queue: batches that the flusher has gathered and not offered yet; a subscription that
            ends takes its own out.
    """

    subscriber: Subscriber
    lane: Lane
    subscriptions: dict[str, "Subscription"] = attrs.Factory(dict)
    queue: "list[Batch]" = attrs.Factory(list)

    def add(self, subscription: "Subscription") -> None:
        """Take a subscription in, live or joining."""
        self.subscriptions[subscription.topic.name] = subscription
        if len(self.subscriptions) == 2:
            self._share(1)
        elif len(self.subscriptions) > 2:
            subscription.topic.shared += 1

    def drop(self, subscription: "Subscription") -> None:
        """Let one go, with what is queued of it."""
        topic = subscription.topic
        if self.queue:
            self.queue = [batch for batch in self.queue if batch.topic is not topic]
        if len(self.subscriptions) == 2:
            self._share(-1)
        elif len(self.subscriptions) > 2:
            topic.shared -= 1
        del self.subscriptions[topic.name]

    def _share(self, change: int) -> None:
        for subscription in self.subscriptions.values():
            subscription.topic.shared += change


@attrs.define(eq=False)
class Subscription:
    """One subscriber in one topic, once; coming back makes a new one.

    Attributes:
        active: false from the moment it ended; whoever still holds it then offers it nothing.
        lane: as the link's; here because each delivery looks it up.
    """

    link: Link
    topic: "Topic"
    user: str
    presence: bool
    lane: Lane
    active: bool = True


@attrs.define(eq=False)
class Batch:
    """A topic's frames joined once, and whom they are for.

    Attributes:
        frames: how many frames the data has.
        overlapping: whether its subscriptions may be in another batch of the topic too.
    """

    topic: "Topic"
    subscriptions: list[Subscription]
    data: bytes
    frames: int
    overlapping: bool = False


@attrs.define(eq=False)
class BrokerCall:
    """A call of the broker that others wait for.

    Attributes:
        over: set when it is.
        failure: why it failed, for whoever waited for it to succeed.
    """

    over: trio.Event = attrs.Factory(trio.Event)
    failure: StoreUnavailable | None = None


@attrs.define(eq=False)
class Topic:
    """One topic with subscribers or joins in progress.

    Attributes:
        name: ``kind:name``.
        last: the newest position the broker's stream has brought, or that a first subscriber
            joined at.
        subscriptions: the live ones.
        joins: those reading their history; many share one where the stream had a gap.
        listeners: the live ones that asked for presence.
        shared: how many subscriptions, live or joining, are not their subscriber's only one.
        pending_bytes: waiting for the flusher.
        dirty: whether the flusher knows of what is pending.
        attached: whether the broker is subscribed.
        busy: the broker call in progress, which may change ``attached``.
        tail: the read of its history that joins share.
    """

    name: str
    kind: Kind
    last: Position | None = None
    subscriptions: dict[Subscriber, Subscription] = attrs.Factory(dict)
    joins: "dict[Subscriber, Reading]" = attrs.Factory(dict)
    roster: Roster = attrs.Factory(Roster)
    listeners: dict[Subscription, None] = attrs.Factory(dict)
    shared: int = 0
    pending_bytes: int = 0
    dirty: bool = False
    attached: bool = False
    busy: "BrokerCall | None" = None
    tail: "Tail | None" = None
    # The live ones as a list that is never changed, made when it is needed: batches share it.
    _audience: list[Subscription] | None = None
    _pending: list[bytes] = attrs.Factory(list)
    _notices: list[bytes] = attrs.Factory(list)
    # Subscriptions with their own view of what is pending: live only from this index on, …
    _fresh: dict[Subscription, int] = attrs.Factory(dict)
    # … without these indices, …
    _omitted: dict[Subscription, set[int]] = attrs.Factory(dict)
    # … and without what the stream brings up to this position, which they have in their history.
    _ahead: dict[Subscription, Position] = attrs.Factory(dict)

    @property
    def unused(self) -> bool:
        """Whether nobody needs the broker's subscription."""
        return not self.subscriptions and not self.joins

    def go_live(self, subscription: Subscription, position: Position) -> None:
        """Add a subscription that has everything up to ``position``, and needs all after it."""
        self.subscriptions[subscription.link.subscriber] = subscription
        self._audience = None
        if subscription.presence:
            self.listeners[subscription] = None
        if self._pending:
            self._fresh[subscription] = len(self._pending)
        if self.last is None:
            self.last = position
        elif position.epoch != self.last.epoch or position.offset > self.last.offset:
            self._ahead[subscription] = position

    def remove(self, subscription: Subscription) -> bool:
        """End a live subscription; return false if it isn't one."""
        subscriber = subscription.link.subscriber
        if self.subscriptions.get(subscriber) is not subscription:
            return False
        del self.subscriptions[subscriber]
        self._audience = None
        for exceptions in (self.listeners, self._fresh, self._omitted, self._ahead):
            exceptions.pop(subscription, None)
        if not self.listeners:
            self._notices.clear()  # who listens from now on knows better
        return True

    def missing(self, position: Position) -> list[Subscription]:
        """Return who misses something before ``position``, at which the stream has jumped."""
        return [
            subscription
            for subscription in self.subscriptions.values()
            if (joined := self._ahead.get(subscription)) is None
            or joined.epoch != position.epoch
            or joined.offset + 1 < position.offset
        ]

    def part(
        self, last: Position, position: Position
    ) -> "tuple[list[Batch], dict[Position, dict[Subscriber, Subscription]]]":
        """Take out whoever misses something before ``position``, to which the stream has jumped.

        Args:
            last: where it stood.
            position: where it stands.

        Returns:
            What is pending as batches, theirs among them, and them, by the positions up to which
            they have everything then.
        """
        spared: dict[Subscription, Position] = {}
        ahead: dict[Subscription, Position] = {}
        for subscription, joined in self._ahead.items():
            near = joined.epoch == position.epoch and joined.offset + 1 >= position.offset
            (spared if near else ahead)[subscription] = joined
        batches = self.take()
        stale = {last: self.subscriptions}
        self.subscriptions = {each.link.subscriber: each for each in spared}
        for subscriber in self.subscriptions:
            del stale[last][subscriber]
        for each, joined in ahead.items():
            # One that is where all are now stays among them.
            moved = {each.link.subscriber: stale[last].pop(each.link.subscriber)}
            stale.setdefault(joined, {}).update(moved)
        self._ahead = spared
        self._audience = None
        self.listeners = {each: None for each in self.listeners if each in spared}
        return batches, {since: found for since, found in stale.items() if found}

    def append(self, frame: bytes, position: Position) -> None:
        """Add a publication's frame, the next of the stream, for those who don't have it yet."""
        index = len(self._pending)
        for subscription, joined in list(self._ahead.items()) if self._ahead else ():
            if joined.epoch == position.epoch and joined.offset < position.offset:
                del self._ahead[subscription]
            else:
                self._omitted.setdefault(subscription, set()).add(index)
        self._pending.append(frame)
        self.pending_bytes += len(frame)

    def append_ephemeral(self, frame: bytes, exclude: Subscriber | None) -> None:
        """Add a frame that is no publication, for all but one."""
        if exclude is not None and (excluded := self.subscriptions.get(exclude)) is not None:
            self._omitted.setdefault(excluded, set()).add(len(self._pending))
        self._pending.append(frame)
        self.pending_bytes += len(frame)

    def append_notice(self, frame: bytes) -> None:
        """Add a frame for the listeners."""
        self._notices.append(frame)

    def take(self) -> list[Batch]:
        """Return what is pending as batches, in the order to be written.

        One batch for most, one for each subscription with its own view, one for the listeners.
        """
        frames, self._pending = self._pending, []
        notices, self._notices = self._notices, []
        self.pending_bytes = 0
        self.dirty = False
        batches: list[Batch] = []
        if self._fresh or self._omitted:
            fresh, self._fresh = self._fresh, {}
            omitted, self._omitted = self._omitted, {}
            own = {**fresh, **omitted}
            most = [s for s in self.subscriptions.values() if s not in own]
            self._add(batches, most, frames)
            for subscription in own:
                start = fresh.get(subscription, 0)
                without = omitted.get(subscription, ())
                view = [f for i, f in enumerate(frames) if i >= start and i not in without]
                self._add(batches, [subscription], view)
        else:
            if self._audience is None:
                self._audience = list(self.subscriptions.values())
            self._add(batches, self._audience, frames)
        if notices:
            self._add(batches, list(self.listeners), notices, overlapping=True)
        return batches

    def _add(
        self,
        batches: list[Batch],
        subscriptions: list[Subscription],
        frames: list[bytes],
        *,
        overlapping: bool = False,
    ) -> None:
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if data and subscriptions:
            batches.append(Batch(self, subscriptions, data, len(frames), overlapping))
