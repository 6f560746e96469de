"""The subscribed topics: what the channels bring, and what has to be read instead.

In: messages of a connection that subscribes. Out: each publication of a subscribed topic once, in
the order of offsets. The rules: a topic is behind from the moment at which something may have been
missed until its history was read up to what has been seen since; what is worked off is bounded by
what Redis holds for us, which ends the connection over its own limit, and then all is read anew.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import attrs
import trio
from coredis.connection import BaseConnection

from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Publication
from trio_gateway.hub.positions import Position
from trio_gateway.hub.redis.settings import Names
from trio_gateway.hub.redis.wire import Connect, keep_connected, ping
from trio_gateway.hub.waker import Waker

_MAX_READS = 32  # at once, after a connection was lost
_RETRY_SECONDS = 0.5
_SUBSCRIBE_AT_ONCE = 500

_log = logging.getLogger(__name__)


@attrs.frozen
class Stretch:
    """What follows a position.

    Attributes:
        publications: oldest first.
        latest: the topic's position.
        end: of the last of the publications, or where the topic stands.
        stamp: when that was stored, as the server wrote it.
    """

    publications: tuple[Publication, ...]
    latest: Position
    end: Position
    stamp: bytes


class Listener(Protocol):
    """Takes what the channels bring beside publications."""

    def hear(self, topic: str, data: bytes) -> None:
        """Take a message of another node about a topic."""
        ...

    def controlled(self, message: bytes) -> None:
        """Take a message for all nodes."""
        ...

    async def look(self, topic: str) -> tuple[Position, bytes]:
        """Return a topic's position and its stamp; take note of who is in at other nodes."""
        ...

    async def read_on(self, topic: str, after: Position, stamp: bytes) -> Stretch:
        """Read what follows a position."""
        ...


@attrs.define(eq=False)
class _Feed:
    """A subscribed topic.

    Attributes:
        last: the newest position delivered, or where it was subscribed.
        stamp: of ``last``.
        seen: the newest position that a message told of while behind.
        behind: whether ``last`` must be caught up with.
        looked: whether it is known who is in at other nodes, since the connection was made.
        acknowledged: set once the connection there is now brings its messages.
    """

    topic: str
    channel: bytes
    last: Position | None = None
    stamp: bytes = b""
    seen: Position | None = None
    behind: bool = False
    looked: bool = False
    acknowledged: trio.Event = attrs.Factory(trio.Event)


class Feeds:
    """Delivers what is published to subscribed topics.

    Args:
        connect: makes the connection that subscribes.
        names: of the channels.
        listener: see there.
        deadline: seconds for a call.

    Attributes:
        budget: what a connection that subscribes needs to take more from its socket.
    """

    def __init__(self, connect: Connect, names: Names, listener: Listener, deadline: float) -> None:
        self._connect = connect
        self._names = names
        self._listener = listener
        self._deadline = deadline
        self._feeds: dict[str, _Feed] = {}
        self._channels: dict[bytes, _Feed] = {}
        self._behind: dict[str, _Feed] = {}
        self._waker = Waker()
        self._deliver: Callable[[Publication], None] | None = None
        self._connection: BaseConnection | None = None
        self.budget = trio.CapacityLimiter(1)
        self._tried = trio.Event()

    def __contains__(self, topic: str) -> bool:
        return topic in self._feeds

    def known(self, topic: str) -> Position | None:
        """Return the newest position delivered of a topic."""
        feed = self._feeds.get(topic)
        return None if feed is None else feed.last

    async def add(self, topic: str) -> None:
        """Deliver a topic from the return on; one that is delivered stays so.

        Raises:
            StoreUnavailable: it is not delivered.

        Cancelled: as StoreUnavailable.
        """
        if topic in self._feeds:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        feed = _Feed(topic, self._names.channel(topic).encode())
        self._feeds[topic] = self._channels[feed.channel] = feed
        try:
            if self._deliver is not None:
                if self._connection is not None:
                    self._send(self._connection, b"SUBSCRIBE", feed.channel)
                with trio.move_on_after(self._deadline):
                    await feed.acknowledged.wait()
                if not feed.acknowledged.is_set():
                    raise StoreUnavailable("Redis is not reached")
            last, stamp = await self._listener.look(topic)
        except BaseException:
            if self._feeds.get(topic) is feed:
                self.remove(topic)
            raise
        if feed.last is None:
            feed.last, feed.stamp = last, stamp
        self._waker.wake()

    def remove(self, topic: str) -> None:
        """Deliver a topic no more."""
        feed = self._feeds.pop(topic, None)
        if feed is not None:
            del self._channels[feed.channel]
            self._behind.pop(topic, None)
            if self._connection is not None:
                self._send(self._connection, b"UNSUBSCRIBE", feed.channel)

    def renew(self) -> None:
        """Make the connection anew: commands go somewhere else than they did."""
        if self._connection is not None:
            self._connection.invalidate("commands go elsewhere")

    async def run(
        self, deliver: Callable[[Publication], None], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """See ``Broker.run``; a server that isn't there at the start is waited for later."""
        if self._deliver is not None:
            raise RuntimeError("this broker is running already; one hub runs one broker")
        self._deliver = deliver
        self._tried = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    keep_connected, self._connect, self._serve, self._failed, self._deadline
                )
                nursery.start_soon(self._catch_up)
                await self._tried.wait()
                task_status.started()
        finally:
            self._deliver = None
            self._connection = None

    def _failed(self, error: Exception) -> None:
        self._tried.set()
        _log.debug("the stream of publications has no connection: %s", error)

    def _send(self, connection: BaseConnection, command: bytes, *channels: bytes) -> None:
        if connection.usable:
            connection.send_command(command, *channels)

    async def _serve(self, connection: BaseConnection) -> None:
        """Subscribe to everything, read everything, then take what comes."""
        for feed in self._feeds.values():
            feed.looked = False
            if feed.acknowledged.is_set():
                feed.acknowledged = trio.Event()
            self._fall_behind(feed)
        self._connection = connection
        channels = [self._names.control.encode(), *self._channels]
        for start in range(0, len(channels), _SUBSCRIBE_AT_ONCE):
            self._send(connection, b"SUBSCRIBE", *channels[start : start + _SUBSCRIBE_AT_ONCE])
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ping, connection, self._deadline)
                await self._listen(connection)
        finally:
            self._connection = None

    async def _listen(self, connection: BaseConnection) -> None:
        waiting = dict(self._channels)
        if not waiting:
            self._tried.set()
        async with aclosing(connection.push_messages) as pushes:
            async for push in pushes:
                # Meanwhile nothing more is taken from the socket: what waits, waits at Redis.
                async with self.budget:
                    taken = [push]
                    try:
                        while not connection.reusable:
                            with trio.fail_after(self._deadline):
                                taken.append(await anext(pushes))
                    finally:
                        # Together, so that they are written together; the last of a connection
                        # that is lost, too: a server may come back without them.
                        for each in taken:
                            self._hear(each, waiting)

    def _hear(self, push: Sequence[Any], waiting: dict[bytes, _Feed]) -> None:
        kind, channel = push[0], push[1]
        if kind == b"message":
            self._take(channel, push[2])
        elif kind == b"subscribe":
            feed = self._channels.get(channel)
            if feed is not None:
                feed.acknowledged.set()
            if waiting.pop(channel, None) is not None and not waiting:
                self._waker.wake()

    def _take(self, channel: bytes, data: bytes) -> None:
        feed = self._channels.get(channel)
        if feed is None:
            if channel == self._names.control.encode():
                self._listener.controlled(data)
            return
        if not feed.acknowledged.is_set():
            return  # of an earlier subscription
        kind = data[:1]
        if kind not in (b"p", b"n"):
            self._listener.hear(feed.topic, data)
            return
        head, _, payload = data[1:].partition(b"\n")
        epoch, offset, stamp = head.split(b" ")
        position = Position(epoch.decode(), int(offset))
        last = feed.last
        if feed.behind:
            feed.seen = position
        elif last is not None and last.epoch == position.epoch and last.offset >= position.offset:
            # Read before the message came; unless a server that lost some gave an offset again.
            if last.offset == position.offset and stamp != feed.stamp:
                feed.seen = position
                self._fall_behind(feed)
        elif kind == b"p" and (last is None or _follows(position, last)):
            self._hand_over(feed, Publication(feed.topic, position, payload), stamp)
        else:
            feed.seen = position
            self._fall_behind(feed)

    def _hand_over(self, feed: _Feed, publication: Publication, stamp: bytes) -> None:
        feed.last, feed.stamp = publication.position, stamp
        if self._deliver is not None:
            self._deliver(publication)

    def _fall_behind(self, feed: _Feed) -> None:
        feed.behind = True
        self._behind[feed.topic] = feed
        self._waker.wake()

    async def _catch_up(self) -> None:
        """Read what is behind, several at once, again and again while the store can't be read."""
        room = trio.CapacityLimiter(_MAX_READS)

        async def one(feed: _Feed) -> None:
            async with room:
                await self._read_on(feed)

        while True:
            ready = [
                feed
                for feed in self._behind.values()
                if feed.last is not None and feed.acknowledged.is_set()
            ]
            if ready:
                async with trio.open_nursery() as nursery:
                    for feed in ready:
                        nursery.start_soon(one, feed)
            left = [feed for feed in self._behind.values() if feed.last is not None]
            if self._connection is not None and not left:
                self._tried.set()
            if not left:
                await self._waker.wait()
            else:
                with trio.move_on_after(_RETRY_SECONDS):
                    await self._waker.wait()

    async def _read_on(self, feed: _Feed) -> None:
        topic = feed.topic
        try:
            if not feed.looked:
                await self._listener.look(topic)
                feed.looked = True
            while self._feeds.get(topic) is feed and feed.behind and self._deliver is not None:
                assert feed.last is not None
                acknowledged, feed.seen = feed.acknowledged, None
                stretch = await self._listener.read_on(topic, feed.last, feed.stamp)
                if self._feeds.get(topic) is not feed or self._deliver is None:
                    return
                for publication in stretch.publications:
                    self._deliver(publication)
                feed.last, feed.stamp = stretch.end, stretch.stamp
                seen, end = feed.seen, stretch.end
                outrun = seen is not None and (seen.epoch != end.epoch or seen.offset > end.offset)
                if (
                    end == stretch.latest
                    and not outrun
                    and feed.acknowledged is acknowledged
                    and acknowledged.is_set()
                ):
                    feed.behind, feed.seen = False, None
                    self._behind.pop(topic, None)
        except StoreUnavailable:
            return


def _follows(position: Position, last: Position) -> bool:
    if position.epoch == last.epoch:
        return position.offset == last.offset + 1
    return position.offset == 1
