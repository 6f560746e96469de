"""A recording as series: few enough points to be drawn, percentiles where there are many values.

In: samples. Out: ``Moment``s of equal length. The rule: nothing is smoothed; the worst of a moment
is in it.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import attrs

from trio_gateway.storm.record import Sample, percentile

MOST = 72


@attrs.frozen(kw_only=True)
class Moment:
    """A few samples together.

    Attributes:
        begin: seconds after the start.
        end: the same.
        open: sockets, at the most.
        rate: connects a second.
        accepts: latencies in seconds, sorted.
        controls: the same of control messages.
        statuses: first answers.
        closes: Close frames by code.
        lag: seconds, at worst.
        gauges: as they were last.
    """

    begin: float
    end: float
    open: int
    rate: float
    accepts: list[float]
    controls: list[float]
    statuses: Counter[str]
    closes: Counter[int]
    lag: float
    gauges: dict[str, float]


def moments(samples: Sequence[Sample], most: int = MOST) -> list[Moment]:
    """Return at most so many moments of a recording."""
    step = max(1, -(-len(samples) // most))
    return [_together(samples[start : start + step]) for start in range(0, len(samples), step)]


def _together(samples: Sequence[Sample]) -> Moment:
    seconds = sum(sample.seconds for sample in samples)
    statuses: Counter[str] = Counter()
    closes: Counter[int] = Counter()
    gauges: dict[str, float] = {}
    for sample in samples:
        statuses.update(sample.statuses)
        closes.update(sample.closes)
        gauges.update(sample.gauges)
    return Moment(
        begin=samples[-1].second - seconds,
        end=samples[-1].second,
        open=max(sample.open for sample in samples),
        rate=sum(sample.connects for sample in samples) / (seconds or 1.0),
        accepts=sorted(value for sample in samples for value in sample.accepts),
        controls=sorted(value for sample in samples for value in sample.controls),
        statuses=statuses,
        closes=closes,
        lag=max(sample.lag for sample in samples),
        gauges=gauges,
    )


def part_of(
    values: Callable[[Moment], list[float]], part: float
) -> Callable[[Moment], float | None]:
    """Return what takes a percentile of a moment's values; None where there are none."""

    def take(moment: Moment) -> float | None:
        found = values(moment)
        return percentile(found, part) if found else None

    return take
