"""Several HTTP handlers as one.

In: a request. Out: the answer of the first handler that has one. The rule: a handler that says
``None`` has done nothing, so asking the next is safe.
"""

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.messages import HttpHandler, HttpRequest, HttpResponse


def first_of(*handlers: HttpHandler) -> HttpHandler:
    """Return a handler that asks ``handlers`` in order, until one has an answer."""

    async def ask(request: HttpRequest) -> HttpResponse | Refusal | None:
        for handler in handlers:
            answer = await handler(request)
            if answer is not None:
                return answer
        return None

    return ask


def wrong_method(request: HttpRequest, *allowed: str) -> Refusal | None:
    """Return a 405 that names the ``allowed`` methods, or None when the request has one of them."""
    if request.method in allowed:
        return None
    names = ", ".join(allowed)
    return Refusal(
        405, "method_not_allowed", f"this address answers to {names}", (("Allow", names),)
    )
