"""Liveness, readiness, metrics."""

import json
import math
from collections import Counter
from typing import Any

import attrs
import pytest

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.health import Health, render_metrics
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.metrics import Counters, Statistics


def statistics() -> Statistics:
    """Return a snapshot of a gateway with three connections."""
    counters = Counters(upgrades_accepted=7, refusals=Counter({429: 2}))
    return counters.snapshot(
        sockets=4, pending_handshakes=1, pending_upgrades=0, connections=3, handlers=3
    )


async def get(health: Health, path: str, method: str = "GET") -> HttpResponse | Refusal | None:
    """Ask for a path."""
    return await health(
        HttpRequest(method=method, path=path, query={}, headers={}, body=b"", remote="")
    )


async def test_healthz_is_ok_as_long_as_it_answers() -> None:
    """Even when it is not ready: restarting would not help."""
    health = Health(unready=lambda: "draining", statistics=statistics)
    response = await get(health, "/healthz")
    assert isinstance(response, HttpResponse)
    assert (response.status, json.loads(response.body)) == (200, {"status": "ok"})


async def test_readyz_is_200_when_ready() -> None:
    """And says so."""
    response = await get(Health(unready=lambda: None, statistics=statistics), "/readyz")
    assert isinstance(response, HttpResponse)
    assert (response.status, json.loads(response.body)) == (200, {"status": "ready"})


@pytest.mark.parametrize("reason", ["draining", "store_unavailable", "something_else"])
async def test_readyz_is_503_with_the_reason(reason: str) -> None:
    """A balancer sees the status, a person the reason."""
    refusal = await get(Health(unready=lambda: reason, statistics=statistics), "/readyz")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.error) == (503, reason)
    assert refusal.message
    assert ("Retry-After", "5") in refusal.headers


async def test_metrics_are_prometheus_text() -> None:
    """Gauges, counters, and what became of upgrades as one metric."""
    health = Health(unready=lambda: None, statistics=statistics, hub=Hub(MemoryBroker()).statistics)
    response = await get(health, "/metrics")
    assert isinstance(response, HttpResponse)
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    lines = response.body.decode().splitlines()
    for line in (
        "# TYPE trio_gateway_connections gauge",
        "trio_gateway_connections 3",
        "# TYPE trio_gateway_upgrades_total counter",
        'trio_gateway_upgrades_total{outcome="accepted"} 7',
        'trio_gateway_upgrades_total{outcome="rejected"} 0',
        'trio_gateway_refusals_total{status="429"} 2',
        "trio_gateway_hub_topics 0",
        "trio_gateway_hub_deliveries_total 0",
    ):
        assert lines.count(line) == 1, line


async def test_every_metric_is_typed_once_in_front_of_its_samples() -> None:
    """The format wants the samples of a metric in one block."""
    health = Health(unready=lambda: None, statistics=statistics, hub=Hub(MemoryBroker()).statistics)
    response = await get(health, "/metrics")
    assert isinstance(response, HttpResponse)
    seen: list[str] = []
    for line in response.body.decode().splitlines():
        if line.startswith("# TYPE "):
            seen.append(line.split()[2])
        else:
            assert line.split("{")[0].split(" ")[0] == seen[-1]
    assert len(seen) == len(set(seen))


async def test_every_number_of_the_gateway_is_a_metric() -> None:
    """A field added to ``Statistics`` shows up by itself."""
    text = render_metrics(attrs.asdict(statistics(), recurse=False)).decode()
    for field in attrs.fields(Statistics):
        name = "upgrades" if field.name.startswith("upgrades_") else field.name
        assert f"# TYPE trio_gateway_{name}" in text


@pytest.mark.parametrize(
    "numbers, expected",
    [
        ({"connections": True}, "trio_gateway_connections 1"),
        ({"connections": math.inf}, "trio_gateway_connections +Inf"),
        ({"connections": -math.inf}, "trio_gateway_connections -Inf"),
        ({"connections": math.nan}, "trio_gateway_connections NaN"),
        ({"connections": 0.5}, "trio_gateway_connections 0.5"),
        ({"things": {'a"\\\n': 1}}, r'trio_gateway_things_total{kind="a\"\\\n"} 1'),
    ],
)
def test_numbers_and_labels_are_written_as_the_format_wants(
    numbers: dict[str, Any], expected: str
) -> None:
    """Escapes in labels, names for what is no finite number."""
    assert expected in render_metrics(numbers).decode().splitlines()


async def test_other_paths_and_methods_are_not_answered() -> None:
    """None for another path, 405 for another method."""
    health = Health(unready=lambda: None, statistics=statistics)
    assert await get(health, "/") is None
    assert await get(health, "/healthz/") is None
    refusal = await get(health, "/metrics", "POST")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.headers) == (405, (("Allow", "GET, HEAD"),))
