"""Statistics as JSON, and the sum of several processes'."""

import json
from typing import Any

import attrs
import pytest

from trio_gateway.http.totals import add_up, present, to_raw
from trio_gateway.metrics import Counters, Distribution, Histogram, Statistics


def statistics(connections: int, *outboxes: int, handshakes: tuple[float, ...] = ()) -> Statistics:
    counters = Counters(upgrades_accepted=connections)
    counters.close(1000)
    counters.refuse(429, "rate_limited")
    for seconds in handshakes:
        counters.handshakes.observe(seconds)
    return counters.snapshot(
        sockets=connections,
        pending_handshakes=0,
        pending_upgrades=0,
        connections=connections,
        handlers=connections,
        outboxes=outboxes,
    )


def carried(value: Any) -> Any:
    """Return what is left of raw statistics behind a process's border."""
    return json.loads(json.dumps(to_raw(value)))


def test_the_sum_is_that_of_one_process() -> None:
    """What counts adds up, the largest is the largest, and quantiles are those of all."""
    one = statistics(2, 5, 7, handshakes=(0.002, 0.002, 0.002))
    other = statistics(3, 9, handshakes=(0.4,))
    both = statistics(5, 5, 7, 9, handshakes=(0.002, 0.002, 0.002, 0.4))
    expected = attrs.evolve(
        both, closes={1000: 2}, refused={(429, "rate_limited"): 2}, upgrades_accepted=5
    )
    total = add_up([{"gateway": carried(one)}, {"gateway": carried(other)}])
    assert present({"gateway": carried(expected)}) == present(total)


@pytest.mark.parametrize(
    "name, values, expected",
    [
        ("available", (True, False), False),
        ("started", (20.5, 10.5), 10.5),
        ("nodes", (4, 4), 4),
        ("resident_bytes", (1, 2), 3),
        ("version", ("1", "1"), "1"),
        ("nothing", (None, None), None),
    ],
)
def test_what_does_not_add_up(name: str, values: tuple[Any, Any], expected: Any) -> None:
    """What all see alike is told once, and the worst store is the store."""
    assert {name: expected} == add_up({name: value} for value in values)


def test_what_one_alone_has() -> None:
    """It is in the sum, and no process's own statistics are changed by it."""
    one, other = {"closes": {"1000": 1}}, {"closes": {"1012": 2}}
    assert {"closes": {"1000": 1, "1012": 2}} == add_up([one, other])
    assert {"closes": {"1000": 1}} == one


def test_nobody() -> None:
    """No process, no statistics."""
    assert {} == add_up([])


def test_a_distribution_without_a_quantile_says_null() -> None:
    """JSON knows neither infinity nor what is no number."""

    def quantiles(distribution: Distribution) -> Any:
        return present(to_raw(distribution))["quantiles"]

    histogram = Histogram((1.0,))
    assert {"0.5": None, "0.9": None, "0.99": None} == quantiles(histogram.snapshot())
    histogram.observe(2)
    assert {"0.5": None, "0.9": None, "0.99": None} == quantiles(histogram.snapshot())
