"""What Prometheus reads."""

from collections.abc import Mapping

import pytest
from prometheus_client import Gauge
from prometheus_client.parser import text_string_to_metric_families

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.http.metrics import Metrics, Sources
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.metrics import Counters, Statistics


def statistics(counters: Counters, routes: Mapping[tuple[str, str], int] = {}) -> Statistics:
    """Return a snapshot of a gateway with three connections."""
    return counters.snapshot(
        sockets=4,
        pending_handshakes=1,
        pending_upgrades=0,
        connections=3,
        handlers=3,
        routes=routes,
        outboxes=[5, 7],
    )


async def get(
    metrics: Metrics, path: str = "/metrics", method: str = "GET"
) -> HttpResponse | Refusal | None:
    """Ask for a path."""
    return await metrics(
        HttpRequest(method=method, path=path, query={}, headers={}, body=b"", remote="")
    )


async def read(metrics: Metrics) -> dict[str, float]:
    """Return the samples by name and labels, as they are written."""
    response = await get(metrics)
    assert isinstance(response, HttpResponse)
    assert "text/plain; version=0.0.4; charset=utf-8" == response.content_type
    families = text_string_to_metric_families(response.body.decode())
    return {
        sample.name + str(dict(sorted(sample.labels.items())) or ""): sample.value
        for family in families
        for sample in family.samples
    }


async def test_numbers_are_gauges_and_counters() -> None:
    """With labels where something is counted by something."""
    counters = Counters(upgrades_accepted=7, slow_consumers=2)
    counters.refuse(429, "too_many_connections_per_ip")
    counters.handshakes.observe(0.003)
    routes = {("/", "open"): 2, ("fallback", "closing"): 1}
    samples = await read(Metrics(Sources(gateway=lambda: statistics(counters, routes))))
    expected = {
        "trio_gateway_connections": 3,
        "trio_gateway_outbox_bytes": 12,
        "trio_gateway_largest_outbox": 7,
        "trio_gateway_waiting_sockets": 2,
        "trio_gateway_slow_consumers_total": 2,
        "trio_gateway_upgrades_total{'outcome': 'accepted'}": 7,
        "trio_gateway_upgrades_total{'outcome': 'abandoned'}": 0,
        "trio_gateway_refusals_total{'reason': 'too_many_connections_per_ip', 'status': '429'}": 1,
        "trio_gateway_route_connections{'route': '/', 'state': 'open'}": 2,
        "trio_gateway_route_connections{'route': 'fallback', 'state': 'closing'}": 1,
        "trio_gateway_handshake_seconds_count": 1,
        "trio_gateway_handshake_seconds_sum": 0.003,
        "trio_gateway_handshake_seconds_bucket{'le': '0.0025'}": 0,
        "trio_gateway_handshake_seconds_bucket{'le': '0.005'}": 1,
        "trio_gateway_handshake_seconds_bucket{'le': '+Inf'}": 1,
    }
    assert expected == {name: samples.get(name) for name in expected}


async def test_codes_that_peers_invent_are_counted_together() -> None:
    """A label is never what a client sent."""
    counters = Counters()
    for code in (1000, 1006, 4401, 4402, 4999, 3456):
        counters.close(code)
    samples = await read(Metrics(Sources(gateway=lambda: statistics(counters))))
    found = {name: value for name, value in samples.items() if "closes" in name}
    expected = {"1000": 1, "1006": 1, "4401": 1, "4xxx": 2, "3xxx": 1}
    assert {f"trio_gateway_closes_total{{'code': '{c}'}}": n for c, n in expected.items()} == found


async def test_each_has_a_registry_of_its_own() -> None:
    """Two gateways of one program know nothing of each other; a program may add to one."""
    one = Metrics(Sources(gateway=lambda: statistics(Counters())))
    other = Metrics(Sources(gateway=lambda: statistics(Counters(upgrades_accepted=1))))
    Gauge("rooms_painted", "An application's own.", registry=one.registry).set(3)
    name = "trio_gateway_upgrades_total{'outcome': 'accepted'}"
    assert (0, 1) == ((await read(one))[name], (await read(other))[name])
    assert 3 == (await read(one))["rooms_painted"]
    assert "rooms_painted" not in await read(other)


async def test_a_hub_and_a_store_are_told_where_there_are_any() -> None:
    """And the process always."""
    broker = MemoryBroker()
    hub = Hub(broker)
    hub.encode_with("chat", lambda _: b"")
    await hub.publish("chat:lobby", b"{}")
    sources = Sources(
        gateway=lambda: statistics(Counters()),
        hub=hub.statistics,
        store=lambda: (False, broker.statistics()),
    )
    samples = await read(Metrics(sources))
    assert 1 == samples["trio_gateway_hub_publish_seconds_count"]
    assert 0 == samples["trio_gateway_store_available"]
    assert 1 == samples["trio_gateway_store{'number': 'publications'}"]
    assert samples["trio_gateway_tasks"] >= 1
    assert samples["process_open_fds"] >= 1
    alone = await read(Metrics(Sources(gateway=lambda: statistics(Counters()))))
    assert not [name for name in alone if "hub" in name or "store" in name]


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "é"])
async def test_labels_are_escaped(value: str) -> None:
    """Whatever a route is called."""
    sources = Sources(gateway=lambda: statistics(Counters(), {(value, "open"): 1}))
    response = await get(Metrics(sources))
    assert isinstance(response, HttpResponse)
    routes = [
        sample.labels["route"]
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
        if "route" in sample.labels
    ]
    assert [value] == routes


async def test_other_paths_and_methods_are_not_answered() -> None:
    """None for another path, 405 for another method."""
    metrics = Metrics(Sources(gateway=lambda: statistics(Counters())))
    assert await get(metrics, "/metrics/") is None
    refusal = await get(metrics, method="POST")
    assert isinstance(refusal, Refusal)
    assert (405, (("Allow", "GET, HEAD"),)) == (refusal.status, refusal.headers)
