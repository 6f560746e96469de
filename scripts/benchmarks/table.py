"""Figures into tables and one JSON document: what was measured, ratios, and the design's goals."""

import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from .goals import WITHIN, judged
from .run import Cell, Run, ratio

_HEAD = (
    *("workload", "server", "cost", "min–max", "ours ÷ it", "per CPU s"),
    *("p50 ms", "p99 ms", "client µs", "busy", "note"),
)

_LEGEND = """\
cost: server CPU (user + system) per operation, server memory (RSS) per connection, or what the
  workload says; medians.
ours ÷ it: trio_gateway's cost as a multiple of this server's, the median of the rounds' ratios;
  below 1, ours is cheaper.
wall µs: of time passed. A round is disturbed where others took a tenth of the machine or more;
  the figures are of the other rounds, if there are any.
client µs: the load client's own CPU per operation. busy: server and load client, of one core.\
""".splitlines()

Row = tuple[str, ...]


def render(run: Run) -> str:
    """The tables, readable as they are and as Markdown, and what was left out below them."""
    blocks = [
        _table([_HEAD, *(_row(run, cell) for cell in run.cells)], left={0, 1, 10}),
        _LEGEND,
        _table(_within(run), left={0}),
        _table(_goals(run), left={0, 1, 5}),
        list(_missing(run)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _table(rows: Sequence[Row], left: set[int]) -> list[str]:
    """Markdown, or nothing without rows; what repeats in the first column is said once."""
    if len(rows) < 2:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Row) -> str:
        cells = (
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(cells)} |"

    lines = [line(rows[0]), f"|{'|'.join('-' * (width + 2) for width in widths)}|"]
    before = ""
    for row in rows[1:]:
        lines.append(line(("", *row[1:]) if row[0] == before else row))
        before = row[0]
    return lines


def _within(run: Run) -> list[Row]:
    """Ratios between two workloads, a column a server that has one."""
    found = [
        {
            server.key: value
            for server in run.plan.servers
            if (value := ratio(run.find(row.of, server.key), run.find(row.to, server.key)))
        }
        for row in WITHIN
    ]
    keys = [server.key for server in run.plan.servers if any(server.key in row for row in found)]
    rows = [
        (row.title, *(number(values.get(key)) for key in keys))
        for row, values in zip(WITHIN, found, strict=True)
        if values
    ]
    return [("cost within one server", *keys), *rows]


def _goals(run: Run) -> list[Row]:
    """Every goal; none at all when this run has measured none of them."""
    verdicts = list(judged(run))
    if all(each.measured is None for each in verdicts):
        return []
    return [
        ("goal", "beside", "limit", "measured", "min–max", ""),
        *(
            (
                each.goal.title,
                each.goal.beside,
                each.goal.bound,
                "" if each.measured is None else f"{number(each.measured)} {each.goal.unit}",
                _range(each.values),
                each.verdict,
            )
            for each in verdicts
        ),
    ]


def _missing(run: Run) -> Iterable[str]:
    failures: dict[tuple[str, str], list[str]] = {}
    for cell in run.cells:
        if cell.failure is not None:
            failures.setdefault((cell.server.key, cell.failure), []).append(cell.workload.key)
    for (key, why), workloads in failures.items():
        yield f"failed: {key} ({', '.join(workloads)}): {why}"
    for key, reason in run.left_out.items():
        yield f"left out: {key}: {reason}"


def document(run: Run) -> dict[str, Any]:
    """Everything measured, for ``--json``."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "seconds": run.plan.seconds,
        "versions": run.versions,
        "left_out": run.left_out,
        "results": [
            {
                "workload": cell.workload.key,
                "title": cell.workload.title,
                "server": cell.server.key,
                "unit": cell.workload.unit,
                "cost": cell.median("cost"),
                "ratio": ratio(_ours(run, cell), cell),
                "failure": cell.failure,
                "rounds": [attrs.asdict(figures) for figures in cell.figures.values()],
            }
            for cell in run.cells
        ],
        "goals": [
            attrs.asdict(each.goal)
            | {"measured": each.measured, "rounds": list(each.values), "verdict": each.verdict}
            for each in judged(run)
        ],
    }


def _row(run: Run, cell: Cell) -> Row:
    version = run.versions.get(cell.server.key)
    title = cell.server.title if version is None else f"{cell.server.title} {version}"
    cost = cell.median("cost")
    if cost is None:
        nothing = [""] * (len(_HEAD) - 3)
        return (
            cell.workload.title,
            title,
            *nothing,
            "not measured" if cell.failure is None else "failed",
        )
    costs = list(cell.values("cost").values())
    busy = cell.median("busy")
    client_busy = cell.median("client_busy")
    return (
        cell.workload.title,
        title,
        f"{number(cost)} {cell.workload.unit}",
        _range(costs),
        number(ratio(_ours(run, cell), cell)),
        f"{1e6 / cost:,.0f}" if cell.workload.unit == "µs" else "",
        number(cell.median("p50")),
        number(cell.median("p99")),
        number(cell.median("client")),
        f"{busy:.0%} {client_busy:.0%}" if busy is not None and client_busy is not None else "",
        "; ".join(_notes(cell)),
    )


def _notes(cell: Cell) -> Iterable[str]:
    cost, cpu, store = cell.median("cost"), cell.median("cpu"), cell.median("store")
    if cost is not None and cell.workload.unit == "wall µs":
        yield f"{1e6 / cost:,.0f} a second"
    if cpu is not None:
        operations = max(figures.operations for figures in cell.figures.values())
        what = "held" if cell.workload.unit == "KiB" else "deliveries"
        yield f"{operations:,} {what}, {number(cpu)} µs CPU each"
    spent = cpu if cell.workload.unit != "µs" else cost
    if store is not None and spent:
        yield f"and {store / spent:.1%} of that in its store"
    came = cell.median("came")
    if came is not None:
        yield f"{came:.0%} came to one worker, before they were levelled"
    if cell.disturbed:
        others = max(figures.others or 0.0 for figures in cell.figures.values())
        yield f"{cell.disturbed} of {len(cell.figures)} rounds disturbed: others took {others:.0%}"
    undisturbed = cell.median("undisturbed")
    if undisturbed is not None:
        yield f"undisturbed p99 {number(undisturbed)} ms"
    memory, ended = cell.median("memory"), cell.median("ended")
    if memory is not None and ended is not None:
        yield f"{number(memory / 1024)} MiB more, {ended:.0f} given up"
    unclean = sum(figures.unclean for figures in cell.figures.values())
    if unclean:
        operations = sum(figures.operations for figures in cell.figures.values())
        yield f"{unclean} of {operations} closed without a Close frame"
    if cell.failure is not None:
        yield "failed later"


def _ours(run: Run, cell: Cell) -> Cell | None:
    return run.find(cell.workload.key, cell.workload.ours)


def _range(values: Sequence[float]) -> str:
    return f"{number(min(values))}–{number(max(values))}" if len(values) > 1 else ""


def number(value: float | None) -> str:
    """Three significant digits or so."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
