"""``GET /metrics``: what there is to know, for Prometheus.

In: statistics. Out: the Prometheus text format (version 0.0.4), of several workers added up. The
rules: everything is read at the moment of the question, so that counting costs nothing here, and
nothing but the workers is waited for; each ``Metrics`` has a registry of its own.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http import families
from trio_gateway.http.chain import wrong_method
from trio_gateway.http.ensemble import Answers, Ensemble
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.http.summing import add_up
from trio_gateway.hub.values import HubStatistics
from trio_gateway.metrics import Statistics, process_statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@attrs.define(kw_only=True)
class Sources:
    """Where the numbers come from.

    Attributes:
        gateway: returns the gateway's.
        hub: returns the hub's; None for no hub.
        store: returns whether the broker can store, and its statistics or None.
        api: returns the requests to the HTTP API by endpoint and status, and how many connections
            it has closed.
        ready: returns whether new connections are welcome.
    """

    gateway: Callable[[], Statistics]
    hub: Callable[[], HubStatistics] | None = None
    store: Callable[[], tuple[bool, Any]] | None = None
    api: Callable[[], tuple[Mapping[tuple[str, int], int], int]] | None = None
    ready: Callable[[], bool] | None = None


class _Collector(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        yield from families.of_gateway(sources.gateway())
        if sources.hub is not None:
            yield from families.of_hub(sources.hub())
        if sources.store is not None:
            yield from families.of_store(*sources.store())
        if sources.api is not None:
            yield from families.of_api(*sources.api())
        if sources.ready is not None:
            yield families.of_readiness(sources.ready())
        yield from families.of_process(process_statistics())


class Metrics:
    """An ``HttpHandler`` for ``/metrics``.

    A program without an ``Application`` has them with
    ``Metrics(Sources(gateway=gateway.statistics))``.

    Arguments:
        sources: where the numbers come from.
        ensemble: the processes whose numbers they are; by default this one's alone.

    Attributes:
        registry: prometheus_client's; a program may register metrics of its own.
    """

    def __init__(self, sources: Sources, ensemble: Ensemble | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Collector(sources))
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._ensemble = ensemble or Ensemble()
        self._ensemble.teach("metrics", lambda _about: generate_latest(self.registry).decode())

    async def __call__(self, request: HttpRequest) -> HttpResponse | Refusal | None:
        """Answer a request, or return None for another path.

        A worker that does not tell in time is left out: a scrape that fails would tell less.
        """
        if request.path != "/metrics":
            return None
        if refusal := wrong_method(request, "GET", "HEAD"):
            return refusal
        text = _sum(await self._ensemble.ask("metrics"))
        return HttpResponse(status=200, body=text.encode(), content_type=CONTENT_TYPE)


def _sum(answers: Answers) -> str:
    texts = list(answers.said.values())
    if answers.workers is None:
        return "".join(texts)
    own = (
        f"# TYPE trio_gateway_workers gauge\ntrio_gateway_workers {answers.workers}\n"
        "# TYPE trio_gateway_worker_restarts_total counter\n"
        f"trio_gateway_worker_restarts_total {answers.restarts}\n"
    )
    return add_up([*texts, own])
