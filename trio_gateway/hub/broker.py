"""The contract between a hub and the store behind it: history, and transport between nodes.

In: publications, reads, and the topics a hub has subscribers for. Out: pages of history, and one
stream of publications. The rule: offsets of one (topic, epoch) rise by one from 1, the epoch
changes exactly when history was lost, and whoever reads can tell that nothing is missing or is
told that something is. Never a silent gap.
"""

from collections.abc import Callable, Collection
from typing import Protocol, runtime_checkable

import attrs
import trio

from trio_gateway.hub.positions import Position


@attrs.frozen
class Publication:
    """One published payload, with its place in its topic.

    Attributes:
        topic: the topic's name, ``kind:name``.
        position: its own place; the first publication of an epoch has offset 1.
        payload: exactly the bytes that were published.
    """

    topic: str
    position: Position
    payload: bytes


@attrs.frozen
class Page:
    """A stretch of a topic's history, read at one moment.

    Attributes:
        publications: oldest first, without a hole between them.
        position: the topic's latest at the moment of reading; offset 0 before the first
            publication.
        recovered: whether every publication after ``since`` is in the page; true when ``since``
            was not given.
        more: whether publications older than the page are still kept.
        first: the offset of the oldest publication kept at that moment, whether it is in the page
            or not; one above ``position.offset`` when none is kept. What was trimmed is below it:
            unread counts leave that out. (1, the default, says that nothing was trimmed.)
    """

    publications: tuple[Publication, ...]
    position: Position
    recovered: bool
    more: bool
    first: int = 1


def check_page(since: Position | None, before: int | None, limit: int) -> None:
    """Raise ValueError where ``Broker.history`` has to."""
    if since is not None and before is not None:
        raise ValueError("a page is read either since a position or before an offset")
    if limit < 0:
        raise ValueError("the limit of a page is not negative")


@attrs.frozen(kw_only=True)
class Retention:
    """How much history a broker keeps of each topic; the tightest bound wins.

    The newest publication of a topic is kept whatever its size, until its age.

    Attributes:
        max_publications: a count.
        max_bytes: the sum of the payloads.
        max_age: seconds since publishing.
    """

    max_publications: int = attrs.field(default=1_000, validator=attrs.validators.ge(1))
    max_bytes: int = attrs.field(default=2**20, validator=attrs.validators.ge(1))
    max_age: float = attrs.field(default=86_400.0, validator=attrs.validators.gt(0))


class Receipt(Protocol):
    """A publication on its way into the store."""

    async def position(self) -> Position:
        """Wait until it is stored and return where, as ``Broker.publish`` does."""
        ...


@runtime_checkable
class Pipelined(Protocol):
    """A broker that takes a publication before it has stored the last: for one task's bursts."""

    async def submit(self, topic: str, payload: bytes, *, key: str | None = None) -> Receipt:
        """Take a publication; those of one task are stored in the order of taking.

        Raises:
            StoreUnavailable: it was not taken.

        Cancelled: it was not taken. Taken, it is stored and delivered whoever waits for it.
        """
        ...


@runtime_checkable
class Watched(Protocol):
    """A broker that knows how its store is, for readiness; the others count as available."""

    @property
    def available(self) -> bool:
        """Whether publications can be stored, as far as is known; doesn't ask the store."""
        ...


class Neighbour(Protocol):
    """What a hub takes from the hubs of other nodes; called from the Trio thread, doesn't wait."""

    def others(self, topic: str, joined: Collection[str], left: Collection[str]) -> None:
        """Take note of users who are at some other node now, and of those who are at none."""
        ...

    def ephemeral(self, topic: str, frame: bytes) -> None:
        """Offer a frame that is not stored to the topic's subscribers here."""
        ...

    def controlled(self, message: bytes) -> None:
        """Obey a message that another hub sent to all."""
        ...


@runtime_checkable
class Cluster(Protocol):
    """A broker whose hubs are nodes of one another: they share presence and what isn't stored.

    Of a topic that is subscribed, the neighbour is told who is in at other nodes: all by the return
    of ``subscribe``, then every change, and by the return of ``unsubscribe`` that nobody is. A node
    that ended without a word has nobody in after its lease.
    """

    def meet(self, neighbour: Neighbour) -> None:
        """Tell this one from now on; before anything is subscribed."""
        ...

    def arrived(self, topic: str, user: str) -> None:
        """Have the other nodes told, soon, that a user is in at this one; doesn't wait."""
        ...

    def departed(self, topic: str, user: str) -> None:
        """Have the other nodes told, soon, that one who had arrived is in no more."""
        ...

    def broadcast(self, topic: str, frame: bytes) -> None:
        """Send a frame to the other nodes, without waiting: at most once, and not when down."""
        ...

    async def members(self, topic: str, limit: int) -> tuple[int, list[str]]:
        """Return how many distinct users are in a topic at all nodes, and some of their names.

        Raises:
            StoreUnavailable: it is not known.

        Cancelled: nothing has happened.
        """
        ...

    async def control(self, message: bytes) -> None:
        """Send a message to all other nodes that run now.

        Raises:
            StoreUnavailable: it may have been sent or not.

        Cancelled: as StoreUnavailable.
        """
        ...


class Broker(Protocol):
    """Stores publications and carries them between hubs.

    What holds for every method:

    - **Offsets** of one (topic, epoch) are 1, 2, 3, … without a hole, in the order of storing.
    - **The epoch** of a topic changes exactly when its history was lost, so that its offsets
      cannot go on: a store emptied, restored from a backup, or a topic forgotten to keep to a
      bound. Trimming by ``Retention`` is not a loss: offsets go on, and a reader from before the
      trimmed part is told ``recovered=False``. A new epoch never reuses the name of an old one.
    - **Reads follow deliveries**: a publication is in the history before it is delivered, and a
      page read after a delivery has a position at least as new.
    - **StoreUnavailable** may be raised by any method but ``run`` when the store cannot be
      reached. Nothing was acknowledged then; the caller may try again.
    - All methods may be called from many tasks at once, in the task tree of one ``trio.run``.
    - ``subscribe`` and ``unsubscribe`` do not count: one ``unsubscribe`` undoes any number of
      ``subscribe``. The hub counts.

    An application never sees this protocol; it talks to the hub.
    """

    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        """Store a publication and send it to every hub that subscribes to the topic.

        Storing and taking the next offset are one atomic step; what was stored is delivered. When
        this returns, the publication is as durable as the broker's documentation says.

        Args:
            topic: ``kind:name``; need not exist.
            payload: any bytes.
            key: makes a repetition safe. While the publication that first came with this (topic,
                key) is kept, a repetition stores and delivers nothing and returns the first one's
                position, whatever its payload.

        Returns:
            The position of the publication.

        Raises:
            StoreUnavailable: it may have been stored or not; with a ``key``, try again.

        Cancelled: it may have been stored or not, as with StoreUnavailable; it has been delivered
        if it was stored.
        """
        ...

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        """Read a page of what is kept; reading never creates a topic.

        Args:
            topic: ``kind:name``; one never published to has offset 0 and an empty page.
            since: ask for the publications after this position. If all of them are in hand
                (the same epoch, none trimmed, no more than ``limit``), the page has exactly them
                and ``recovered`` is true, also when there are none. Otherwise, and when the
                position is not one this topic ever had, ``recovered`` is false and the page is
                the newest one.
            before: ask for the newest publications with an offset below this one.
            limit: at most so many publications; 0 reads the position alone.

        With neither ``since`` nor ``before``: the newest page.

        Raises:
            ValueError: both ``since`` and ``before``, or a negative limit.
            StoreUnavailable: nothing was read.

        Cancelled: nothing has happened.
        """
        ...

    async def subscribe(self, topic: str) -> None:
        """Have the topic's publications delivered to this process, through ``run``.

        From its return on, every publication stored after it returned is delivered, and those
        stored while it ran may be. A topic already subscribed stays so.

        Raises:
            StoreUnavailable: the topic may be subscribed or not; call either again.

        Cancelled: as StoreUnavailable.
        """
        ...

    async def unsubscribe(self, topic: str) -> None:
        """Stop the topic's deliveries; none after the return. One not subscribed is no error.

        Raises:
            StoreUnavailable: the topic may be subscribed or not; call either again.

        Cancelled: as StoreUnavailable.
        """
        ...

    async def advance(self, topic: str, reader: str, offset: int) -> int:
        """Move a reader's cursor forward, for unread counts; atomic.

        A cursor belongs to the topic's epoch: it starts at 0 and is 0 again in a new epoch. It
        never moves back, nor beyond the topic's latest offset.

        Returns:
            Where the cursor is now, an offset.

        Raises:
            StoreUnavailable: it may have moved or not; repeating is safe.

        Cancelled: as StoreUnavailable.
        """
        ...

    async def cursor(self, topic: str, reader: str) -> int:
        """Return where a reader's cursor is: the offset up to which all is read, 0 at first.

        Raises:
            StoreUnavailable: nothing was read.

        Cancelled: nothing has happened.
        """
        ...

    async def run(
        self,
        deliver: Callable[[Publication], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver the publications of subscribed topics until cancelled.

        ``deliver`` is called from the Trio thread, doesn't wait and doesn't raise. It sees each
        topic's publications once, in the order of offsets. The stream survives the loss of the
        store's connection: ``run`` connects again by itself and reads every subscribed topic on
        from the last offset it delivered, and so does the next ``run`` of a topic subscribed
        while none was running. Publications that were trimmed or lost in the meantime show as a
        jump in the offset or a new epoch, by which the hub knows of the gap.

        ``task_status.started()`` is called when deliveries flow.

        Raises:
            RuntimeError: it is running already.

        Cancelled: deliveries have stopped; the subscriptions stay.
        """
        ...
