"""The storms of the capacity page: what returns, to what, and how it waits."""

import math

import attrs

from scripts.capacity_model.fluid import Curves, Fleet, Waits, come_back, doubled, fixed, jittered
from trio_gateway.settings import Drain

CLIENTS = 1_000_000
NODES = 20
ON_A_NODE = CLIENTS // NODES
HERD_SECONDS = 300
SHARE = 0.5  # of each core for who returns; the rest is for who is here
DRAIN = Drain()
OURS = jittered(0.5, 30.0)  # trio_gateway.client; gateway.js begins one doubling later
FLEET = Fleet(cores=NODES, share=SHARE)


@attrs.frozen
class Storm:
    """A name, for the table and the chart, and what happens."""

    name: str
    curves: Curves


def herds() -> list[Storm]:
    """Everybody loses their connection in the same moment, and comes back to the same nodes."""
    crowded = attrs.evolve(FLEET, backlog=65_535)
    told = (CLIENTS, DRAIN.min_retry, DRAIN.max_retry)
    return [
        Storm("after 1 s, and again and again", _herd(FLEET, fixed(1), (CLIENTS, 1, 1))),
        Storm("doubling, no jitter", _herd(FLEET, doubled(0.5, 30), (CLIENTS, 0.5, 0.5))),
        Storm("our clients, untold", _herd(FLEET, OURS, (CLIENTS, 0, 0.5))),
        Storm("our clients, told `retry`", _herd(FLEET, OURS, told)),
        Storm("our clients, a backlog of 65,535", _herd(crowded, OURS, (CLIENTS, 0, 0.5))),
    ]


def _herd(fleet: Fleet, waits: Waits, first: tuple[float, float, float]) -> Curves:
    return come_back(fleet, [first], waits, seconds=HERD_SECONDS, failed=1)


def deploys() -> list[Storm]:
    """One of the nodes goes, its clients come to the others."""
    others = attrs.evolve(FLEET, cores=NODES - 1)
    seconds = min(0.75 * DRAIN.grace, ON_A_NODE / DRAIN.closes_per_second)
    slices = math.ceil(seconds / 0.5)
    drained = [
        (ON_A_NODE / slices, number * 0.5 + DRAIN.min_retry, number * 0.5 + 0.5 + DRAIN.max_retry)
        for number in range(slices)
    ]
    killed = [(float(ON_A_NODE), 0.0, 0.5)]
    return [
        Storm("drained, by default", come_back(others, drained, OURS, seconds=60)),
        Storm("killed", come_back(others, killed, OURS, seconds=60, failed=1)),
    ]


def restarts() -> list[tuple[int, float | None, Curves]]:
    """One process is replaced where it is: all its clients are told at once, and come back."""
    found: list[tuple[int, float | None, Curves]] = []
    for clients in (5_000, ON_A_NODE):
        for rate in (None, 200.0, 500.0, 1000.0):
            first = (float(clients), 0.0, 0.5)
            if rate is not None:
                most = max(DRAIN.max_retry, DRAIN.min_retry + clients / rate)
                first = (float(clients), DRAIN.min_retry, most)
            curves = come_back(Fleet(cores=1, share=SHARE), [first], OURS, seconds=300, failed=1)
            found.append((clients, rate, curves))
    return found
