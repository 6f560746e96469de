"""Charts as SVG, written by hand: lines over time, bars by name.

In: numbers and words. Out: elements of a page, whose colours are the page's classes. The rules:
what a chart shows is told in words too (titles, legends); every word is escaped; a chart is drawn
for the width of a phone, and only ever grows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import attrs

from trio_gateway.storm.report.series import Moment

_WIDTH, _HEIGHT = 360.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 8.0, 10.0, 22.0
Value = Callable[[Moment], float | None]
Words = Callable[[float], str]


@attrs.frozen(kw_only=True)
class Line:
    """A series of a chart.

    Attributes:
        name: for the legend.
        colour: a class of the page: ``a`` to ``d``.
        value: of a moment; None where it has none.
        filled: whether the ground below it is coloured too.
        total: what the legend says of the whole storm; None for nothing.
    """

    name: str
    colour: str
    value: Value
    filled: bool = False
    total: str | None = None


def over_time(
    title: str,
    about: str,
    moments: Sequence[Moment],
    lines: Sequence[Line],
    words: Words,
    *,
    logarithmic: bool = False,
    marks: Sequence[float] = (),
    level: float | None = None,
) -> str:
    """Return a figure with lines over the seconds of a storm.

    Arguments:
        title: what it is.
        about: one sentence on what to look for.
        moments: the seconds.
        lines: at least one.
        words: how a value is written.
        logarithmic: for values over several orders of magnitude.
        marks: seconds at which something was found.
        level: a value that is drawn as a dashed line: where it was before.
    """
    values = [v for line in lines for m in moments if (v := line.value(m)) is not None]
    if not values:
        return _figure(title, about, '<p class="none">Nothing was measured.</p>', "")
    if level is not None:
        values.append(level)
    scale = _Log(values) if logarithmic else _Linear(values)
    span = max(moments[-1].end, 0.001)
    inner = [_grid(scale, words, span)]

    def x(second: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(1.0, max(0.0, second / span))

    inner += [
        f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP}"'
        f' y2="{_HEIGHT - _BOTTOM}"><title>a finding at {mark:.1f} s</title></line>'
        for mark in marks
    ]
    if level is not None:
        y = scale.y(level)
        inner.append(
            f'<line class="level" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    for line in lines:
        inner += _drawn(line, moments, scale, x)
    inner += [_touch(moment, lines, words, x) for moment in moments]
    svg = (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(inner)}</svg>"
    )
    return _figure(title, about, svg, _legend(lines))


def _drawn(
    line: Line, moments: Sequence[Moment], scale: "_Scale", x: Callable[[float], float]
) -> list[str]:
    drawn: list[str] = []
    for run in _runs([(x(m.end), line.value(m)) for m in moments]):
        points = [f"{at:.1f} {scale.y(value):.1f}" for at, value in run]
        path = f"M{'L'.join(points)}"
        if line.filled:
            ground = _HEIGHT - _BOTTOM
            ends = f"L{run[-1][0]:.1f} {ground}L{run[0][0]:.1f} {ground}Z"
            drawn.append(f'<path class="fill {line.colour}" d="{path}{ends}"/>')
        if len(run) == 1:
            at, value = run[0]
            drawn.append(
                f'<circle class="dot {line.colour}" cx="{at:.1f}" cy="{scale.y(value):.1f}" r="2"/>'
            )
        drawn.append(f'<path class="line {line.colour}" d="{path}"/>')
    return drawn


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Return the stretches that have values."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [run for run in runs if run]


def _touch(moment: Moment, lines: Sequence[Line], words: Words, x: Callable[[float], float]) -> str:
    """Return what tells a moment's values to whoever points at it."""
    told = [
        f"{line.name} {words(value)}" for line in lines if (value := line.value(moment)) is not None
    ]
    left, right = x(moment.begin), x(moment.end)
    text = escape(f"{moment.end:.1f} s: {', '.join(told) or 'nothing'}")
    return (
        f'<rect class="touch" x="{left:.1f}" y="{_TOP}" width="{max(0.1, right - left):.1f}"'
        f' height="{_HEIGHT - _TOP - _BOTTOM}"><title>{text}</title></rect>'
    )


def _grid(scale: "_Scale", words: Words, span: float) -> str:
    parts: list[str] = []
    for tick in scale.ticks:
        y = scale.y(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{escape(words(tick))}</text>'
        )
    for tick in _Linear([span]).ticks:
        if tick <= span:
            x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * tick / span
            anchor = "end" if tick > 0.95 * span else "middle"
            parts.append(
                f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{tick:g} s</text>'
            )
    return "".join(parts)


def _legend(lines: Sequence[Line]) -> str:
    each = [
        f'<span class="key"><i class="{line.colour}"></i>{escape(line.name)}'
        + ("" if line.total is None else f" <b>{escape(line.total)}</b>")
        + "</span>"
        for line in lines
    ]
    return f'<p class="legend">{"".join(each)}</p>'


def _figure(title: str, about: str, picture: str, legend: str) -> str:
    return (
        f"<figure><figcaption><h3>{escape(title)}</h3><p>{escape(about)}</p></figcaption>"
        f"{picture}{legend}</figure>"
    )


class _Scale:
    """Where values lie.

    Attributes:
        ticks: round values between the ends.
    """

    ticks: Sequence[float] = ()

    def y(self, value: float) -> float:
        """Return how far down a value is."""
        return _HEIGHT - _BOTTOM - self.part(value) * (_HEIGHT - _TOP - _BOTTOM)

    def part(self, value: float) -> float:
        """Return how far up a value is, from 0 to 1."""
        raise NotImplementedError


class _Linear(_Scale):
    """From 0 to a round number above them all."""

    def __init__(self, values: Sequence[float]) -> None:
        most = max((*values, 1e-9))
        step = 10.0 ** math.floor(math.log10(most))
        for part in (0.2, 0.5, 1.0, 2.0):
            if most / (step * part) <= 5:
                step *= part
                break
        if most >= 4:
            step = max(1.0, step)
        self.ticks = [step * number for number in range(math.ceil(most / step) + 1)]
        self._top = self.ticks[-1] or 1.0

    def part(self, value: float) -> float:
        return value / self._top


class _Log(_Scale):
    """From a power of ten below them all to one above."""

    def __init__(self, values: Sequence[float]) -> None:
        least = min((value for value in values if value > 0), default=0.001)
        low = math.floor(math.log10(max(least, 0.0001)))
        high = max(low + 1, math.ceil(math.log10(max((*values, 0.001)))))
        self._low, self._high = low, high
        self.ticks = [10.0**power for power in range(low, high + 1)]

    def part(self, value: float) -> float:
        power = math.log10(max(value, 10.0**self._low))
        return (power - self._low) / (self._high - self._low)


def shares(counts: Mapping[str, int], colour: Callable[[str], str]) -> str:
    """Return one bar that is cut into parts, the largest first, with their names and counts.

    Arguments:
        counts: by name.
        colour: a class of the page, by name.
    """
    total = sum(counts.values())
    if not total:
        return '<span class="none">–</span>'
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    bar = "".join(
        f'<i class="{colour(name)}" style="flex-grow:{count}"'
        f' title="{escape(name)}: {count:,}"></i>'
        for name, count in ordered
    )
    told = "".join(
        f'<span class="key"><i class="{colour(name)}"></i>{escape(name)} <b>{count:,}</b></span>'
        for name, count in ordered
    )
    return f'<div class="bar">{bar}</div><div class="legend">{told}</div>'
