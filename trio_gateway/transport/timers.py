"""Deadlines of everything that has no task of its own: one wheel, one task.

In: things to be told when their time is up. Out: one call of their ``expire()``. The rule: arming
and disarming cost a set operation, and what is disarmed is forgotten at once, so that ten thousand
half-open handshakes a second leave nothing behind.
"""

import heapq
import logging
import math
from typing import Protocol

import trio

from trio_gateway.metrics import Histogram
from trio_gateway.transport.signal import Signal

_TICKS_PER_SECOND = 16
_LONGEST_SLEEP = 16  # ticks: where nothing is due, the lag is still looked at
_log = logging.getLogger("trio_gateway")


class Timed(Protocol):
    """Something with a deadline. ``timer_tick`` belongs to the wheel: 0 while disarmed."""

    timer_tick: int

    def expire(self) -> None:
        """Act on the deadline; never waits."""


class Timers:
    """A timer wheel with a resolution of 1/16 s; a deadline never fires early.

    Attributes:
        lag: seconds that the wheel itself woke late: what everything else on the loop waits too.
    """

    def __init__(self) -> None:
        # A bucket keeps the order in which it was filled: a run with a seed can be replayed.
        self._buckets: dict[int, dict[Timed, None]] = {}
        self._ticks: list[int] = []
        self._earlier = Signal()
        self.lag = Histogram()
        self._sleeping_until = math.inf

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def arm(self, item: Timed, seconds: float) -> None:
        """Call ``item.expire()`` once, ``seconds`` from now; replaces an earlier arming."""
        if item.timer_tick:
            self.disarm(item)
        if seconds == math.inf:
            return
        tick = math.floor((trio.current_time() + seconds) * _TICKS_PER_SECOND) + 1
        item.timer_tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {item: None}
            heapq.heappush(self._ticks, tick)
            if tick < self._sleeping_until:
                self._earlier.set()
        else:
            bucket[item] = None

    def disarm(self, item: Timed) -> None:
        """Forget ``item``'s deadline; nothing happens if it has none."""
        tick = item.timer_tick
        if tick:
            item.timer_tick = 0
            bucket = self._buckets.get(tick)
            if bucket is not None:
                bucket.pop(item, None)

    async def run(self) -> None:
        """Fire deadlines until cancelled."""
        while True:
            now = trio.current_time()
            late = now - self._sleeping_until / _TICKS_PER_SECOND
            if late >= 0:
                self.lag.observe(late)
            tick = math.floor(now * _TICKS_PER_SECOND)
            self._fire(tick)
            self._sleeping_until = min([tick + _LONGEST_SLEEP, *self._ticks[:1]])
            with trio.move_on_at(self._sleeping_until / _TICKS_PER_SECOND):
                await self._earlier.wait()

    def _fire(self, now: int) -> None:
        while self._ticks and (self._ticks[0] <= now or not self._buckets[self._ticks[0]]):
            tick = heapq.heappop(self._ticks)
            for item in self._buckets.pop(tick):
                if item.timer_tick != tick:  # disarmed by one that expired just before it
                    continue
                item.timer_tick = 0
                try:
                    item.expire()
                except Exception:
                    # A deadline of one connection must not stop the clock of all others.
                    _log.exception("a deadline failed")
