"""The measured stretch: what server and client used between its start and its end."""

import time
from typing import Final

from ..job import Figures
from ..meter import cpu_seconds, rss_bytes

_TAIL: Final = 0.05


class Interval:
    """Starts when made. ``figures`` ends it and leaves the server a moment for its last work."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._server = cpu_seconds(pid)
        self._client = time.process_time()
        self._started = time.perf_counter()

    def figures(self, operations: int, latencies: list[float] | None = None) -> Figures:
        """The cost of each of ``operations``; ``latencies`` in seconds, in any order."""
        wall = time.perf_counter() - self._started
        client = time.process_time() - self._client
        time.sleep(_TAIL)
        server = cpu_seconds(self._pid) - self._server
        if not operations:
            raise ConnectionError("not one operation was finished in the measured time")
        return Figures(
            cost=server / operations * 1e6,
            operations=operations,
            client=client / operations * 1e6,
            busy=server / wall,
            client_busy=client / wall,
            p50=percentile(latencies, 0.50) if latencies else None,
            p99=percentile(latencies, 0.99) if latencies else None,
        )


def percentile(latencies: list[float], share: float) -> float:
    """Milliseconds; ``latencies`` are seconds, at least one, in any order."""
    return sorted(latencies)[int(share * (len(latencies) - 1))] * 1e3


def settled_rss(pid: int, *, patience: float = 5.0) -> int:
    """Resident bytes of the server once it has come to rest, or after ``patience`` seconds."""
    give_up = time.perf_counter() + patience
    before = (cpu_seconds(pid), rss_bytes(pid))
    while True:
        time.sleep(0.2)
        now = (cpu_seconds(pid), rss_bytes(pid))
        idle = now[0] - before[0] < 0.004 and now[1] == before[1]
        if idle or time.perf_counter() > give_up:
            return now[1]
        before = now
