"""Statistics as families of metrics.

In: snapshots of a gateway, a hub, a broker, the HTTP API and this process. Out: prometheus_client's
families. The rules: a label has values that this program or its operator has chosen, never what a
client sent; docs/metrics.md names every family, and a test holds it to that.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from trio_gateway import __version__
from trio_gateway.errors import CloseCode
from trio_gateway.hub.values import HubStatistics
from trio_gateway.metrics import Distribution, ProcessStatistics, Statistics

PREFIX = "trio_gateway_"

_GAUGES = {
    "sockets": "Open sockets, whatever they are doing.",
    "pending_handshakes": "Sockets that have not finished their first request.",
    "pending_upgrades": "Upgrades that are not decided.",
    "connections": "Open WebSocket connections.",
    "handlers": "Handler tasks that are running.",
    "outbox_bytes": "Bytes that wait to be sent, of all sockets.",
    "largest_outbox": "The most bytes that wait for one socket.",
    "waiting_sockets": "Sockets that bytes wait for.",
}
_COUNTERS = {
    "accepted_sockets": "Sockets accepted.",
    "duplicate_upgrades_prevented": "Second decisions on an upgrade that were turned away.",
    "handler_failures": "Handlers that ended with an exception.",
    "http_requests": "Plain HTTP requests answered.",
    "slow_consumers": "Connections closed because their peer did not read fast enough.",
}
_HUB_GAUGES = {
    "topics": "Topics in use.",
    "subscriptions": "Live subscriptions.",
    "joining": "Subscriptions that are reading their history.",
}
_HUB_COUNTERS = {
    "publications": "Publications taken from the broker's stream for somebody.",
    "deliveries": "Frames accepted in fan-outs, counted once for each subscriber.",
    "batches": "Fan-outs of one topic's frames of one tick.",
    "slow": "Offers refused because too much waits for the subscriber.",
    "closed": "Offers to subscribers that were gone.",
    "reads": "Reads of a topic's history for joins.",
    "held": "Publications that came during such a read.",
    "gaps": "Subscriptions that missed something because the broker's stream had a gap.",
    "rejoined": "Those of them that were told and went on.",
    "dropped": "Ephemeral frames dropped for a topic with too much pending.",
    "failed": "Publications and presence changes whose encoder failed.",
    "crowded_out": "New topics that there was no room for.",
    "replayed": "Publications given to those that recovered.",
    "unstored": "Publishing that failed because the store could not be reached.",
}


def of_gateway(statistics: Statistics) -> Iterator[Metric]:
    """Return the families of a gateway."""
    for name, told in _GAUGES.items():
        yield GaugeMetricFamily(PREFIX + name, told, getattr(statistics, name))
    for name, told in _COUNTERS.items():
        yield CounterMetricFamily(PREFIX + name, told, getattr(statistics, name))
    yield _labelled(
        GaugeMetricFamily,
        "route_connections",
        "Upgrades and connections by route and state.",
        ("route", "state"),
        statistics.routes,
    )
    yield _labelled(
        CounterMetricFamily,
        "upgrades",
        "Decided upgrades by outcome.",
        ("outcome",),
        {
            ("accepted",): statistics.upgrades_accepted,
            ("rejected",): statistics.upgrades_rejected,
            ("abandoned",): statistics.upgrades_abandoned,
        },
    )
    yield _labelled(
        CounterMetricFamily,
        "rejections",
        "Rejected upgrades by status and reason.",
        ("status", "reason"),
        statistics.rejected,
    )
    yield _labelled(
        CounterMetricFamily,
        "refusals",
        "Refusals before any upgrade by status and reason.",
        ("status", "reason"),
        statistics.refused,
    )
    yield _labelled(
        CounterMetricFamily,
        "closes",
        "Ended connections by close code.",
        ("code",),
        _by_code(statistics.closes),
    )
    yield _labelled(
        CounterMetricFamily,
        "limited",
        "What a limit has turned down or held up.",
        ("limit",),
        {(limit,): count for limit, count in statistics.limited.items()},
    )
    yield _histogram(
        "handshake_seconds", "From a whole request head to the 101.", statistics.handshakes
    )
    yield _histogram(
        "loop_lag_seconds", "How late the event loop came to deadlines.", statistics.lag
    )


def of_hub(statistics: HubStatistics) -> Iterator[Metric]:
    """Return the families of a hub."""
    for name, told in _HUB_GAUGES.items():
        yield GaugeMetricFamily(f"{PREFIX}hub_{name}", told, getattr(statistics, name))
    for name, told in _HUB_COUNTERS.items():
        yield CounterMetricFamily(f"{PREFIX}hub_{name}", told, getattr(statistics, name))
    yield _labelled(
        CounterMetricFamily,
        "hub_recoveries",
        "Joins with a position by whether all that they missed was still kept.",
        ("outcome",),
        {("hit",): statistics.recovered, ("miss",): statistics.unrecovered},
    )
    yield _histogram(
        "hub_publish_seconds", "Until a publication was stored.", statistics.publishing
    )
    yield _histogram("hub_batch_frames", "Frames of a topic's batch.", statistics.batch_sizes)


def of_store(available: bool, statistics: Any) -> Iterator[Metric]:
    """Return the families of a broker.

    Arguments:
        available: whether it can store.
        statistics: an attrs instance of numbers, or None.
    """
    yield GaugeMetricFamily(
        PREFIX + "store_available", "Whether the store can be reached and written.", available
    )
    numbers = {} if statistics is None else attrs.asdict(statistics, recurse=False)
    yield _labelled(
        GaugeMetricFamily,
        "store",
        "What the store says of itself, by the name of the number.",
        ("number",),
        {(name,): value for name, value in numbers.items() if isinstance(value, int | float)},
    )


def of_api(requests: Mapping[tuple[str, int], int], disconnected: int) -> Iterator[Metric]:
    """Return the families of the HTTP API."""
    yield _labelled(
        CounterMetricFamily,
        "api_requests",
        "Requests to the HTTP API by endpoint and status.",
        ("endpoint", "status"),
        requests,
    )
    yield CounterMetricFamily(
        PREFIX + "api_disconnects", "Connections closed through the HTTP API.", disconnected
    )


def of_readiness(ready: bool) -> Metric:
    """Return the family of what ``/readyz`` says; of several workers, how many are ready."""
    return GaugeMetricFamily(PREFIX + "ready", "Processes that welcome connections.", ready)


def of_process(statistics: ProcessStatistics) -> Iterator[Metric]:
    """Return the families of this process."""
    yield GaugeMetricFamily(PREFIX + "tasks", "Trio tasks.", statistics.tasks)
    yield GaugeMetricFamily(
        PREFIX + "descriptors", "Open files and sockets.", statistics.descriptors
    )
    yield _labelled(GaugeMetricFamily, "info", "What runs here.", ("version",), {(__version__,): 1})
    # prometheus_client's collector of these lists the descriptors: 20 ms where there are 10,000.
    cpu = "Total user and system CPU time spent in seconds."
    yield CounterMetricFamily("process_cpu_seconds", cpu, statistics.cpu_seconds)
    for name, told, value in (
        ("open_fds", "Number of open file descriptors.", statistics.descriptors),
        ("max_fds", "Maximum number of open file descriptors.", statistics.max_descriptors),
        ("resident_memory_bytes", "Resident memory size in bytes.", statistics.resident_bytes),
        ("start_time_seconds", "Start time of the process since 1970.", statistics.started),
    ):
        if value:
            yield GaugeMetricFamily(f"process_{name}", told, value)


def _labelled(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    told: str,
    labels: tuple[str, ...],
    samples: Mapping[Any, float],
) -> Metric:
    family = kind(PREFIX + name, told, labels=labels)
    for values, count in samples.items():
        family.add_metric([str(value) for value in values], count)
    return family


def _histogram(name: str, told: str, sizes: Distribution) -> Metric:
    below, buckets = 0, []
    for bound, count in zip((*map(str, sizes.bounds), "+Inf"), sizes.counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    return HistogramMetricFamily(PREFIX + name, told, buckets=buckets, sum_value=sizes.total)


def _by_code(closes: Mapping[int, int]) -> Mapping[tuple[str], int]:
    """Return the counts with the codes that a peer may invent taken together."""
    sums: dict[tuple[str], int] = {}
    for code, count in closes.items():
        known = 1000 <= code <= 1015 or code in _CODES
        name = str(code) if known else f"{code // 1000}xxx"
        sums[name,] = sums.get((name,), 0) + count
    return sums


_CODES = frozenset(map(int, CloseCode))
