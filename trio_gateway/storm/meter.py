"""What a storm sees in an interval, put together to a sample.

In: latencies and records, as they come. Out: a ``Sample`` at the end of each interval. The rule:
each is counted in one interval, the one in which it was known.
"""

from collections import Counter

from trio_gateway.storm.record import Record, Sample


class Meter:
    """Collects for one sample after the other."""

    def __init__(self) -> None:
        self._second = 0.0
        self._connects = 0
        self._begin()

    def _begin(self) -> None:
        self._accepts: list[float] = []
        self._controls: list[float] = []
        self._statuses: Counter[str] = Counter()
        self._closes: Counter[int] = Counter()

    def accept(self, latency: float) -> None:
        """A good client got its 101 after so many seconds."""
        self._accepts.append(latency)

    def control(self, latency: float) -> None:
        """A control message came back after so many seconds."""
        self._controls.append(latency)

    def ended(self, record: Record) -> None:
        """A socket is over."""
        if record.reader.status is not None:
            self._statuses[str(record.reader.status)] += 1
        if record.reader.close is not None:
            self._closes[record.reader.close] += 1

    def sample(
        self, second: float, *, open_now: int, connects: int, lag: float, gauges: dict[str, float]
    ) -> Sample:
        """Return the interval that ends, and begin the next.

        Arguments:
            second: of the storm.
            open_now: sockets that are open.
            connects: sockets opened since the storm's start.
            lag: how late our clock was, in seconds.
            gauges: what the server holds.
        """
        sample = Sample(
            second=second,
            seconds=second - self._second,
            open=open_now,
            connects=connects - self._connects,
            accepts=tuple(self._accepts),
            controls=tuple(self._controls),
            statuses=dict(self._statuses),
            closes=dict(self._closes),
            lag=lag,
            gauges=gauges,
        )
        self._second, self._connects = second, connects
        self._begin()
        return sample
