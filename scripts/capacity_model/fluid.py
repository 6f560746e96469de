"""Clients that come back, as a fluid: so many a step, never one by one.

In: how many clients are away and when they try first, how they wait between attempts, what the
fleet can do. Out: curves over virtual time. The rules: everything is deterministic; an attempt that
waits longer than its client is patient is served all the same, for nobody: that is how an overload
keeps itself alive.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

import attrs

from scripts.capacity_model import costs

STEP = 0.05
_DOUBLINGS = 12
_SYN = (1.0, 3.0, 7.0)  # when a client's kernel knocks again, counted from the first time

Waits = Callable[[int], tuple[float, float]]
"""From the number of failed attempts to the range a wait is drawn from, in seconds."""


def jittered(base: float, cap: float) -> Waits:
    """Full jitter: from 0 to ``base`` doubled with each failure."""
    return lambda failures: (0.0, min(cap, base * 2.0**failures))


def doubled(base: float, cap: float) -> Waits:
    """The same without jitter."""
    return lambda failures: (min(cap, base * 2.0**failures),) * 2


def fixed(seconds: float) -> Waits:
    """Always the same, as the simplest of clients do."""
    return lambda _: (seconds, seconds)


@attrs.frozen(kw_only=True)
class Fleet:
    """What serves.

    Attributes:
        cores: processes, each with a core of its own.
        share: of each core that returning clients may have; the rest is for who is here.
        backlog: connections that wait to be accepted by one process; Linux gives at most
            ``net.core.somaxconn``, and drops what comes beyond it, which then knocks again.
        patience: seconds until a client gives an attempt up.
    """

    cores: int
    share: float = 1.0
    backlog: float = 4096
    patience: float = 15.0

    @property
    def returns_per_second(self) -> float:
        return self.cores * self.share / costs.RETURN


@attrs.frozen(kw_only=True)
class Curves:
    """What happened; a value a step.

    Attributes:
        attempts: that came in.
        online: clients connected.
        busy: of the CPU that returning clients may have, from 0 to 1.
        abandoned: attempts that were given up before they were served.
    """

    clients: float
    attempts: Sequence[float]
    online: Sequence[float]
    busy: Sequence[float]
    abandoned: float

    def seconds_until(self, share: float) -> float:
        """Return when so many of the clients are back; infinity for never."""
        for step, online in enumerate(self.online):
            if online >= share * self.clients * (1 - 1e-9):
                return (step + 1) * STEP
        return math.inf

    @property
    def peak(self) -> float:
        """Attempts in the busiest second."""
        steps = round(1 / STEP)
        sums = [0.0]
        for count in self.attempts:
            sums.append(sums[-1] + count)
        return max(later - earlier for earlier, later in zip(sums, sums[steps:], strict=False))

    @property
    def tries(self) -> float:
        """Attempts for each client."""
        return sum(self.attempts) / self.clients

    @property
    def rates(self) -> list[float]:
        """Attempts a second, second by second."""
        steps = round(1 / STEP)
        return [sum(self.attempts[at : at + steps]) for at in range(0, len(self.attempts), steps)]


class _Due:
    """Attempts to come, for each number of failures: spread over steps in constant time."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._changes = [[0.0] * (steps + 2) for _ in range(_DOUBLINGS)]
        self._now = [0.0] * _DOUBLINGS

    def add(self, failures: int, count: float, begin: float, end: float) -> None:
        first = math.floor(begin / STEP + 1e-9)
        last = max(first, math.ceil(end / STEP - 1e-9) - 1)
        if first > self._steps:
            return
        changes = self._changes[min(failures, _DOUBLINGS - 1)]
        each = count / (last - first + 1)
        changes[first] += each
        changes[min(last, self._steps) + 1] -= each

    def at(self, step: int) -> list[tuple[int, float]]:
        """Return ``(failures, attempts)`` of a step; each step is asked for once, in order."""
        now = self._now
        for failures, changes in enumerate(self._changes):
            now[failures] += changes[step]
        return [(failures, count) for failures, count in enumerate(now) if count > 1e-6]


@attrs.define
class _Cohort:
    """Attempts that came in one step."""

    since: int
    failures: int
    count: float


def come_back(
    fleet: Fleet,
    first: Sequence[tuple[float, float, float]],
    waits: Waits,
    *,
    seconds: float,
    failed: int = 0,
) -> Curves:
    """Let clients come back.

    Arguments:
        fleet: what serves.
        first: their first attempts, each ``(clients, from, until)``, spread evenly.
        waits: between an attempt that failed and the next.
        seconds: how long to look.
        failed: how many failures a first attempt counts as.
    """
    steps = round(seconds / STEP)
    due = _Due(steps)
    for count, begin, end in first:
        due.add(failed, count, begin, end)
    limit = fleet.cores * fleet.backlog
    patience = round(fleet.patience / STEP)
    budget_a_step = fleet.cores * fleet.share * STEP
    knocking: list[list[_Cohort]] = [[] for _ in range(steps)]
    inside: deque[_Cohort] = deque()
    ghosts = waiting = online = abandoned = budget = 0.0
    attempts: list[float] = []
    back: list[float] = []
    busy: list[float] = []

    def again(step: int, failures: int, count: float) -> None:
        least, most = waits(failures)
        due.add(failures + 1, count, (step + 1) * STEP + least, (step + 1) * STEP + most)

    for step in range(steps):
        arriving = due.at(step)
        attempts.append(sum(count for _, count in arriving))
        knocking[step].extend(_Cohort(step, failures, count) for failures, count in arriving)
        while inside and inside[0].since <= step - patience:
            late = inside.popleft()
            ghosts += late.count
            abandoned += late.count
            again(step, late.failures, late.count)
        total = sum(cohort.count for cohort in knocking[step])
        taken = min(1.0, max(0.0, limit - waiting) / total) if total else 0.0
        for cohort in knocking[step]:
            if taken:
                inside.append(_Cohort(step, cohort.failures, cohort.count * taken))
                waiting += cohort.count * taken
            if taken < 1:
                left = cohort.count * (1 - taken)
                later = [cohort.since + round(after / STEP) for after in _SYN]
                knock = next((at for at in later if at > step), steps)
                if knock < min(steps, cohort.since + patience):
                    knocking[knock].append(_Cohort(cohort.since, cohort.failures, left))
                else:
                    abandoned += left
                    again(cohort.since + patience, cohort.failures, left)
        budget = budget_a_step  # what was not used is lost
        served = min(ghosts, budget / costs.RETURN)
        ghosts -= served
        waiting -= served
        budget -= served * costs.RETURN
        while inside and budget > 1e-12:
            served = min(inside[0].count, budget / costs.RETURN)
            inside[0].count -= served
            online += served
            waiting -= served
            budget -= served * costs.RETURN
            if inside[0].count <= 1e-9:
                inside.popleft()
        back.append(online)
        busy.append(1 - max(0.0, budget) / budget_a_step)
    return Curves(
        clients=sum(count for count, _, _ in first),
        attempts=attempts,
        online=back,
        busy=busy,
        abandoned=abandoned,
    )


def mean_absence(curves: Curves) -> float:
    """Return how long a client is away on average, from the start, of those that came back."""
    gained = [later - earlier for earlier, later in pairwise((0.0, *curves.online))]
    total = sum(gained)
    return sum((step + 1) * STEP * count for step, count in enumerate(gained)) / total
