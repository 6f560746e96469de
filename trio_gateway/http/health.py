"""Is it alive, is it ready, how is it doing: for balancers and for Prometheus.

In: ``GET /healthz``, ``/readyz``, ``/metrics``. Out: a line of JSON, or the Prometheus text format
(version 0.0.4). The rule: none of the three waits for anything, so each says how things are even
when nothing else works.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.chain import wrong_method
from trio_gateway.http.messages import HttpRequest, HttpResponse

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REASONS = {
    "draining": "the gateway is draining; use another one",
    "store_unavailable": "the store cannot be reached or written",
}
_GAUGES = frozenset(
    {
        "sockets",
        "pending_handshakes",
        "pending_upgrades",
        "connections",
        "handlers",
        "hub_topics",
        "hub_subscriptions",
        "hub_joining",
    }
)
_LABELS = {"refusals": "status", "closes": "code"}
_OUTCOME = re.compile(r"upgrades_(accepted|rejected|abandoned)")


class Health:
    """An ``HttpHandler`` for the three addresses.

    Arguments:
        unready: returns None when the gateway can take connections, else a short code of why
            not: ``"draining"``, ``"store_unavailable"``.
        statistics: returns the gateway's snapshot, an attrs instance of numbers and mappings of
            numbers.
        hub: returns the hub's, likewise; None for none.
    """

    def __init__(
        self,
        *,
        unready: Callable[[], str | None],
        statistics: Callable[[], Any],
        hub: Callable[[], Any] | None = None,
    ) -> None:
        self._unready = unready
        self._statistics = statistics
        self._hub = hub

    async def __call__(self, request: HttpRequest) -> HttpResponse | Refusal | None:
        """Answer a request, or return None for another path. Holds no checkpoint."""
        answer = {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": self._metrics,
        }.get(request.path)
        if answer is None:
            return None
        return wrong_method(request, "GET", "HEAD") or answer()

    def _health(self) -> HttpResponse | Refusal:
        return HttpResponse.json(200, {"status": "ok"})

    def _readiness(self) -> HttpResponse | Refusal:
        reason = self._unready()
        if reason is None:
            return HttpResponse.json(200, {"status": "ready"})
        return Refusal(503, reason, _REASONS.get(reason, "not ready"), (("Retry-After", "5"),))

    def _metrics(self) -> HttpResponse | Refusal:
        numbers: dict[str, Any] = attrs.asdict(self._statistics(), recurse=False)
        if self._hub is not None:
            hub = attrs.asdict(self._hub(), recurse=False)
            numbers |= {f"hub_{name}": value for name, value in hub.items()}
        return HttpResponse(status=200, body=render_metrics(numbers), content_type=CONTENT_TYPE)


def render_metrics(numbers: Mapping[str, Any]) -> bytes:
    """Return numbers, and mappings of numbers, in the Prometheus text format.

    A number ``n`` becomes ``trio_gateway_n`` (a gauge) or ``trio_gateway_n_total`` (a counter). A
    mapping has a sample a key, labelled; what became of upgrades is one metric, by outcome.
    """
    families: dict[str, list[str]] = {}
    for name, value in numbers.items():
        if outcome := _OUTCOME.fullmatch(name):
            metric, samples = "upgrades", {f'{{outcome="{outcome[1]}"}}': value}
        elif isinstance(value, Mapping):
            label = _LABELS.get(name, "kind")
            metric = name
            samples = {f'{{{label}="{_escape(key)}"}}': count for key, count in value.items()}
        else:
            metric, samples = name, {"": value}
        kind, suffix = ("gauge", "") if name in _GAUGES else ("counter", "_total")
        full = f"trio_gateway_{metric}{suffix}"
        lines = families.setdefault(full, [f"# TYPE {full} {kind}"])
        lines.extend(f"{full}{labels} {_number(count)}" for labels, count in samples.items())
    return "".join(f"{line}\n" for lines in families.values() for line in lines).encode()


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value + 0)  # + 0 makes a bool a number
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _escape(key: object) -> str:
    return str(key).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
