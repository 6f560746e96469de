"""Subscribers whose stream has a gap, on their way back: they stay, and are told what they missed.

In: subscriptions that miss something, by topic. Out: the same, live again behind a greeting that
says what they missed or that their state is stale. The rules: all of one gap share one read of the
history, and come in a few at a time; while the store is down they wait for it; and whoever cannot
be brought back is given up, not forgotten.
"""

import heapq
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count, islice

import attrs
import trio

from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.flusher import Flusher
from trio_gateway.hub.index import Index
from trio_gateway.hub.joining import Entry, Stale
from trio_gateway.hub.positions import Position
from trio_gateway.hub.tails import Tails
from trio_gateway.hub.topics import Greet, Rejoin, Subscription, Topic
from trio_gateway.hub.values import Counters, HubLimits, Joined
from trio_gateway.hub.waker import Waker

# Topics brought back at once: what one node asks of the store, and what may run in one turn.
_AT_ONCE = 8
_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 5.0
# How long a store that is there may fail to give a topic's history.
_PATIENCE_SECONDS = 30.0

_log = logging.getLogger(__name__)


@attrs.define(eq=False)
class _Return:
    """One gap of one topic, while it is being bridged.

    Attributes:
        entry: what the last of them came in with.
        failures: of the store, so far.
        patience: when one more of them is too many.
    """

    stale: Stale
    rejoin: Rejoin
    entry: Entry | None = None
    failures: int = 0
    patience: float = 0.0


class Rejoining:
    """Brings back those who missed something.

    Args:
        index: they are in.
        flusher: has what they are still to be offered.
        tails: of the topics.
        limits: the hub's.
        counters: of recoveries.
        come_in: takes a subscription live, greeted with the frames.
        give_up: parts with a subscription for good.
        available: whether the store is there, as far as is known.
        clock: measures turns, in seconds.
    """

    def __init__(
        self,
        index: Index,
        flusher: Flusher,
        tails: Tails,
        limits: HubLimits,
        counters: Counters,
        *,
        come_in: Callable[[Subscription, Entry, bytes], None],
        give_up: Callable[[Subscription], None],
        available: Callable[[], bool],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._index = index
        self._flusher = flusher
        self._tails = tails
        self._limits = limits
        self._counters = counters
        self._come_in = come_in
        self._give_up = give_up
        self._available = available
        self._clock = clock
        self._waiting: deque[_Return] = deque()
        # By the time at which to try again.
        self._failed: list[tuple[float, int, _Return]] = []
        self._numbers = count()
        self._waker = Waker()

    def bridge(self, topic: Topic, rejoin: Rejoin, last: Position, position: Position) -> None:
        """Bring back who misses something between ``last`` and ``position``.

        They are offered what was pending for them, and nothing of the topic after that until they
        are back. Until then they are members all the same; who leaves is left alone.
        """
        batches, parted = topic.part(last, position)
        gap = [Stale(topic, since, rejoin.limit, found) for since, found in parted.items()]
        for stale in gap:
            self._counters.gaps += len(stale.subscriptions)
            topic.joins.update(dict.fromkeys(stale.subscriptions, stale))
        self._flusher.seal(batches, partial(self._add, gap, rejoin))

    def _add(self, gap: list[Stale], rejoin: Rejoin) -> None:
        self._waiting.extend(_Return(stale, rejoin) for stale in gap)
        self._waker.wake()

    async def run(self) -> None:
        """Bring back until cancelled; who is not back then is brought back in the next run."""
        room = trio.Semaphore(_AT_ONCE)

        async def bring_back(back: _Return) -> None:
            delay = 0.0
            try:
                delay = await self._attempt(back)
            finally:
                room.release()
                if back.stale.wanted:
                    self._put_back(back, delay)

        async with trio.open_nursery() as nursery:
            while True:
                await room.acquire()
                nursery.start_soon(bring_back, await self._next())

    async def _next(self) -> _Return:
        """Wait for one whose turn it is: what has failed before comes behind what is new."""
        while not self._waiting:
            due = self._failed[0][0] if self._failed else math.inf
            if due <= trio.current_time():
                return heapq.heappop(self._failed)[2]
            with trio.move_on_at(due):
                await self._waker.wait()
        return self._waiting.popleft()

    def _put_back(self, back: _Return, delay: float) -> None:
        if delay:
            due = trio.current_time() + delay
            heapq.heappush(self._failed, (due, next(self._numbers), back))
        else:
            self._waiting.append(back)
        self._waker.wake()

    async def _attempt(self, back: _Return) -> float:
        """Bring back all, or give them up; return the seconds after which to try again, or 0."""
        try:
            await self._try(back)
        except StoreUnavailable as error:
            now = trio.current_time()
            if not back.failures or not self._available():
                # While the store is down nobody hears anything: who is connected stays so.
                back.patience = now + _PATIENCE_SECONDS
            elif now >= back.patience:
                _log.warning("no history of %r: %s", back.stale.topic.name, error)
                self._give_up_all(back)
            back.failures += 1
            return min(_FIRST_RETRY_SECONDS * 2.0 ** min(back.failures, 30), _LAST_RETRY_SECONDS)
        except Exception:
            _log.exception("subscribers of %r could not rejoin", back.stale.topic.name)
            self._give_up_all(back)
        return 0.0

    async def _try(self, back: _Return) -> None:
        stale = back.stale
        async with back.rejoin.greeting(stale.topic.name) as greet:
            while stale.wanted:
                entry = await stale.read(self._tails, fresh=True)
                if back.entry is None or back.entry.position != entry.position:
                    back.entry = entry
                # From here to the checkpoint the entry is exact.
                self._take_turn(back, back.entry, greet)
                await trio.lowlevel.checkpoint()

    def _take_turn(self, back: _Return, entry: Entry, greet: Greet) -> None:
        """Bring in a few."""
        stale, missed = back.stale, entry.missed
        topic = stale.topic
        ends = self._clock() + self._limits.turn_seconds
        few = list(islice(stale.subscriptions.values(), self._limits.turn_check))
        for subscription in few:
            members = topic.roster.count
            joined = Joined(
                entry.position, missed.publications, missed.recovered, members, missed.made
            )
            if subscription.active:
                try:
                    frames = b"".join(greet(subscription.link.subscriber, joined))
                except Exception:
                    _log.exception("no greeting in %r", topic.name)
                    self._give_up(subscription)
                else:
                    self._counters.rejoined += 1
                    self._come_in(subscription, entry, frames)
            if self._clock() >= ends:
                break
        if any(subscription.presence for subscription in few):
            self._index.refresh(topic)  # what changed meanwhile was told without them

    def _give_up_all(self, back: _Return) -> None:
        for subscription in list(back.stale.subscriptions.values()):
            self._give_up(subscription)
