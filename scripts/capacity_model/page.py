"""The tables of ``docs/capacity.md``, between their markers."""

import math
import re
from collections.abc import Callable, Iterable

from scripts.capacity_model import costs
from scripts.capacity_model.fluid import mean_absence
from scripts.capacity_model.scenarios import (
    DRAIN,
    FLEET,
    HERD_SECONDS,
    NODES,
    ON_A_NODE,
    SHARE,
    deploys,
    herds,
    restarts,
)

_BLOCK = re.compile(r"(<!-- (\w+): made by scripts/capacity -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return the page with every table made anew.

    Raises:
        KeyError: a marker names no table.
    """
    return _BLOCK.sub(lambda match: f"{match[1]}\n{_TABLES[match[2]]()}\n\n{match[3]}", text)


def _table(head: str, rows: Iterable[Iterable[str]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + " --- |" * columns]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _round(value: float) -> str:
    """Two digits that mean something."""
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def _units() -> str:
    def row(what: str, cost: float) -> tuple[str, str, str]:
        return what, f"{cost / costs.MICRO:g} µs", _round(SHARE / cost)

    return _table(
        "what | server CPU | a second, on half a core",
        [
            row("a delivery, one message at a time", costs.DELIVERY),
            row("a delivery, 16 messages in flight", costs.DELIVERY_BATCHED),
            row("a message in and its echo", costs.ECHO),
            row("connect, upgrade, close: a handler", costs.UPGRADE),
            row("a chat client's return, with up to 100 messages missed", costs.RETURN),
            row("a publication in the redis-server, one at a time", costs.REDIS_PUBLISH),
            row("a publication in the redis-server, 16 in flight", costs.REDIS_PUBLISH_BUSY),
            row("what it adds at the node, one at a time", costs.NODE_PUBLISH),
            row("what it adds at the node, 16 in flight", costs.NODE_PUBLISH_BUSY),
        ],
    )


def _node() -> str:
    return _table(
        "on a core with so many chat clients | " + " | ".join(["10,000", f"{ON_A_NODE:,}"]),
        [
            (
                "memory of the process for them",
                *(f"{clients * costs.IDLE_BYTES / 2**20:,.0f} MiB" for clients in (1e4, ON_A_NODE)),
            ),
            (
                "heartbeats of clients that are silent",
                *(f"{clients / 25 * costs.ECHO:.1%} of the core" for clients in (1e4, ON_A_NODE)),
            ),
            (
                "a message to all of them, one at a time",
                *(f"{clients * costs.DELIVERY * 1000:,.0f} ms" for clients in (1e4, ON_A_NODE)),
            ),
            (
                "messages a second to rooms of 100, on half the core",
                *(_round(SHARE / (100 * costs.DELIVERY)) for _ in range(2)),
            ),
            (
                "all of them come back, on half the core",
                *(f"{clients * costs.RETURN / SHARE:,.0f} s" for clients in (1e4, ON_A_NODE)),
            ),
        ],
    )


def _seconds(value: float) -> str:
    return f"not in {HERD_SECONDS} s" if math.isinf(value) else f"{value:.0f} s"


def _herds() -> str:
    return _table(
        "how clients wait | tries for each | attempts given up | half are back | 99 % | all",
        [
            (
                storm.name,
                f"{storm.curves.tries:.1f}",
                f"{storm.curves.abandoned / 1e6:.1f} million",
                *(_seconds(storm.curves.seconds_until(share)) for share in (0.5, 0.99, 1.0)),
            )
            for storm in herds()
        ],
    )


def _deploys() -> str:
    return _table(
        "the node is | attempts at each other node, at most | its busiest second | mean absence"
        " | all are back",
        [
            (
                storm.name,
                f"{storm.curves.peak / (NODES - 1):,.0f} a second",
                f"{_busiest(storm.curves.busy) * SHARE:.0%} of a core",
                f"{mean_absence(storm.curves) - _gone_late(storm.name):.1f} s",
                _seconds(storm.curves.seconds_until(1.0)),
            )
            for storm in deploys()
        ],
    )


def _gone_late(name: str) -> float:
    """Seconds that the average client stayed connected before it was told."""
    told = min(0.75 * DRAIN.grace, ON_A_NODE / DRAIN.closes_per_second)
    return told / 2 if name.startswith("drained") else 0.0


def _busiest(busy: Iterable[float]) -> float:
    values = list(busy)
    steps = 20
    return max(sum(values[at : at + steps]) / steps for at in range(len(values) - steps))


def _restarts() -> str:
    return _table(
        "clients of the process | `closes_per_second` | mean absence | all are back"
        " | its busiest second",
        [
            (
                f"{clients:,}",
                "(untold)" if rate is None else f"{rate:g}",
                f"{mean_absence(curves):.1f} s",
                _seconds(curves.seconds_until(1.0)),
                f"{_busiest(curves.busy) * SHARE:.0%} of a core",
            )
            for clients, rate, curves in restarts()
        ],
    )


def _backlogs() -> str:
    most = FLEET.patience * SHARE / costs.RETURN
    return _table(
        "backlog of a process | the last in it waits, on half a core",
        [
            (f"{backlog:,}", f"{backlog * costs.RETURN / SHARE:.1f} s")
            for backlog in (128, 4096, round(most), 65_535)
        ],
    )


_TABLES: dict[str, Callable[[], str]] = {
    "units": _units,
    "node": _node,
    "herds": _herds,
    "deploys": _deploys,
    "restarts": _restarts,
    "backlogs": _backlogs,
}
