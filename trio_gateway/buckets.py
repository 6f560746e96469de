"""Token buckets: how much may come at once, and how much over time.

In: the time, and an amount that somebody wants to take. Out: 0, or the seconds until there is
enough. The rule: a bucket is one number, the time at which it is full again; it costs no timer and
no task, and one that is full says nothing that a new one would not, so it can be forgotten.

This is the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371, annex A).
"""

import math
from functools import cached_property

import attrs
from attrs.validators import gt

_MIN_KEPT = 1024
_LOST = 1e-6  # seconds that rounding may lose: a clock of months leaves a float less than this


@attrs.frozen
class Rate:
    """A bucket's size and its refill.

    Attributes:
        per_second: what comes back each second.
        burst: what may be taken at once from a full bucket; less than 1 is taken for 1, for nothing
            could be taken otherwise.
    """

    per_second: float = attrs.field(validator=gt(0))
    burst: float

    @cached_property
    def interval(self) -> float:
        """Seconds for one to come back."""
        return 1 / self.per_second

    @cached_property
    def span(self) -> float:
        """Seconds for an empty bucket to be full."""
        return max(1.0, self.burst) / self.per_second


class Bucket:
    """One bucket; full to begin with."""

    __slots__ = ("_full_at", "_interval", "_span")

    def __init__(self, rate: Rate) -> None:
        self._interval = rate.interval
        self._span = rate.span
        self._full_at = -math.inf

    def take(self, now: float) -> float:
        """Take one and return 0; or take nothing and return the seconds until one is there."""
        full_at = max(now, self._full_at) + self._interval
        wait = full_at - now - self._span
        if wait > _LOST:
            return wait
        self._full_at = full_at
        return 0.0

    def spend(self, now: float, amount: float) -> float:
        """Take ``amount`` whatever is there; return the seconds until the debt, if any, is paid."""
        self._full_at = max(now, self._full_at) + amount * self._interval
        wait = self._full_at - now - self._span
        return wait if wait > _LOST else 0.0


class Buckets:
    """A bucket for each name: a user, an address. Those that are full again are forgotten.

    Arguments:
        rate: of each of them.
    """

    __slots__ = ("_full_at", "_interval", "_span", "_sweep_at")

    def __init__(self, rate: Rate) -> None:
        self._interval = rate.interval
        self._span = rate.span
        self._full_at: dict[str, float] = {}
        self._sweep_at = _MIN_KEPT

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, name: str, now: float) -> float:
        """As ``Bucket.take``, from the bucket of this name."""
        full_at = max(now, self._full_at.get(name, now)) + self._interval
        wait = full_at - now - self._span
        if wait > _LOST:
            return wait
        self._full_at[name] = full_at
        if len(self._full_at) >= self._sweep_at:
            self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Drop the full ones; not before their number has doubled, so that it costs a constant."""
        self._full_at = {name: at for name, at in self._full_at.items() if at > now}
        self._sweep_at = max(_MIN_KEPT, 2 * len(self._full_at))
