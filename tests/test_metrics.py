"""Counting, and what bounds it."""

import math
import os
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.metrics import (
    LATENCY_BOUNDS,
    MAX_KEYS,
    Counters,
    Distribution,
    Histogram,
    process_statistics,
)


def snapshot_of(counters: Counters) -> dict[tuple[int, str], int]:
    """Return the refusals that were counted."""
    statistics = counters.snapshot(
        sockets=0, pending_handshakes=0, pending_upgrades=0, connections=0, handlers=0
    )
    return dict(statistics.refused)


@given(st.lists(st.floats(0, 20)))
def test_a_histogram_counts_each_size_once_in_its_bucket(sizes: list[float]) -> None:
    """A size on a bound is below it, as Prometheus's ``le`` has it."""
    histogram = Histogram()
    for size in sizes:
        histogram.observe(size)
    found = histogram.snapshot()
    expected = [0] * (len(LATENCY_BOUNDS) + 1)
    for size in sizes:
        expected[bisect_left(LATENCY_BOUNDS, size)] += 1
    assert tuple(expected) == found.counts
    assert len(sizes) == found.count
    assert math.isclose(math.fsum(sizes), found.total, abs_tol=1e-6)


@pytest.mark.parametrize(
    "share, expected", [(0.0, 1.0), (0.5, 2.0), (0.75, 2.0), (0.76, math.inf), (1.0, math.inf)]
)
def test_a_quantile_is_the_bound_of_its_bucket(share: float, expected: float) -> None:
    """Above the last bound nobody knows."""
    assert expected == Distribution((1.0, 2.0), (1, 2, 1), 7.0).quantile(share)


def test_nothing_has_no_quantile() -> None:
    """Not a number."""
    assert math.isnan(Histogram().snapshot().quantile(0.5))


def test_a_snapshot_stands_still() -> None:
    """What is counted later is not in it."""
    histogram = Histogram()
    before = histogram.snapshot()
    histogram.observe(1)
    assert (0, 1) == (before.count, histogram.snapshot().count)


def test_reasons_are_bounded_whatever_handlers_invent() -> None:
    """The rest is counted together, and none is lost; those that are known go on."""
    counters = Counters()
    for number in range(2 * MAX_KEYS):
        counters.refuse(400 + number % 100, f"reason {number}")
        counters.refuse(429, "reason 29")
    refused = snapshot_of(counters)
    assert len(refused) <= MAX_KEYS
    assert 4 * MAX_KEYS == sum(refused.values())
    assert 2 * MAX_KEYS + 1 == refused[429, "reason 29"]
    assert refused[400, "other"]


def test_close_codes_are_bounded_whatever_peers_invent() -> None:
    """A peer may choose among two thousand."""
    counters = Counters()
    for code in range(3000, 5000):
        counters.close(code)
    assert len(counters.closes) <= MAX_KEYS
    assert 2000 == sum(counters.closes.values())


def test_refusals_by_status_are_the_sums() -> None:
    """Of all reasons."""
    counters = Counters()
    for status, reason in ((400, "a"), (400, "b"), (429, "c")):
        counters.refuse(status, reason)
    statistics = counters.snapshot(
        sockets=0, pending_handshakes=0, pending_upgrades=0, connections=0, handlers=0
    )
    assert {400: 2, 429: 1} == statistics.refusals


def test_a_process_outside_trio_has_no_tasks() -> None:
    """And descriptors all the same, of which one more is one more."""
    before = process_statistics()
    descriptor = os.dup(0)
    after = process_statistics()
    os.close(descriptor)
    assert (0, 1) == (after.tasks, after.descriptors - before.descriptors)


async def test_a_process_in_trio_has_tasks() -> None:
    """This one, at least."""
    assert process_statistics().tasks >= 1
