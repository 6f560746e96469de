"""The chart for the README: what an operation costs beside trio_gateway, as one SVG file.

A panel a workload, a bar a server: its cost as a multiple of ours. It carries its own colours, for
light and for dark, and nothing from elsewhere.
"""

import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from xml.sax.saxutils import escape

import attrs

from .goals import FANOUT_1, FANOUT_16
from .run import Run, ratio
from .table import number

_PANELS = (
    (FANOUT_1, "Fan-out 1→1,000, one at a time", "a delivery"),
    (FANOUT_16, "Fan-out 1→1,000, 16 in flight", "a delivery"),
    ("echo", "Echo, 100 connections", "a message"),
    ("handshake", "Connect, upgrade, close", "each"),
    ("idle-3000", "Memory of an idle connection", "each"),
)
_COLUMNS = 2
_NAME, _BAR, _VALUE = 160, 190, 50  # widths: who, how much, the number
_PANEL = _NAME + _BAR + _VALUE
_MARGIN, _GUTTER, _HEAD = 24, 40, 74
_ROW, _THICK, _CAPTION = 20, 12, 30
_MOST = 16  # times ours; a longer bar is cut, or ours could not be seen beside it
_END = f'x="{_PANEL}" text-anchor="end"'

_STYLE = """\
svg { --card: #ffffff; --edge: #d8dee4; --text: #1f2328; --quiet: #59636e; --peer: #a9b4c0;
      --floor: #d3dae1; --ours: #0b7a75; }
@media (prefers-color-scheme: dark) {
  svg { --card: #0d1117; --edge: #3d444d; --text: #f0f6fc; --quiet: #9198a1; --peer: #59636e;
        --floor: #30363d; --ours: #2fb8ac; }
}
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
       fill: var(--text); }
.title { font-size: 17px; font-weight: 600; }
.caption { font-size: 13px; font-weight: 600; }
.quiet { fill: var(--quiet); }
.ours { font-weight: 600; fill: var(--ours); }
.own { fill: var(--ours); }
.card { fill: var(--card); stroke: var(--edge); }
rect.peer { fill: var(--peer); } rect.floor { fill: var(--floor); } rect.ours { fill: var(--ours); }
.unit { stroke: var(--ours); stroke-dasharray: 2 3; }
.cut { stroke: var(--card); stroke-width: 2; }\
"""


@attrs.frozen
class _Bar:
    name: str
    times: float
    kind: str


@attrs.frozen
class _Panel:
    caption: str
    cost: str
    bars: list[_Bar]

    @property
    def height(self) -> int:
        return _CAPTION + _ROW * len(self.bars)


def draw(run: Run) -> str:
    """The run's ratios as SVG; a workload that it has not measured has no panel."""
    panels = list(_panels(run))
    rows = [panels[start : start + _COLUMNS] for start in range(0, len(panels), _COLUMNS)]
    parts: list[str] = []
    top = _HEAD
    for row in rows:
        for column, panel in enumerate(row):
            left = _MARGIN + column * (_PANEL + _GUTTER)
            parts.append(f'<g transform="translate({left},{top})">')
            parts += _drawn(panel)
            parts.append("</g>")
        top += max(panel.height for panel in row) + 26
    width = 2 * _MARGIN + _COLUMNS * _PANEL + (_COLUMNS - 1) * _GUTTER
    made = f"{datetime.now(UTC):%B %Y}, Python {platform.python_version()}, {platform.system()}"
    title = "What the same work costs other servers: trio_gateway = 1"
    note = "Server CPU per operation, or memory per connection. Shorter is cheaper."
    foot = f"Pale: a bare loop of system calls, no server. A cut bar stands for more than {_MOST}×."
    size = f'viewBox="0 0 {width} {top + 12}" width="{width}" height="{top + 12}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{title}</title>",
            f"<style>\n{_STYLE}\n</style>",
            f'<rect class="card" x=".5" y=".5" width="{width - 1}" height="{top + 11}" rx="8"/>',
            f'<text class="title" x="{_MARGIN}" y="34">{title}</text>',
            f'<text class="quiet" x="{_MARGIN}" y="54">{note} {escape(made)}.</text>',
            *parts,
            f'<text class="quiet" x="{_MARGIN}" y="{top - 8}">{foot}</text>',
            "</svg>",
            "",
        ]
    )


def _panels(run: Run) -> Iterator[_Panel]:
    for key, caption, of_what in _PANELS:
        cells = [cell for cell in run.cells if cell.workload.key == key]
        ours = next((cell for cell in cells if cell.server.key == cell.workload.ours), None)
        bars = []
        for cell in cells:
            times = ratio(cell, ours)
            if times is None or (cell.server.ours and cell is not ours):
                continue
            if cell is ours:
                bars.append(_Bar("trio_gateway", times, "ours"))
            else:
                kind = "floor" if cell.server.key == "bare" else "peer"
                bars.append(_Bar(cell.server.title, times, kind))
        if ours is not None and bars:
            cost = f"{number(ours.median('cost'))} {ours.workload.unit} {of_what}"
            yield _Panel(caption, cost, sorted(bars, key=lambda bar: bar.times))


def _drawn(panel: _Panel) -> Iterator[str]:
    longest = max(min(bar.times, _MOST) for bar in panel.bars)
    scale = _BAR / max(longest, 1.0)
    yield f'<text class="caption" y="12">{escape(panel.caption)}</text>'
    yield f'<text class="own" {_END} y="12">{escape(panel.cost)}</text>'
    for place, bar in enumerate(panel.bars):
        y = _CAPTION + place * _ROW
        width = max(1.5, min(bar.times, _MOST) * scale)
        weight = ' class="ours"' if bar.kind == "ours" else ""
        yield f'<text{weight} y="{y + 10}">{escape(bar.name)}</text>'
        yield (
            f'<rect class="{bar.kind}" x="{_NAME}" y="{y}" width="{width:.1f}"'
            f' height="{_THICK}" rx="2"/>'
        )
        if bar.times > _MOST:
            x = _NAME + width - 16
            yield f'<path class="cut" d="M{x:.1f} {y + 14}l5 -16m4 0l-5 16"/>'
        yield f'<text{weight} {_END} y="{y + 10}">{number(bar.times)}×</text>'
    x = _NAME + scale
    yield f'<path class="unit" d="M{x:.1f} {_CAPTION - 5}V{panel.height - 3}"/>'
