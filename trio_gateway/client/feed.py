"""The publications of many connections as one sequence.

In: what each connection begins with, what comes live, pages of history. Out: a bounded queue of
publications and gaps. The rule: every offset after the first is queued once and in order, or a
``Gap`` in its place says that it cannot be had any more.

A consumer that is slow stops nothing else: what doesn't fit into the queue is not kept but read
again from the server's history, at the consumer's pace. So acknowledgements and pings still pass,
and who publishes inside its own ``async for`` cannot lock itself out.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from trio_gateway.client.errors import CommandRefused
from trio_gateway.hub.positions import Position

_PAGE = 256


class Positioned(Protocol):
    """A publication."""

    @property
    def position(self) -> Position:
        """Where it stands."""
        ...


T = TypeVar("T", bound=Positioned)


@attrs.frozen
class Gap:
    """Publications that were missed and are no longer kept: what was built on them is stale.

    Attributes:
        after: the last position before the hole.
        position: where it ends: the next publication is the one behind this.
        lost: how many, or None where the history itself was lost and nobody can say.
    """

    after: Position
    position: Position
    lost: int | None


@attrs.frozen
class Page(Generic[T]):
    """A piece of history.

    Attributes:
        items: oldest first, the newest ones below what was asked for.
        more: whether the server keeps older ones.
    """

    items: Sequence[T]
    more: bool


Read = Callable[[int, int], Awaitable[Page[T]]]
"""Reads at most so many (the second) of the publications before an offset (the first)."""


class Feed(Generic[T]):
    """One topic's publications, over all connections.

    Arguments:
        max_queued: publications that wait for the consumer.
        since: the position to go on from; None for where the first connection begins.

    Attributes:
        reached: everything up to here is queued, or told as lost; None before the first connection.
    """

    def __init__(self, max_queued: int, since: Position | None = None) -> None:
        self._in, self._out = trio.open_memory_channel[T | Gap](max_queued)
        self.reached = since
        self._latest = 0
        self._gap: Gap | None = None
        self._filling = False
        self._behind = trio.Event()

    def begin(self, position: Position, items: Sequence[T] | None) -> None:
        """Take the start of a connection.

        Arguments:
            position: the topic's.
            items: the newest of what was missed; None to read it from the history, a new epoch's
                from its begin.
        """
        self._filling = False
        reached = self.reached
        if reached is None:
            self.reached = position
        elif reached.epoch != position.epoch or reached.offset > position.offset:
            start = position.offset
            if items or (items is None and reached.epoch != position.epoch):
                start = items[0].position.offset - 1 if items else 0
            after = reached if self._gap is None else self._gap.after
            self.reached = Position(position.epoch, start)
            self._gap = Gap(after, self.reached, None)
        self._latest = position.offset
        if self._gap is not None:
            self._put_gap()
        for item in items or ():
            self.offer(item)
        self._look()

    def offer(self, item: T) -> None:
        """Queue what has come live; what doesn't fit or leaves a hole is read again later."""
        reached = self.reached
        assert reached is not None
        offset = item.position.offset
        if offset <= reached.offset:
            return
        self._latest = max(self._latest, offset)
        if offset == reached.offset + 1 and not self._filling and self._gap is None:
            try:
                self._in.send_nowait(item)
            except trio.WouldBlock:
                pass
            else:
                self.reached = item.position
                return
        self._look()

    async def fill(self, read: Read[T]) -> None:
        """Queue from the history whatever is behind, until cancelled; run beside each connection.

        Cancelled, what was queued stays so and the rest is left to the next connection.
        """
        while True:
            await self._behind.wait()
            self._filling = True
            if self._gap is not None:
                await self._in.send(self._gap)
                self._gap = None
            while self._missing():
                await self._fill_once(read)
            self._filling = False
            self._behind = trio.Event()

    async def receive(self) -> T | Gap:
        """Return the next; cancelled, nothing is taken. Raises trio.EndOfChannel at the end."""
        return await self._out.receive()

    def close(self) -> None:
        """Queue no more; what is queued can still be received."""
        self._in.close()

    def discard(self) -> None:
        """Drop what is queued too: nobody will receive it."""
        self._in.close()
        self._out.close()

    def _put_gap(self) -> None:
        assert self._gap is not None
        try:
            self._in.send_nowait(self._gap)
        except trio.WouldBlock:
            pass
        else:
            self._gap = None

    def _missing(self) -> bool:
        assert self.reached is not None
        return self.reached.offset < self._latest

    def _look(self) -> None:
        if self._gap is not None or self._missing():
            self._behind.set()

    async def _fill_once(self, read: Read[T]) -> None:
        reached = self.reached
        assert reached is not None
        try:
            first, items = await self._oldest(read, reached.offset + 1)
        except CommandRefused:
            first, items = self._latest + 1, ()  # joining is allowed and reading is not
        if first > reached.offset + 1:
            end = Position(reached.epoch, first - 1)
            await self._in.send(Gap(reached, end, first - 1 - reached.offset))
            self.reached = end
        for item in items:
            await self._in.send(item)
            self.reached = item.position

    async def _oldest(self, read: Read[T], low: int) -> tuple[int, Sequence[T]]:
        """Return the oldest page that is kept from ``low`` on, and the offset it begins with.

        The server pages backwards, from an offset that we choose: a page that ends ``_PAGE`` after
        ``low`` is the next. Where that is not kept any more, or doesn't fit into one answer, the
        begin of what is and does is looked for between ``low`` and ``high``.
        """
        high: int | None = None
        step = _PAGE
        while low <= self._latest:
            if high is None:
                before = min(low + step, self._latest + 1)
            else:
                before = high if high - low <= _PAGE else (low + high) // 2
            page = await read(before, min(_PAGE, before - low))
            items = [item for item in page.items if low <= item.position.offset < before]
            if not items:
                low = before
                step *= 2
                high = None if high is None or high <= low else high
            elif items[0].position.offset == low or not page.more:
                return items[0].position.offset, items
            else:
                high = items[0].position.offset
        return low, ()
