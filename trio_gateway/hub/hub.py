"""The hub: who listens to which topic, and every publication to each of them once.

In: publications from the broker's stream, subscribers that come and go. Out: frames, encoded once
and offered to all. The rule: from the position a subscriber joined at, it is offered every
publication of the topic once, in order, until it leaves; nothing after that; and if that can't be
kept, it is told.

::

    publish → broker → deliver → encode → pending of the topic → flusher → offer
                          ├─ tail of the topic, if somebody joins → greeting
                          └─ a gap: its topic's tail is read → greeting again
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, runtime_checkable

import attrs
import trio

from trio_gateway.errors import CloseCode, StoreUnavailable
from trio_gateway.hub.broker import (
    Broker,
    Cluster,
    Page,
    Pipelined,
    Publication,
    Receipt,
    Watched,
)
from trio_gateway.hub.flusher import Flusher
from trio_gateway.hub.index import Index
from trio_gateway.hub.joining import Entry
from trio_gateway.hub.neighbours import Neighbours
from trio_gateway.hub.positions import Position
from trio_gateway.hub.presence import PresenceEncoder
from trio_gateway.hub.rejoining import Rejoining
from trio_gateway.hub.tails import Tails
from trio_gateway.hub.topics import (
    Greet,
    Kind,
    Link,
    Rejoin,
    Subscriber,
    Subscription,
    Topic,
    shared,
)
from trio_gateway.hub.values import Counters, HubLimits, HubStatistics, Joined
from trio_gateway.metrics import Histogram
from trio_gateway.transport.outbox import Verdict

__all__ = [
    "Greet",
    "Hub",
    "HubLimits",
    "HubStatistics",
    "Joined",
    "Rejoin",
    "Subscriber",
    "disconnect_stale",
    "shared",
]

_log = logging.getLogger(__name__)


@runtime_checkable
class _Disconnectable(Protocol):
    def disconnect(self, code: int, reason: str) -> None: ...


def disconnect_stale(topic: str, subscriber: Subscriber) -> None:
    """Disconnect a subscriber that missed publications, so that it comes back and recovers."""
    if isinstance(subscriber, _Disconnectable):
        subscriber.disconnect(CloseCode.TRY_AGAIN_LATER, "publications were missed, resume")
    else:
        _log.warning(
            "publications of %r were missed by %r, which cannot be told", topic, subscriber
        )


@attrs.define(eq=False)
class _TimedReceipt:
    """A receipt of the broker, whose waiting is counted."""

    hub: "Hub"
    receipt: Receipt
    began: float

    async def position(self) -> Position:
        return await self.hub.settle(self.receipt, self.began)


def _greet_nobody(_: Joined) -> Iterable[bytes]:
    return ()


class Hub:
    """The local index of topics and their delivery.

    Order: of one topic, every subscriber is offered the publications by offset and the ephemeral
    frames among them as they came. Between topics there is no order.

    Args:
        broker: stores and carries the publications. One hub runs one broker.
        limits: the hub's bounds; None for the defaults of ``HubLimits``.
        on_gap: told of a subscriber whose subscription to the topic ended because the broker lost
            publications it should have got. By default it is disconnected with 1013 and recovers.
            Doesn't wait. Of a kind of topic that is told how to ``rejoin``, only those that could
            not be brought back.
        clock: measures a fan-out's turn and publishing, in seconds.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        limits: HubLimits | None = None,
        on_gap: Callable[[str, Subscriber], None] = disconnect_stale,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.broker = broker
        self._pipelined = broker if isinstance(broker, Pipelined) else None
        self._limits = limits or HubLimits()
        self._on_gap = on_gap
        self._kinds: dict[str, Kind] = {}
        self._counters = Counters()
        self._clock = clock
        self._publishing = Histogram()
        self._tails = Tails(broker, self._limits, self._counters)
        self._index = Index(broker, self._limits, self._tails, self._announce)
        self._neighbours: Neighbours | None = None
        if isinstance(broker, Cluster):
            self._neighbours = self._index.neighbours = Neighbours(
                broker,
                self._index.topics,
                changed=lambda topic, user, was_in: self._index.note(topic, user, was_in=was_in),
                offer=self._offer,
                disconnect=self._disconnect,
            )
        self._flusher = Flusher(
            turn_seconds=self._limits.turn_seconds,
            turn_check=self._limits.turn_check,
            clock=clock,
            refused=self._refused,
        )
        self._rejoining = Rejoining(
            self._index,
            self._flusher,
            self._tails,
            self._limits,
            self._counters,
            come_in=self._come_back,
            give_up=lambda subscription: self._part_with([subscription]),
            available=lambda: not isinstance(broker, Watched) or broker.available,
            clock=clock,
        )
        self._running = False
        self._burst = 0

    def encode_with(
        self,
        kind: str,
        encode: Callable[[Publication], bytes],
        *,
        presence: PresenceEncoder | None = None,
        rejoin: Rejoin | None = None,
    ) -> None:
        """Say how the topics called ``kind:…`` become frames.

        Args:
            kind: the part of a topic's name before the first colon.
            encode: gives a complete WebSocket frame, or ``b""`` for a publication nobody is to
                see. Called once for each publication. If it raises, that publication is logged,
                counted and not delivered.
            presence: gives the frame that tells of users who came and went; without it, those
                topics have no presence frames, and each node knows its own members alone.
            rejoin: how subscribers stay when the broker lost publications that they should have
                got: they are told what they missed, or that their state is stale, and go on from
                there. Without it, their subscriptions end and ``on_gap`` is told.

        Raises:
            ValueError: the kind is empty, has a colon, or has its encoder already.
        """
        if not kind or ":" in kind:
            raise ValueError(f"a kind of topic is a word without a colon, not {kind!r}")
        if kind in self._kinds:
            raise ValueError(f"topics of kind {kind!r} have their encoder already")
        self._kinds[kind] = Kind(encode, presence, rejoin)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled: the flusher, the broker's stream, presence, returns.

        While it isn't running, subscribing and publishing work, and what is published is stored;
        live subscribers get it once this runs (again). Only a gap shown by the broker's stream
        excepts from that, and is handled as one.

        Raises:
            RuntimeError: it is running already.
            Exception: whatever else the broker's ``run`` raises, in an exception group.

        Cancelled: a fan-out that has begun is finished; subscriptions stay.
        """
        if self._running:
            raise RuntimeError("this hub is running already; run it once, in the gateway's nursery")
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._flusher.run)
                nursery.start_soon(self._index.announcer.run)
                nursery.start_soon(self._index.attachments.run)
                nursery.start_soon(self._rejoining.run)
                await nursery.start(partial(self.broker.run, self._deliver))
                self._tails.sharing = True
                task_status.started()
        finally:
            self._running = self._tails.sharing = False
            self._tails.clear()
            self._flusher.let_go()

    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        """Store a publication and have it delivered to the topic's subscribers everywhere.

        Never waits for a subscriber. Publications of one tick reach a subscriber in one offer;
        so that they gather, this is a cancellation point always, but a schedule point only when
        the broker waits, or once in ``max_burst`` publications, or while the topic has more than
        ``max_pending_bytes`` waiting for the flusher.

        Args:
            topic: ``kind:name``.
            payload: what the kind's encoder reads.
            key: makes a repetition safe: the same (topic, key) is stored once.

        Returns:
            Its position; it is stored, as durably as the broker promises.

        Raises:
            ValueError: the topic's kind has no encoder.
            StoreUnavailable: not acknowledged; with a key, try again.

        Cancelled: before the broker was asked, nothing has happened; after, see ``Broker``.
        """
        await self._pace(topic)
        return await self._store(topic, payload, key)

    async def submit(
        self, topic: str, payload: bytes, *, key: str | None = None
    ) -> Position | Receipt:
        """As ``publish``, but return before it is stored if the broker can take the next meanwhile.

        Returns:
            Its position, or what to wait for it with.

        Raises:
            ValueError: as ``publish``.
            StoreUnavailable: as ``publish``; the receipt may raise it too.

        Cancelled: it was not taken; see ``Pipelined``.
        """
        await self._pace(topic)
        if self._pipelined is None:
            return await self._store(topic, payload, key)
        began = self._clock()
        try:
            receipt = await self._pipelined.submit(topic, payload, key=key)
        except StoreUnavailable:
            self._counters.unstored += 1
            raise
        return _TimedReceipt(self, receipt, began)

    async def subscribe(
        self,
        topic: str,
        subscriber: Subscriber,
        *,
        user: str,
        since: Position | None = None,
        limit: int = 100,
        greet: Callable[[Joined], Iterable[bytes]] = _greet_nobody,
        presence: bool = False,
    ) -> Joined:
        """Join history and live: from the returned position on, nothing missing and nothing twice.

        A subscriber that is in the topic already leaves it first, as by ``unsubscribe``. One that
        leaves (or joins again) while this reads the history is not greeted.

        Args:
            topic: ``kind:name``.
            subscriber: hashable by identity.
            user: whom it counts for in ``members`` and presence.
            since: recover from here.
            limit: publications read at most; with 0 the position alone.
            greet: called once, before the subscriber is live and without a checkpoint in between;
                the complete frames it gives are offered before any other of the topic, in one
                offer. If it raises, the subscriber doesn't join.
            presence: whether to offer it the frames that tell of others who come and go.

        Returns:
            Where it came in. Who joins within a second of others shares their read of the
            history, as the stream has gone on since. If the topic outran three reads, it starts
            afresh: ``recovered`` is false, with no publications and the position of this moment.

        Raises:
            ValueError: the topic's kind has no encoder; a negative limit.
            StoreUnavailable: it has not joined.

        Cancelled: it has not joined, and nothing was offered.
        """
        kind = self._kind(topic)
        if limit < 0:
            raise ValueError("the limit of a page is not negative")
        join = self._index.join(
            topic, kind, subscriber, user=user, presence=presence, since=since, limit=limit
        )
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._index.attachments.attach(join.subscription.topic)
            entry = await join.read(self._tails)
            if since is not None:
                self._count_recovery(entry)
            return self._come_in(join.subscription, entry, greet)
        except BaseException:
            self._index.end(join.subscription)
            raise

    async def unsubscribe(self, topic: str, subscriber: Subscriber) -> bool:
        """End a subscription, live or joining: it is offered nothing of the topic any more.

        Returns:
            Whether there was one.

        Cancelled: it has happened all the same; this never raises.
        """
        there_was_one = self._index.leave(topic, subscriber)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return there_was_one

    async def leave_all(self, subscriber: Subscriber) -> None:
        """End all subscriptions of a subscriber, live and joining. One without any is no error.

        Cancelled: it has happened all the same; this neither waits nor raises.
        """
        self._index.leave_all(subscriber)

    def broadcast(self, topic: str, frame: bytes, *, exclude: Subscriber | None = None) -> None:
        """Offer a frame that is not stored to the topic's subscribers, in order.

        Args:
            topic: ``kind:name``; without subscribers nothing happens.
            frame: a complete WebSocket frame.
            exclude: one who is not to get it.

        Dropped, and counted, while the topic has too much pending. Where the broker has other
        nodes, it is offered there too, at most once, unless the store is unavailable.
        """
        self._offer(topic, frame, exclude)
        if self._neighbours is not None:
            self._neighbours.cluster.broadcast(topic, frame)

    def _offer(self, topic: str, frame: bytes, exclude: Subscriber | None = None) -> None:
        found = self._index.topics.get(topic)
        if found is None or found.unused:
            return
        if found.pending_bytes > self._limits.max_pending_bytes:
            self._counters.dropped += 1
            return
        if found.subscriptions:
            found.append_ephemeral(frame, exclude)
            self._flusher.mark(found)

    def has_room_for(self, topic: str) -> bool:
        """Whether a topic is in use, or one more may be; to be asked before a stranger names it."""
        topics = self._index.topics
        if topic in topics or len(topics) < self._limits.max_topics:
            return True
        self._counters.crowded_out += 1
        return False

    def members(self, topic: str, limit: int = 100) -> tuple[int, list[str]]:
        """Return the number of distinct users in a topic, and up to ``limit`` of their names.

        Presence frames go on from here: what they tell, added to this, is who is in.
        """
        found = self._index.topics.get(topic)
        if found is None:
            return 0, []
        found.roster.told(limit)
        return found.roster.count, found.roster.names(limit)

    async def look_up_members(self, topic: str, limit: int = 100) -> tuple[int, list[str]]:
        """As ``members``, also of a topic that has no subscribers at this node but at others.

        Raises:
            StoreUnavailable: it is not known.

        Cancelled: nothing has happened.
        """
        found = self._index.topics.get(topic)
        if self._neighbours is None or (found is not None and found.attached):
            await trio.lowlevel.checkpoint_if_cancelled()
            return self.members(topic, limit)
        return await self._neighbours.cluster.members(topic, limit)

    async def disconnect_user(self, user: str, code: int, reason: str) -> int:
        """Disconnect whoever subscribes for a user, here and at all nodes that run.

        Args:
            user: as in ``subscribe``.
            code: of the close.
            reason: of the close, for people.

        Returns:
            How many were disconnected here.

        Raises:
            StoreUnavailable: here it has happened; elsewhere perhaps.

        Cancelled: as StoreUnavailable.
        """
        count = self._disconnect(user, code, reason)
        if self._neighbours is not None:
            await self._neighbours.order_disconnect(user, code, reason)
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        return count

    def _disconnect(self, user: str, code: int, reason: str) -> int:
        found = [one for one in self._index.users(user) if isinstance(one, _Disconnectable)]
        for subscriber in found:
            subscriber.disconnect(code, reason)
        return len(found)

    def refresh_presence(self, topic: str) -> None:
        """Have the next presence frame of a topic tell everything, within the interval."""
        found = self._index.topics.get(topic)
        if found is not None:
            self._index.refresh(found)

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        """Read a page of a topic's history; see ``Broker.history``."""
        return await self.broker.history(topic, since=since, before=before, limit=limit)

    async def advance(self, topic: str, reader: str, offset: int) -> int:
        """Move a reader's cursor forward; see ``Broker.advance``."""
        return await self.broker.advance(topic, reader, offset)

    async def cursor(self, topic: str, reader: str) -> int:
        """Return where a reader's cursor is; see ``Broker.cursor``."""
        return await self.broker.cursor(topic, reader)

    def statistics(self) -> HubStatistics:
        """Return a snapshot."""
        return HubStatistics(
            topics=len(self._index.topics),
            subscriptions=sum(len(found.subscriptions) for found in self._index.topics.values()),
            joining=sum(len(found.joins) for found in self._index.topics.values()),
            deliveries=self._flusher.deliveries,
            batches=self._flusher.batches,
            publishing=self._publishing.snapshot(),
            batch_sizes=self._flusher.batch_sizes.snapshot(),
            **attrs.asdict(self._counters),
        )

    async def _store(self, topic: str, payload: bytes, key: str | None) -> Position:
        began = self._clock()
        try:
            position = await self.broker.publish(topic, payload, key=key)
        except StoreUnavailable:
            self._counters.unstored += 1
            raise
        self._publishing.observe(self._clock() - began)
        return position

    async def settle(self, receipt: Receipt, began: float) -> Position:
        """Wait until a publication is stored, and count it (the receipt's call)."""
        try:
            position = await receipt.position()
        except StoreUnavailable:
            self._counters.unstored += 1
            raise
        self._publishing.observe(self._clock() - began)
        return position

    def _kind(self, topic: str) -> Kind:
        kind, colon, _ = topic.partition(":")
        if not colon or kind not in self._kinds:
            raise ValueError(
                f"topic {topic!r} has no encoder; topics are KIND:NAME, see encode_with"
            )
        return self._kinds[kind]

    async def _pace(self, topic: str) -> None:
        """Let the flusher run from time to time, and catch up; raises ValueError as ``publish``."""
        self._kind(topic)
        self._burst += 1
        if self._burst > self._limits.max_burst:
            self._burst = 1
            await trio.lowlevel.checkpoint()
        found = self._index.topics.get(topic)
        while found and self._running and found.pending_bytes > self._limits.max_pending_bytes:
            await self._flusher.taken()

    def _deliver(self, publication: Publication) -> None:
        """Take the next publication of the broker's stream."""
        topic = self._index.topics.get(publication.topic)
        if topic is None:
            return
        position = publication.position
        last = topic.last
        seen = last is not None and last.epoch == position.epoch and last.offset >= position.offset
        if not seen:
            topic.last = position
        if topic.tail is not None:
            self._tails.take(topic, publication)
        if topic.unused:
            return
        self._counters.publications += 1
        if seen:
            return
        if last is not None and position != Position(last.epoch, last.offset + 1):
            self._bridge(topic, last)
        if topic.subscriptions:
            topic.append(self._encode(topic, publication), position)
            self._flusher.mark(topic)

    def _encode(self, topic: Topic, publication: Publication) -> bytes:
        try:
            return topic.kind.encode(publication)
        except Exception:
            self._counters.failed += 1
            _log.exception("no frame for %r at %s", topic.name, publication.position)
            return b""

    def _bridge(self, topic: Topic, last: Position) -> None:
        """See to those who miss something between a position and that of the topic."""
        assert topic.last is not None
        rejoin = topic.kind.rejoin
        if rejoin is not None:
            self._rejoining.bridge(topic, rejoin, last, topic.last)
            return
        stale = topic.missing(topic.last)
        self._counters.gaps += len(stale)
        self._part_with(stale)

    def _part_with(self, stale: list[Subscription]) -> None:
        """End subscriptions whose stream has a gap; who resumes gets it from the history."""
        for subscription in stale:
            self._index.end(subscription)
            self._flusher.later(partial(self._tell_gap, subscription))

    def _tell_gap(self, subscription: Subscription) -> None:
        try:
            self._on_gap(subscription.topic.name, subscription.link.subscriber)
        except Exception:
            _log.exception("on_gap failed for %r", subscription.topic.name)

    def _count_recovery(self, entry: Entry) -> None:
        if entry.missed.recovered:
            self._counters.recovered += 1
            self._counters.replayed += len(entry.missed.publications)
        else:
            self._counters.unrecovered += 1

    def _come_in(
        self, subscription: Subscription, entry: Entry, greet: Callable[[Joined], Iterable[bytes]]
    ) -> Joined:
        """Go live, greeted; without a checkpoint, so that nothing comes in between."""
        topic, user = subscription.topic, subscription.user
        members = topic.roster.count + (user not in topic.roster)
        missed = entry.missed
        joined = Joined(entry.position, missed.publications, missed.recovered, members, missed.made)
        if not subscription.active:
            return joined
        self._go_live(subscription, entry, b"".join(greet(joined)))
        return joined

    def _come_back(self, subscription: Subscription, entry: Entry, frames: bytes) -> None:
        """Go live again."""
        self._count_recovery(entry)
        self._go_live(subscription, entry, frames)

    def _go_live(self, subscription: Subscription, entry: Entry, frames: bytes) -> None:
        self._index.go_live(subscription, entry.position)
        verdict = subscription.lane.offer(frames) if frames else Verdict.ACCEPTED
        if verdict is not Verdict.ACCEPTED:
            self._refused(subscription.link, verdict)

    def _refused(self, link: Link, verdict: Verdict | None) -> None:
        if verdict is Verdict.SLOW:
            self._counters.slow += 1
            return
        self._counters.closed += 1
        self._index.leave_all(link.subscriber)

    def _announce(self, topic: Topic) -> None:
        change = topic.roster.take(self._limits.max_presence_names)
        encode = topic.kind.presence
        if change is None or encode is None or not topic.listeners:
            return
        try:
            frame = encode(topic.name, change)
        except Exception:
            topic.roster.forget()
            self._counters.failed += 1
            _log.exception("no presence frame for %r", topic.name)
            return
        topic.append_notice(frame)
        self._flusher.mark(topic)
