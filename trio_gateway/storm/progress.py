"""A storm on a terminal: a line while it blows, a page when it is over.

In: a recording. Out: lines of text. The rule: every number is of the recording; nothing is measured
here.
"""

from collections import Counter
from collections.abc import Iterator

from trio_gateway.storm.gauges import STARVED
from trio_gateway.storm.record import Recording, percentile

_RECENT = 8
_SHOWN = 4


def line(recording: Recording) -> str:
    """Return one line about the last two seconds."""
    samples = recording.samples[-_RECENT:]
    if not samples:
        return "0.0 s"
    seconds = sum(sample.seconds for sample in samples) or 1.0
    connects = sum(sample.connects for sample in samples)
    controls = sorted(latency for sample in samples for latency in sample.controls)
    statuses: Counter[str] = Counter()
    for sample in recording.samples:
        statuses.update(sample.statuses)
    common = [f"{status}: {count:,}" for status, count in statuses.most_common(_SHOWN)]
    return (
        f"{samples[-1].second:5.1f} s  {connects / seconds:6,.0f} connects/s"
        f"  {samples[-1].open:5,} open  {', '.join(common)}"
        f"  control {_ms(controls, 0.5)}, p99 {_ms(controls, 0.99)}"
        f"  findings {len(recording.findings)}"
    )


def summary(recording: Recording) -> Iterator[str]:
    """Yield the lines of the page."""
    yield (
        f"seed {recording.seed}: {recording.connects:,} connects in {recording.seconds:.1f} s,"
        f" {recording.rate():,.0f}/s in the rush, against {recording.url},"
        f" profile {recording.profile}"
    )
    answers = ", ".join(f"{status}: {count:,}" for status, count in recording.answers())
    yield f"first answers   {answers or 'none'}"
    closes: Counter[int] = sum(recording.closes.values(), Counter())
    if closes:
        yield "close codes     " + ", ".join(
            f"{code}: {count:,}" for code, count in sorted(closes.items())
        )
    for name, values in (("control", recording.controls()), ("accept", recording.accepts())):
        if values:
            yield (
                f"{name + ' latency':15} p50 {_ms(values, 0.5)}, p99 {_ms(values, 0.99)},"
                f" worst {_ms(values, 1.0)} ({len(values):,} of them)"
            )
    for name, before in recording.baseline.items():
        after = recording.after.get(name)
        if after is not None and name != STARVED:
            yield f"{name:15} {_amount(name, before)} before, {_amount(name, after)} after"
    if recording.lacking:
        yield f"not made        {recording.lacking:,} connects, for want of our own descriptors"
    starved = recording.after.get(STARVED, 0.0) - recording.baseline.get(STARVED, 0.0)
    if starved:
        yield f"server starved  {starved:.1f} s: the machine had other things to run"
    lag = max((sample.lag for sample in recording.samples), default=0.0)
    yield f"our own lag     {lag * 1000:.0f} ms at worst; accept latencies have it in them"
    if recording.clean:
        yield "clean: nothing was found"
    for finding in recording.findings:
        often = recording.repeats[finding.rule, finding.fault]
        yield f"FINDING {finding}" + (f", {often:,} times" if often > 1 else "")
        for each in finding.transcript:
            yield f"    {each}"


def _ms(values: list[float], part: float) -> str:
    return f"{percentile(values, part) * 1000:.1f} ms" if values else "–"


def _amount(name: str, value: float) -> str:
    return f"{value / 2**20:.1f} MiB" if name == "memory" else f"{value:g}"
