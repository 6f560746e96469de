"""Writes each tick's frames to everybody they are for.

In: topics with something pending. Out: one ``offer`` of one shared bytes object for each
subscriber, with the frames of all its topics. The rule: the tick is the batch (no timer, no
latency when idle), and a fan-out of any size lets the other tasks run every millisecond or so.
"""

import logging
from collections.abc import Callable

import trio

from trio_gateway.hub.topics import Batch, Link, Subscription, Topic
from trio_gateway.hub.waker import Waker
from trio_gateway.metrics import SIZE_BOUNDS, Histogram
from trio_gateway.transport.outbox import Verdict

_log = logging.getLogger(__name__)

_FAILED_OFFER = "a subscriber's offer failed; it is removed from all its topics"


class Flusher:
    """The one task that offers frames; while it yields, subscriptions may come and go.

    What a subscription that ended meanwhile would still have got is not offered to it; one that
    came meanwhile has its first frames in the next round.

    Args:
        turn_seconds: how long to write before the other tasks run.
        turn_check: offers between two looks at the clock.
        clock: in seconds; not Trio's, whose virtual time doesn't pass while we write.
        refused: called with the link of a subscriber whose offer got any verdict but accepted,
            and the verdict, which is None if the offer raised. Doesn't wait.

    Attributes:
        deliveries: frames accepted, each counted once for each subscriber.
        batches: joined frames of a topic, each counted once.
        batch_sizes: how many frames they were of.
    """

    def __init__(
        self,
        *,
        turn_seconds: float,
        turn_check: int,
        clock: Callable[[], float],
        refused: Callable[[Link, Verdict | None], None],
    ) -> None:
        self.deliveries = 0
        self.batches = 0
        self.batch_sizes = Histogram(SIZE_BOUNDS)
        self._turn_seconds = turn_seconds
        self._turn_check = turn_check
        self._clock = clock
        self._refused = refused
        self._turn_ends = 0.0
        self._dirty: list[Topic] = []
        self._errands: list[Callable[[], None]] = []
        self._sealed: list[tuple[list[Batch], Callable[[], None]]] = []
        self._waker = Waker()
        self._taken: trio.Event | None = None

    def mark(self, topic: Topic) -> None:
        """Write what is pending in a topic on the next tick."""
        if not topic.dirty:
            topic.dirty = True
            self._dirty.append(topic)
            self._waker.wake()

    def later(self, errand: Callable[[], None]) -> None:
        """Do something before the next round's offers, yielding after it as after an offer."""
        self._errands.append(errand)
        self._waker.wake()

    def seal(self, batches: list[Batch], errand: Callable[[], None]) -> None:
        """Write what a topic took before the rest of the next round, then do something."""
        self._sealed.append((batches, errand))
        self._waker.wake()

    async def taken(self) -> None:
        """Wait until the next round has taken what is pending; cancelled, it just ends."""
        if self._taken is None:
            self._taken = trio.Event()
        await self._taken.wait()

    def let_go(self) -> None:
        """Let go whoever waits in ``taken``."""
        if self._taken is not None:
            self._taken.set()
            self._taken = None

    async def run(self) -> None:
        """Write until cancelled; a round that has begun is finished first."""
        while True:
            if self._dirty or self._errands or self._sealed:
                await trio.lowlevel.checkpoint()
            else:
                await self._waker.wait()
            await self._write_round()

    async def _write_round(self) -> None:
        self._turn_ends = self._clock() + self._turn_seconds
        errands, self._errands = self._errands, []
        sealed, self._sealed = self._sealed, []
        topics, self._dirty = self._dirty, []
        straight: list[Batch] = []
        gathered: list[Batch] = []
        for topic in topics:
            taken = topic.take()
            overlap = len(taken) > 1 and taken[-1].overlapping
            # A topic whose subscribers are in no other is written at half the price.
            (gathered if overlap or (topic.shared and len(topics) > 1) else straight).extend(taken)
            for batch in taken:
                self._count(batch)
        self.let_go()
        for batches, then in sealed:
            for batch in batches:
                self._count(batch)
                await self._write(batch)
            then()
        for errand in errands:
            errand()
            await self._breathe()
        for batch in straight:
            await self._write(batch)
        if gathered:
            await self._gather(gathered)

    def _count(self, batch: Batch) -> None:
        self.batches += 1
        self.batch_sizes.observe(batch.frames)

    async def _write(self, batch: Batch) -> None:
        """Offer a batch to subscribers who have no other in this round."""
        for start in range(0, len(batch.subscriptions), self._turn_check):
            self._offer(batch, batch.subscriptions[start : start + self._turn_check])
            await self._breathe()

    def _offer(self, batch: Batch, subscriptions: list[Subscription]) -> None:
        data, accepted = batch.data, Verdict.ACCEPTED
        missed = 0
        for subscription in subscriptions:
            if not subscription.active:
                missed += 1
                continue
            verdict: Verdict | None = None
            try:
                verdict = subscription.lane.offer(data)
            except Exception:
                _log.exception(_FAILED_OFFER)
            if verdict is not accepted:
                missed += 1
                self._refused(subscription.link, verdict)
        self.deliveries += (len(subscriptions) - missed) * batch.frames

    async def _gather(self, batches: list[Batch]) -> None:
        """Offer each subscriber all its batches of this round at once."""
        links: list[Link] = []
        for batch in batches:
            for start in range(0, len(batch.subscriptions), self._turn_check):
                for subscription in batch.subscriptions[start : start + self._turn_check]:
                    if subscription.active:
                        queue = subscription.link.queue
                        if not queue:
                            links.append(subscription.link)
                        queue.append(batch)
                await self._breathe()
        for start in range(0, len(links), self._turn_check):
            for link in links[start : start + self._turn_check]:
                if link.queue:  # the subscriber may have left
                    self._offer_queue(link)
            await self._breathe()

    def _offer_queue(self, link: Link) -> None:
        queue, link.queue = link.queue, []
        if len(queue) == 1:
            data, frames = queue[0].data, queue[0].frames
        else:
            data = b"".join([batch.data for batch in queue])
            frames = sum([batch.frames for batch in queue])
        verdict: Verdict | None = None
        try:
            verdict = link.lane.offer(data)
        except Exception:
            _log.exception(_FAILED_OFFER)
        if verdict is Verdict.ACCEPTED:
            self.deliveries += frames
        else:
            self._refused(link, verdict)

    async def _breathe(self) -> None:
        """Let the other tasks run if this turn is over; shielded, so that no round is cut short."""
        if self._clock() >= self._turn_ends:
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._turn_ends = self._clock() + self._turn_seconds
