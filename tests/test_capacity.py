"""The capacity page says what the simulation gives, and the simulation loses nobody."""

import math
import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.capacity_model import costs
from scripts.capacity_model.chart import draw
from scripts.capacity_model.fluid import (
    STEP,
    Fleet,
    Waits,
    come_back,
    doubled,
    fixed,
    jittered,
    mean_absence,
)
from scripts.capacity_model.page import filled
from trio_gateway.client import ClientSettings
from trio_gateway.settings import Drain, Limits

DOCS = Path(__file__).parents[1] / "docs"
GATEWAY_JS = Path(__file__).parents[1] / "trio_gateway" / "http" / "page" / "gateway.js"


def test_the_page() -> None:
    """Every table is what ``scripts/capacity`` writes; run it after a change."""
    text = (DOCS / "capacity.md").read_text("utf-8")
    assert 6 == text.count("<!-- end -->")
    assert filled(text) == text


def test_the_chart() -> None:
    """So is the chart."""
    assert draw() == (DOCS / "capacity.svg").read_text("utf-8")


def test_the_defaults_it_speaks_of() -> None:
    """They are the defaults."""
    drain, client = Drain(), ClientSettings()
    script = GATEWAY_JS.read_text("utf-8")
    text = (DOCS / "capacity.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \| .+ \|$", text, re.MULTILINE))
    assert {
        "`Drain.min_retry`, `Drain.max_retry`": f"{drain.min_retry:g} s, {drain.max_retry:g} s",
        "`Drain.closes_per_second`": f"{drain.closes_per_second:g}",
        "`Drain.grace`": f"{drain.grace:g} s",
        "`Limits.max_pending_handshakes`": f"{Limits().max_pending_handshakes:,}",
        "backoff of the clients": (
            f"from {client.backoff_base:g} s, doubled to {client.backoff_cap:g} s, full jitter"
        ),
    }.items() <= rows.items()
    for name, value in (
        ("backoffBase", client.backoff_base),
        ("backoffCap", client.backoff_cap),
        ("connectTimeout", 15),
    ):
        found = re.search(rf"\b{name}: ([0-9_]+),", script)
        assert found is not None
        assert value * 1000 == int(found[1])


@given(
    st.floats(1, 1e6),
    st.tuples(st.floats(0, 10), st.floats(10, 20)),
    st.integers(1, 50),
    st.integers(1, 70_000),
    st.sampled_from([fixed(1), doubled(0.5, 30), jittered(0.5, 30)]),
)
def test_nobody_is_lost_or_made(
    clients: float, when: tuple[float, float], cores: int, backlog: int, waits: Waits
) -> None:
    """Clients come back once, no faster than the cores allow, and each tries at least once."""
    fleet = Fleet(cores=cores, backlog=backlog)
    curves = come_back(fleet, [(clients, *when)], waits, seconds=30)
    most = fleet.returns_per_second * STEP * (1 + 1e-9)
    before = 0.0
    for online in curves.online:
        assert -1e-6 <= online - before <= most
        before = online
    assert before <= clients * (1 + 1e-9) + 1e-3
    assert sum(curves.attempts) >= before * (1 - 1e-9) - 1e-3
    assert all(-1e-9 <= busy <= 1 + 1e-9 for busy in curves.busy)


def test_where_there_is_room() -> None:
    """Everybody is back as soon as they ask, at the first attempt."""
    fleet = Fleet(cores=1)
    curves = come_back(fleet, [(1000.0, 2.0, 12.0)], jittered(0.5, 30), seconds=20)
    assert (1000, 1, 0) == pytest.approx(
        (curves.online[-1], curves.tries, curves.abandoned), abs=1e-3
    )
    assert 100 == pytest.approx(curves.peak, abs=1e-3)
    assert 7 == pytest.approx(mean_absence(curves), abs=2 * STEP)
    assert 12 == pytest.approx(curves.seconds_until(1.0), abs=2 * STEP)
    assert 100 * costs.RETURN == pytest.approx(curves.busy[round(5 / STEP)])


def test_an_overload_keeps_itself_alive() -> None:
    """A queue longer than patience serves nobody, for as long as they come back."""
    herd = (50_000.0, 0.0, 0.5)
    short = Fleet(cores=1, share=0.5, backlog=4096)
    curves = come_back(short, [herd], jittered(0.5, 30), seconds=120)
    assert curves.seconds_until(1.0) < 60
    long = attrs.evolve(short, backlog=65_535)
    curves = come_back(long, [herd], jittered(0.5, 30), seconds=120)
    assert math.isinf(curves.seconds_until(0.5))


def test_a_kernel_knocks_again() -> None:
    """Who finds the backlog full comes again after 1, 3 and 7 s, and is not another attempt."""
    fleet = Fleet(cores=1, share=0.1, backlog=1000)  # 250 a second
    curves = come_back(fleet, [(3000.0, 0.0, STEP)], jittered(0.5, 30), seconds=30)
    assert curves.attempts[round(1 / STEP)] == 0
    at = [curves.online[round(second / STEP) - 1] for second in (1, 4, 7)]
    assert [250, 1000, 1750] == pytest.approx(at, rel=0.06)
