"""The chart of ``docs/capacity.md``: a million clients come back, as one SVG file.

It carries its own colours, for light and for dark, and nothing from elsewhere.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape

import attrs

from scripts.capacity_model.fluid import STEP, Curves
from scripts.capacity_model.scenarios import NODES, ON_A_NODE, herds, restarts

_WIDTH, _HEIGHT = 400, 190  # of a plot
_MARGIN, _AXIS, _GAP, _HEAD = 24, 46, 44, 76
_LEGEND_ROW = 17

_STYLE = """\
svg { --card: #ffffff; --edge: #d8dee4; --text: #1f2328; --quiet: #59636e; --grid: #e6eaee;
      --c0: #b35900; --c1: #8250df; --c2: #0969da; --c3: #0b7a75; --c4: #cf222e; }
@media (prefers-color-scheme: dark) {
  svg { --card: #0d1117; --edge: #3d444d; --text: #f0f6fc; --quiet: #9198a1; --grid: #21262d;
        --c0: #e3883a; --c1: #b087f5; --c2: #58a6ff; --c3: #2fb8ac; --c4: #f47067; }
}
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
       fill: var(--text); }
.title { font-size: 17px; font-weight: 600; }
.caption { font-size: 13px; font-weight: 600; }
.quiet { fill: var(--quiet); }
.card { fill: var(--card); stroke: var(--edge); }
.grid { stroke: var(--grid); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); }\
"""


@attrs.frozen
class _Line:
    colour: int
    points: Sequence[tuple[float, float]]  # seconds, and from 0 to 1


@attrs.frozen
class _Plot:
    caption: str
    seconds: int
    marks: Sequence[tuple[float, str]]  # where on the y axis, and what it says
    lines: Sequence[_Line]


def draw() -> str:
    """Return the chart."""
    storms = herds()
    names = [storm.name.replace("`", "") for storm in storms]
    curves = [storm.curves for storm in storms]
    shares = [(mark / 4, f"{mark * 25} %") for mark in range(5)]
    decades = [
        (place / 3, text) for place, text in enumerate(("1,000", "10,000", "100,000", "10⁶"))
    ]
    replaced = [(rate, found) for clients, rate, found in restarts() if clients == ON_A_NODE]
    herd = [
        _Plot("Attempts a second", 90, decades, _lines(map(_attempts, curves))),
        _Plot("Clients that are back", 90, shares, _lines(map(_online, curves))),
    ]
    place = _Plot(
        f"A process replaced in place: its {ON_A_NODE:,} clients are back",
        300,
        shares,
        _lines(_online(found) for _, found in replaced),
    )
    told = ["untold" if rate is None else f"{rate:g} a second" for rate, _ in replaced]
    width = 2 * _MARGIN + 2 * (_AXIS + _WIDTH) + _GAP
    second = _HEAD + _HEIGHT + 72
    height = second + _HEIGHT + 46
    title = f"A million clients come back to {NODES} processes"
    note = "Fluid model in virtual time; half of each core is for them. docs/capacity.md tells how."
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    left = _MARGIN + _AXIS
    right = left + _WIDTH + _GAP + _AXIS
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{title}</title>",
            f"<style>\n{_STYLE}\n</style>",
            f'<rect class="card" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>',
            f'<text class="title" x="{_MARGIN}" y="34">{title}</text>',
            f'<text class="quiet" x="{_MARGIN}" y="54">{note}</text>',
            *_drawn(herd[0], left, _HEAD + 20),
            *_drawn(herd[1], right, _HEAD + 20),
            *_drawn(place, left, second + 20),
            *_legend("The herd, by how clients wait", names, right - _AXIS, second + 20),
            *_legend(
                "In place, by closes_per_second",
                told,
                right - _AXIS,
                second + 20 + _LEGEND_ROW * (len(names) + 2),
            ),
            "</svg>",
            "",
        ]
    )


def _lines(points: Iterable[Sequence[tuple[float, float]]]) -> list[_Line]:
    return [_Line(colour, line) for colour, line in enumerate(points)]


def _online(curves: Curves) -> Sequence[tuple[float, float]]:
    steps = round(0.5 / STEP)
    return [
        (at * STEP, curves.online[at] / curves.clients)
        for at in range(0, len(curves.online), steps)
    ]


def _attempts(curves: Curves) -> Sequence[tuple[float, float]]:
    """Decades above 1,000, of three."""
    return [
        (second + 0.5, max(0.0, math.log10(max(rate, 1.0)) / 3 - 1))
        for second, rate in enumerate(curves.rates)
    ]


def _drawn(plot: _Plot, left: int, top: int) -> Iterator[str]:
    yield f'<g transform="translate({left},{top})">'
    yield f'<text class="caption" x="{-_AXIS + 8}" y="-12">{escape(plot.caption)}</text>'
    for share, text in plot.marks:
        y = round((1 - share) * _HEIGHT, 1)
        yield f'<path class="grid" d="M0 {y}H{_WIDTH}"/>'
        yield f'<text class="quiet" x="-6" y="{y + 4}" text-anchor="end">{text}</text>'
    for part in range(7):
        x = _WIDTH * part / 6
        text = f"{plot.seconds * part // 6}{' s' if part == 6 else ''}"
        where = f'x="{x:.0f}" y="{_HEIGHT + 17}" text-anchor="middle"'
        yield f'<text class="quiet" {where}>{text}</text>'
    for line in plot.lines:
        points = " ".join(
            f"{x / plot.seconds * _WIDTH:.1f},{(1 - y) * _HEIGHT:.1f}"
            for x, y in line.points
            if x <= plot.seconds
        )
        yield f'<polyline class="line c{line.colour}" points="{points}"/>'
    yield "</g>"


def _legend(caption: str, names: Sequence[str], left: int, top: int) -> Iterator[str]:
    yield f'<text class="caption" x="{left + 8}" y="{top - 12}">{escape(caption)}</text>'
    for row, name in enumerate(names):
        y = top + 6 + row * _LEGEND_ROW
        yield f'<path class="line c{row}" d="M{left + 8} {y}h22"/>'
        yield f'<text x="{left + 38}" y="{y + 4}">{escape(name)}</text>'
