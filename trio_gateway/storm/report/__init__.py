"""The report of a storm: one page in one file, for a browser with or without a network.

In: a recording, and how to repeat it. Out: HTML. The rules: the page loads nothing and runs
nothing; what a server or a client said is text in it, never markup; every number is of the
recording.
"""

import importlib.resources
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import attrs

from trio_gateway.storm.faults import FAULTS
from trio_gateway.storm.program import Program
from trio_gateway.storm.record import Finding, Recording, percentile
from trio_gateway.storm.report.charts import Line, over_time, shares
from trio_gateway.storm.report.series import Moment, moments, part_of

__all__ = ["Small", "render", "write"]

# What a page may do: nothing but its own style.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_MIB = 2.0**20
_NAMES = {"memory": "Memory", "descriptors": "Descriptors"}


@attrs.frozen(kw_only=True)
class Small:
    """A finding, made small.

    Attributes:
        command: replays it.
        lines: the smallest storm, told line by line.
        about: how small it became.
    """

    command: str
    lines: Sequence[str]
    about: str = ""


def write(path: Path, page: str) -> None:
    """Write a page; raises OSError."""
    path.write_text(page, encoding="utf-8")


def render(
    recording: Recording,
    *,
    command: str = "",
    program: Program | None = None,
    small: Mapping[str, Small] | None = None,
) -> str:
    """Return the page of a storm.

    Arguments:
        recording: what happened.
        command: runs the same storm again.
        program: the storm, for its size.
        small: what was made of a finding, by its rule.
    """
    parts = [
        _head(recording),
        _tiles(recording, program),
        _findings(recording, small or {}),
        _charts(recording),
        _faults(recording),
        _repeat(recording, command, program),
    ]
    title = escape(f"Storm {recording.seed}: {_verdict(recording)}")
    style = importlib.resources.files(__name__).joinpath("page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{title}</title><style>\n{style}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _verdict(recording: Recording) -> str:
    count = len(recording.findings)
    return "clean" if not count else f"{count} finding{'s' if count > 1 else ''}"


def _head(recording: Recording) -> str:
    began = ""
    if recording.started:
        moment = datetime.fromtimestamp(recording.started, UTC)
        began = f", {moment:%Y-%m-%d %H:%M} UTC"
    kind = "found" if recording.findings else "clean"
    about = f"against {recording.url}{began}, profile {recording.profile}"
    return (
        f"<header><h1>Storm {recording.seed}</h1>"
        f'<span class="verdict {kind}">{_verdict(recording)}</span>'
        f'<p class="about">{escape(about)}</p></header>'
    )


def _tiles(recording: Recording, program: Program | None) -> str:
    controls, accepts = recording.controls(), recording.accepts()
    peak = max((sample.open for sample in recording.samples), default=0)
    lag = max((sample.lag for sample in recording.samples), default=0.0)
    tiles: list[tuple[str, str, str]] = []
    if program is not None:
        tiles.append(("Clients", f"{len(program.scripts):,}", f"{program.steps:,} steps"))
    tiles += [
        ("Connects", f"{recording.connects:,}", f"{recording.rate():,.0f}/s in the rush"),
        ("Open at once", f"{peak:,}", "at most"),
        ("Control p99", _latency(controls, 0.99), f"worst {_latency(controls, 1.0)}"),
        ("Accept p99", _latency(accepts, 0.99), f"worst {_latency(accepts, 1.0)}"),
        ("Our own lag", _seconds(lag), "at worst"),
    ]
    if recording.lacking:
        tiles.append(("Not made", f"{recording.lacking:,}", "connects, for want of descriptors"))
    inner = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><small>{escape(more)}</small></div>"
        for name, value, more in tiles
    )
    return f'<dl class="tiles">{inner}</dl>'


# What was found.


def _findings(recording: Recording, small: Mapping[str, Small]) -> str:
    if recording.clean:
        return ""
    each = [
        _finding(finding, recording, small.get(finding.rule), opened=number == 0)
        for number, finding in enumerate(recording.findings)
    ]
    return f"<section><h2>Findings</h2>{''.join(each)}</section>"


def _finding(finding: Finding, recording: Recording, small: Small | None, *, opened: bool) -> str:
    often = recording.repeats[finding.rule, finding.fault]
    about = [f"at {finding.second:.2f} s"]
    if finding.fault is not None:
        about.append(f"client {finding.client}, {finding.fault}")
    if often > 1:
        about.append(f"{often:,} times")
    body: list[str] = []
    if small is not None:
        body.append(f"<h4>Made small{f': {escape(small.about)}' if small.about else ''}</h4>")
        body.append(_pre(small.lines))
        body.append(f'<h4>Replay</h4><p class="command">{escape(small.command)}</p>')
    if finding.transcript:
        body.append(f"<h4>What the client saw</h4>{_pre(finding.transcript)}")
    if not body:
        body.append('<p class="none">It was seen by nobody in particular.</p>')
    return (
        f'<details class="finding"{" open" if opened else ""}><summary>'
        f"<b>{escape(finding.rule)}</b> {escape(finding.message)}"
        f"<span>{escape(' · '.join(about))}</span></summary><div>{''.join(body)}</div></details>"
    )


def _pre(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


# Over time.


def _charts(recording: Recording) -> str:
    if not recording.samples:
        return ""
    seconds = moments(recording.samples)
    marks = [finding.second for finding in recording.findings]
    figures = [
        over_time(
            "Open connections",
            "Sockets of the storm that were open; they must come down again.",
            seconds,
            [Line(name="open", colour="a", value=lambda each: each.open, filled=True)],
            _count,
            marks=marks,
        ),
        over_time(
            "Connects a second",
            "What the storm drove; a dip that it did not ask for is a server that stopped.",
            seconds,
            [Line(name="connects/s", colour="d", value=lambda each: each.rate, filled=True)],
            _count,
            marks=marks,
        ),
        _latencies(
            "Control latency",
            "Healthy clients' messages, there and back, beside the storm.",
            seconds,
            lambda each: each.controls,
            total=recording.controls(),
            marks=marks,
        ),
        _latencies(
            "Accept latency",
            "From connect to 101, of well-behaved clients.",
            seconds,
            lambda each: each.accepts,
            total=recording.accepts(),
            marks=marks,
        ),
        *_gauges(recording, seconds, marks),
        over_time(
            "Our own lag",
            "How late the storm's own clock ran: no latency above is better than this.",
            seconds,
            [Line(name="lag", colour="d", value=lambda each: each.lag, filled=True)],
            _seconds,
            marks=marks,
        ),
    ]
    return f'<section><h2>Over time</h2><div class="charts">{"".join(figures)}</div></section>'


def _latencies(
    title: str,
    about: str,
    seconds: Sequence[Moment],
    values: Callable[[Moment], list[float]],
    *,
    total: list[float],
    marks: Sequence[float],
) -> str:
    lines = [
        Line(
            name=name,
            colour=colour,
            value=part_of(values, part),
            total=_latency(total, part),
        )
        for name, colour, part in (("worst", "c", 1.0), ("p99", "b", 0.99), ("p50", "a", 0.5))
    ]
    return over_time(title, about, seconds, lines, _seconds, logarithmic=True, marks=marks)


def _gauges(recording: Recording, seconds: Sequence[Moment], marks: Sequence[float]) -> list[str]:
    names = dict.fromkeys(
        [*recording.baseline, *(name for each in recording.samples for name in each.gauges)]
    )
    return [_gauge(name, recording, seconds, marks) for name in names]


def _gauge(
    name: str, recording: Recording, seconds: Sequence[Moment], marks: Sequence[float]
) -> str:
    unit = _MIB if name == "memory" else 1.0
    words = _mib if name == "memory" else _count

    def value(numbers: Mapping[str, float]) -> float | None:
        return numbers[name] / unit if name in numbers else None

    before, after = value(recording.baseline), value(recording.after)
    told = " → ".join("?" if value is None else words(value) for value in (before, after))
    title = _NAMES.get(name, name.replace("_", " ").capitalize())
    return over_time(
        title,
        "Of the server; dashed: before the storm, warm. It must come back.",
        seconds,
        [
            Line(
                name="before → after",
                colour="a",
                value=lambda each: value(each.gauges),
                total=told,
            )
        ],
        words,
        marks=marks,
        level=before,
    )


# By fault.


def _faults(recording: Recording) -> str:
    hurt = {finding.fault for finding in recording.findings}
    names = sorted(recording.statuses, key=lambda name: (name not in hurt, name))
    if not names:
        return ""
    cards = [_fault(name, recording, hurt=name in hurt) for name in names]
    return (
        "<section><h2>Statuses and close codes by fault</h2>"
        '<p class="about">First the answers, and how sockets ended that got none: left (the client'
        " went), end (the server did), held (the client waited in vain), reset. Then the codes of"
        " Close frames.</p>"
        f'<div class="faults">{"".join(cards)}</div></section>'
    )


def _fault(name: str, recording: Recording, *, hurt: bool) -> str:
    statuses = recording.statuses[name]
    closes = {str(code): count for code, count in recording.closes.get(name, Counter()).items()}
    stands_for = FAULTS[name].stands_for if name in FAULTS else "a script of somebody's own"
    body = shares(statuses, _status_colour) + (shares(closes, _close_colour) if closes else "")
    return (
        f'<article class="fault{" hurt" if hurt else ""}"><h3>{escape(name)}'
        f"<span>{sum(statuses.values()):,}</span></h3><p>{escape(stands_for)}</p>{body}</article>"
    )


def _status_colour(status: str) -> str:
    if status == "101":
        return "a"
    return {"2": "d", "3": "d", "4": "b", "5": "c"}.get(status[:1], "e")


def _close_colour(code: str) -> str:
    if code in {"1000", "1005"}:
        return "a"
    return "c" if code in {"1011", "1006"} else "d" if code in {"1001", "1012", "1013"} else "b"


# Again.


def _repeat(recording: Recording, command: str, program: Program | None) -> str:
    size = ""
    if program is not None:
        size = (
            f" {len(program.scripts):,} clients, {program.steps:,} steps, {program.sent_bytes:,}"
            f" bytes, in {program.duration:g} s, at most {program.rate:g} connects a second."
        )
    again = f'<p class="command">{escape(command)}</p>' if command else ""
    about = f"Seed {recording.seed} is the same storm every time.{size}"
    return (
        f'<section><h2>Again</h2><div class="repeat"><p>{escape(about)}</p>{again}</div></section>'
    )


# How values are written.


def _latency(values: list[float], part: float) -> str:
    return _seconds(percentile(values, part)) if values else "–"


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1000:.3g} ms"


def _count(value: Any) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def _mib(value: float) -> str:
    return f"{value:,.0f} MiB"
