"""The subscribed topics, and how far each has been delivered.

In: what was committed, in order. Out: each publication of a subscribed topic once, in the order of
offsets. The rule: a topic whose deliveries were interrupted is behind until its history was read up
to what has been committed since; only then does it go on live.
"""

from collections.abc import Awaitable, Callable, Iterable

import attrs
import trio

from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Page, Publication
from trio_gateway.hub.positions import Position
from trio_gateway.hub.sqlite.store import Append
from trio_gateway.hub.waker import Waker

_RETRY_SECONDS = 0.5


@attrs.define(eq=False)
class _Feed:
    """A subscribed topic.

    Attributes:
        last: the newest position delivered, or the one before the first that was missed.
        seen: the newest position committed while behind.
        behind: whether ``last`` must be caught up with from the history.
    """

    last: Position | None = None
    seen: Position | None = None
    behind: bool = False


class Feeds:
    """Delivers what is committed.

    Args:
        read: returns what follows a position, or the newest page if that is not to be had.
    """

    def __init__(self, read: Callable[[str, Position], Awaitable[Page]]) -> None:
        self._read = read
        self._feeds: dict[str, _Feed] = {}
        self._behind: dict[str, _Feed] = {}
        self._deliver: Callable[[Publication], None] | None = None
        self._waker = Waker()

    def add(self, topic: str) -> None:
        """Deliver a topic from now on; one that is delivered stays so."""
        self._feeds.setdefault(topic, _Feed())

    def remove(self, topic: str) -> None:
        """Deliver a topic no more."""
        self._feeds.pop(topic, None)
        self._behind.pop(topic, None)

    def deliver(self, publication: Publication) -> None:
        """Deliver a committed publication, or note that it will have to be."""
        feed = self._feeds.get(publication.topic)
        if feed is None:
            return
        position = publication.position
        if feed.behind or self._deliver is None:
            feed.seen = position
            if not feed.behind:
                self._fall_behind(publication.topic, feed, position)
            return
        last = feed.last
        if last is not None and last.epoch == position.epoch and last.offset >= position.offset:
            return  # read from the history meanwhile
        feed.last = position
        self._deliver(publication)

    def doubt(self, appends: Iterable[Append]) -> None:
        """Have publications looked for of which it is unknown whether they were stored."""
        for append in appends:
            feed = self._feeds.get(append.topic)
            if feed is not None and not feed.behind and append.position is not None:
                self._fall_behind(append.topic, feed, append.position)

    def look(self) -> None:
        """Catch up now: the store can be read again."""
        self._waker.wake()

    async def run(
        self, deliver: Callable[[Publication], None], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """See ``Broker.run``."""
        if self._deliver is not None:
            raise RuntimeError("this broker is running already; one hub runs one broker")
        self._deliver = deliver
        try:
            await self._catch_up(deliver)
            task_status.started()
            while True:
                if not self._behind:
                    await self._waker.wait()
                else:
                    with trio.move_on_after(_RETRY_SECONDS):
                        await self._waker.wait()
                await self._catch_up(deliver)
        finally:
            self._deliver = None

    def _fall_behind(self, topic: str, feed: _Feed, missed: Position) -> None:
        feed.behind = True
        if feed.last is None or feed.last.epoch != missed.epoch:
            feed.last = Position(missed.epoch, missed.offset - 1)
        self._behind[topic] = feed

    async def _catch_up(self, deliver: Callable[[Publication], None]) -> None:
        """Deliver from the history what is behind, as far as the store can be read."""
        for topic, feed in list(self._behind.items()):
            while self._feeds.get(topic) is feed and feed.behind:
                assert feed.last is not None
                try:
                    page = await self._read(topic, feed.last)
                except StoreUnavailable:
                    break
                if self._feeds.get(topic) is not feed:
                    break
                for publication in page.publications:
                    deliver(publication)
                feed.last = page.position
                seen = feed.seen
                if (
                    seen is None
                    or seen.epoch != page.position.epoch
                    or seen.offset <= page.position.offset
                ):
                    feed.behind = False
                    feed.seen = None
                    self._behind.pop(topic, None)
