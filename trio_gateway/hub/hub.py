"""The hub: who listens to which topic, and every publication to each of them once.

In: publications from the broker's stream, subscribers that come and go. Out: frames, encoded once
and offered to all. The rule: from the position a subscriber joined at, it is offered every
publication of the topic once, in order, until it leaves; nothing after that; and if that can't be
kept, it is told.

::

    publish → broker → deliver → encode → pending of the topic → flusher → offer
                          └─ held for those still reading their history
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, runtime_checkable

import attrs
import trio

from trio_gateway.errors import CloseCode
from trio_gateway.hub.broker import Broker, Page, Publication
from trio_gateway.hub.flusher import Flusher
from trio_gateway.hub.index import Index
from trio_gateway.hub.joining import Entry
from trio_gateway.hub.positions import Position
from trio_gateway.hub.presence import PresenceEncoder
from trio_gateway.hub.topics import Kind, Link, Subscriber, Subscription, Topic
from trio_gateway.hub.values import Counters, HubLimits, HubStatistics, Joined
from trio_gateway.transport.outbox import Verdict

__all__ = ["Hub", "HubLimits", "HubStatistics", "Joined", "Subscriber", "disconnect_stale"]

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
            Doesn't wait.
        clock: measures a fan-out's turn, in seconds.
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
        self._limits = limits or HubLimits()
        self._on_gap = on_gap
        self._kinds: dict[str, Kind] = {}
        self._counters = Counters()
        self._index = Index(broker, self._limits, self._announce)
        self._flusher = Flusher(
            turn_seconds=self._limits.turn_seconds,
            turn_check=self._limits.turn_check,
            clock=clock,
            refused=self._refused,
        )
        self._running = False
        self._burst = 0

    def encode_with(
        self,
        kind: str,
        encode: Callable[[Publication], bytes],
        *,
        presence: PresenceEncoder | None = None,
    ) -> None:
        """Say how the topics called ``kind:…`` become frames.

        Args:
            kind: the part of a topic's name before the first colon.
            encode: gives a complete WebSocket frame, or ``b""`` for a publication nobody is to
                see. Called once for each publication. If it raises, that publication is logged,
                counted and not delivered.
            presence: gives the frame that tells of users who came and went; without it, those
                topics have no presence frames.

        Raises:
            ValueError: the kind is empty, has a colon, or has its encoder already.
        """
        if not kind or ":" in kind:
            raise ValueError(f"a kind of topic is a word without a colon, not {kind!r}")
        if kind in self._kinds:
            raise ValueError(f"topics of kind {kind!r} have their encoder already")
        self._kinds[kind] = Kind(encode, presence)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled: the flusher, the broker's stream, presence.

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
                await nursery.start(partial(self.broker.run, self._deliver))
                task_status.started()
        finally:
            self._running = False
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
        self._kind(topic)
        self._burst += 1
        if self._burst > self._limits.max_burst:
            self._burst = 1
            await trio.lowlevel.checkpoint()
        found = self._index.topics.get(topic)
        while found and self._running and found.pending_bytes > self._limits.max_pending_bytes:
            await self._flusher.taken()
        return await self.broker.publish(topic, payload, key=key)

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
            Where it came in. If the topic outran three reads of its history, or outgrew the
            bounds of what is held meanwhile, it starts afresh: ``recovered`` is false, with no
            publications and the position of this moment.

        Raises:
            ValueError: the topic's kind has no encoder; a negative limit.
            StoreUnavailable: it has not joined.

        Cancelled: it has not joined, and nothing was offered.
        """
        kind = self._kind(topic)
        join = self._index.join(topic, kind, subscriber, user=user, presence=presence)
        try:
            await self._index.attachments.attach(join.subscription.topic)
            entry = await join.read(self.broker, since, limit)
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
        """Offer a frame that is not stored to the topic's local subscribers, in order.

        Args:
            topic: ``kind:name``; without subscribers nothing happens.
            frame: a complete WebSocket frame.
            exclude: one who is not to get it.

        Dropped, and counted, while the topic has too much pending.
        """
        found = self._index.topics.get(topic)
        if found is None or found.unused:
            return
        if found.pending_bytes > self._limits.max_pending_bytes:
            self._counters.dropped += 1
            return
        for subscriber, join in found.joins.items():
            if subscriber is not exclude:
                join.hold(None, frame)
        if found.subscriptions:
            found.append_ephemeral(frame, exclude)
            self._flusher.mark(found)

    def members(self, topic: str, limit: int = 100) -> tuple[int, list[str]]:
        """Return the number of distinct users in a topic, and up to ``limit`` of their names."""
        found = self._index.topics.get(topic)
        if found is None:
            return 0, []
        return found.roster.count, found.roster.names(limit)

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
            **attrs.asdict(self._counters),
        )

    def _kind(self, topic: str) -> Kind:
        kind, colon, _ = topic.partition(":")
        if not colon or kind not in self._kinds:
            raise ValueError(
                f"topic {topic!r} has no encoder; topics are KIND:NAME, see encode_with"
            )
        return self._kinds[kind]

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
        if topic.unused:
            return
        self._counters.publications += 1
        frame = self._encode(topic, publication)
        for join in topic.joins.values():
            self._counters.held += 1
            join.hold(position, frame)
        if seen:
            return
        if last is not None and position != Position(last.epoch, last.offset + 1):
            self._part_with(topic.missing(position))
        if topic.subscriptions:
            topic.append(frame, position)
            self._flusher.mark(topic)

    def _encode(self, topic: Topic, publication: Publication) -> bytes:
        try:
            return topic.kind.encode(publication)
        except Exception:
            self._counters.failed += 1
            _log.exception("no frame for %r at %s", topic.name, publication.position)
            return b""

    def _part_with(self, stale: list[Subscription]) -> None:
        """End subscriptions whose stream has a gap; who resumes gets it from the history."""
        for subscription in stale:
            self._counters.gaps += 1
            self._index.end(subscription)
            self._flusher.later(partial(self._tell_gap, subscription))

    def _tell_gap(self, subscription: Subscription) -> None:
        try:
            self._on_gap(subscription.topic.name, subscription.link.subscriber)
        except Exception:
            _log.exception("on_gap failed for %r", subscription.topic.name)

    def _come_in(
        self, subscription: Subscription, entry: Entry, greet: Callable[[Joined], Iterable[bytes]]
    ) -> Joined:
        """Go live, greeted; without a checkpoint, so that nothing comes in between."""
        topic, user = subscription.topic, subscription.user
        members = topic.roster.count + (user not in topic.roster)
        joined = Joined(entry.position, entry.publications, entry.recovered, members)
        if not subscription.active:
            return joined
        frames = b"".join([*greet(joined), *entry.held])
        self._index.go_live(subscription, entry.live)
        verdict = subscription.lane.offer(frames) if frames else Verdict.ACCEPTED
        if verdict is not Verdict.ACCEPTED:
            self._refused(subscription.link, verdict)
        return joined

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
            frame = encode(topic.name, change.count, change.joined, change.left)
        except Exception:
            self._counters.failed += 1
            _log.exception("no presence frame for %r", topic.name)
            return
        topic.append_notice(frame)
        self._flusher.mark(topic)
