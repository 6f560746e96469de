"""What a gateway counts, and a snapshot of it.

In: what happens, one count each. Out: ``Statistics``, frozen. The rules: counting costs an
addition, and a bisection where a time is counted; what can be added up later is added up when
somebody asks; no count has more keys than ``MAX_KEYS``, whatever clients and handlers think of.
"""

import math
import os
import resource
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import attrs
import trio

LATENCY_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
SIZE_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0)
MAX_KEYS = 256
OTHER = "other"
_SPARE_KEYS = 10  # for what is counted together in the end

_K = TypeVar("_K")


@attrs.frozen
class Distribution:
    """How often something had which size.

    Attributes:
        bounds: the upper bounds of the buckets, ascending; the last bucket has none.
        counts: how many were in each bucket, one more than there are bounds.
        total: the sum of all sizes.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """Return the upper bound of the bucket that a share (0 to 1) of all stays in or below.

        ``math.nan`` where there were none, ``math.inf`` above the last bound.
        """
        rank = share * self.count
        if not self.count:
            return math.nan
        below = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            below += count
            if below and below >= rank:
                return bound
        return math.inf


NO_LATENCIES = Distribution(LATENCY_BOUNDS, (0,) * (len(LATENCY_BOUNDS) + 1), 0.0)
NO_SIZES = Distribution(SIZE_BOUNDS, (0,) * (len(SIZE_BOUNDS) + 1), 0.0)


class Histogram:
    """Counts sizes by bucket.

    Arguments:
        bounds: the upper bounds of the buckets, ascending.
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, size: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, size)] += 1
        self._total += size

    def snapshot(self) -> Distribution:
        """Return what was counted so far."""
        return Distribution(self._bounds, tuple(self._counts), self._total)


@attrs.frozen(kw_only=True)
class Statistics:
    """One moment of a gateway.

    Attributes:
        sockets: open sockets, whatever they are doing.
        pending_handshakes: sockets that have not finished their first request.
        pending_upgrades: upgrades whose handler has not decided.
        connections: open WebSocket connections.
        handlers: handler tasks that are running.
        accepted_sockets: sockets accepted since the start.
        upgrades_accepted: upgrades answered with 101.
        upgrades_rejected: upgrades answered with another status, by handlers or the gateway.
        upgrades_abandoned: upgrades whose peer left before the decision.
        duplicate_upgrades_prevented: second decisions that were turned away.
        handler_failures: handlers that ended with an exception.
        http_requests: plain HTTP requests answered.
        refused: refusals before any upgrade, by status and reason.
        rejected: the rejected upgrades by status and reason; the reason of those that the handler
            rejected is ``"handler"``.
        closes: ended connections, by close code.
        limited: what a limit has turned down or held up, by limit.
        slow_consumers: connections closed because their peer did not read fast enough.
        routes: upgrades and connections by route and state: ``"deciding"``, ``"open"``, and
            ``"closing"`` until the socket is gone. The route of a fallback is ``"fallback"``.
        handshakes: seconds from a whole request head to the 101.
        outbox_bytes: what waits to be sent, of all sockets.
        largest_outbox: the most that waits for one socket, in bytes.
        waiting_sockets: those that something waits for.
        lag: seconds that the event loop came late to deadlines.
    """

    sockets: int
    pending_handshakes: int
    pending_upgrades: int
    connections: int
    handlers: int
    accepted_sockets: int
    upgrades_accepted: int
    upgrades_rejected: int
    upgrades_abandoned: int
    duplicate_upgrades_prevented: int
    handler_failures: int
    http_requests: int
    refused: Mapping[tuple[int, str], int]
    closes: Mapping[int, int]
    limited: Mapping[str, int] = MappingProxyType({})
    rejected: Mapping[tuple[int, str], int] = MappingProxyType({})
    slow_consumers: int = 0
    routes: Mapping[tuple[str, str], int] = MappingProxyType({})
    handshakes: Distribution = NO_LATENCIES
    outbox_bytes: int = 0
    largest_outbox: int = 0
    waiting_sockets: int = 0
    lag: Distribution = NO_LATENCIES

    @property
    def refusals(self) -> Mapping[int, int]:
        """Refusals before any upgrade, by status."""
        return _by_status(self.refused)


@attrs.frozen(kw_only=True)
class ProcessStatistics:
    """One moment of this process; 0 stands for what the system does not tell.

    Attributes:
        tasks: of Trio; 0 outside it.
        descriptors: open files and sockets.
        max_descriptors: how many it may have.
        cpu_seconds: used so far.
        resident_bytes: its memory.
        started: seconds since 1970.
    """

    tasks: int
    descriptors: int
    max_descriptors: int
    cpu_seconds: float
    resident_bytes: int
    started: float


def process_statistics() -> ProcessStatistics:
    """Return what this process holds."""
    try:
        tasks = trio.lowlevel.current_statistics().tasks_living
    except RuntimeError:
        tasks = 0
    resident, started = _memory_and_start()
    return ProcessStatistics(
        tasks=tasks,
        descriptors=_descriptors(),
        max_descriptors=max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),  # -1: no limit
        cpu_seconds=time.process_time(),
        resident_bytes=resident,
        started=started,
    )


def _descriptors() -> int:
    try:
        # Since Linux 6.2 it is told without a list, which takes 2 µs for each of them.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/dev/fd")) - 1
    except OSError:
        return 0


def _memory_and_start() -> tuple[int, float]:
    try:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()  # proc_pid_stat(5), from the third on
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        ticks = os.sysconf("SC_CLK_TCK")
        return int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), booted + int(fields[19]) / ticks
    except (OSError, AttributeError):
        return 0, 0.0  # not Linux


@attrs.define
class Counters:
    """The running sums behind ``Statistics``."""

    accepted_sockets: int = 0
    upgrades_accepted: int = 0
    upgrades_rejected: int = 0
    upgrades_abandoned: int = 0
    duplicate_upgrades_prevented: int = 0
    handler_failures: int = 0
    http_requests: int = 0
    slow_consumers: int = 0
    refused: Counter[tuple[int, str]] = attrs.Factory(Counter)
    rejected: Counter[tuple[int, str]] = attrs.Factory(Counter)
    closes: Counter[int] = attrs.Factory(Counter)
    limited: Counter[str] = attrs.Factory(Counter)
    handshakes: Histogram = attrs.Factory(Histogram)

    def refuse(self, status: int, reason: str) -> None:
        """Count a refusal before any upgrade."""
        _count(self.refused, (status, reason), (status // 100 * 100, OTHER))

    def reject(self, status: int, reason: str) -> None:
        """Count a rejected upgrade."""
        self.upgrades_rejected += 1
        _count(self.rejected, (status, reason), (status // 100 * 100, OTHER))

    def close(self, code: int) -> None:
        """Count an ended connection."""
        _count(self.closes, code, code // 1000 * 1000)

    def snapshot(
        self,
        *,
        sockets: int,
        pending_handshakes: int,
        pending_upgrades: int,
        connections: int,
        handlers: int,
        routes: Mapping[tuple[str, str], int] = MappingProxyType({}),
        outboxes: Sequence[int] = (),
        lag: Distribution = NO_LATENCIES,
    ) -> Statistics:
        """Return the sums with these gauges.

        Arguments:
            outboxes: the bytes that wait for each socket that something waits for.
        """
        return Statistics(
            sockets=sockets,
            pending_handshakes=pending_handshakes,
            pending_upgrades=pending_upgrades,
            connections=connections,
            handlers=handlers,
            accepted_sockets=self.accepted_sockets,
            upgrades_accepted=self.upgrades_accepted,
            upgrades_rejected=self.upgrades_rejected,
            upgrades_abandoned=self.upgrades_abandoned,
            duplicate_upgrades_prevented=self.duplicate_upgrades_prevented,
            handler_failures=self.handler_failures,
            http_requests=self.http_requests,
            refused=_frozen(self.refused),
            rejected=_frozen(self.rejected),
            closes=_frozen(self.closes),
            limited=_frozen(self.limited),
            slow_consumers=self.slow_consumers,
            routes=_frozen(routes),
            handshakes=self.handshakes.snapshot(),
            outbox_bytes=sum(outboxes),
            largest_outbox=max(outboxes, default=0),
            waiting_sockets=len(outboxes),
            lag=lag,
        )


def _count(counter: Counter[_K], key: _K, instead: _K) -> None:
    if key in counter or len(counter) < MAX_KEYS - _SPARE_KEYS:
        counter[key] += 1
    else:
        counter[instead] += 1


def _frozen(counts: Mapping[_K, int]) -> Mapping[_K, int]:
    return MappingProxyType(dict(counts))


def _by_status(counts: Mapping[tuple[int, str], int]) -> Mapping[int, int]:
    sums: Counter[int] = Counter()
    for (status, _), count in counts.items():
        sums[status] += count
    return MappingProxyType(dict(sums))
