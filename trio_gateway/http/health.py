"""Is it alive, is it ready: for balancers.

In: ``GET /healthz``, ``/readyz``. Out: a line of JSON. The rule: neither waits for anything, so
each says how things are even when nothing else works.
"""

from collections.abc import Callable

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.chain import wrong_method
from trio_gateway.http.messages import HttpRequest, HttpResponse

_REASONS = {
    "draining": "the gateway is draining; use another one",
    "store_unavailable": "the store cannot be reached or written",
}


class Health:
    """An ``HttpHandler`` for the two addresses.

    Arguments:
        unready: returns None when the gateway can take connections, else a short code of why
            not: ``"draining"``, ``"store_unavailable"``.
    """

    def __init__(self, *, unready: Callable[[], str | None]) -> None:
        self._unready = unready

    async def __call__(self, request: HttpRequest) -> HttpResponse | Refusal | None:
        """Answer a request, or return None for another path. Holds no checkpoint."""
        answer = {"/healthz": self._health, "/readyz": self._readiness}.get(request.path)
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
