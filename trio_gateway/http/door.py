"""The door of the HTTP API: the same token, limits and failures for every endpoint.

In: a request to an endpoint. Out: its answer, counted. The rule: nothing is read of a request
before its bearer token is right.
"""

import hmac
import math
from collections import Counter
from collections.abc import Awaitable, Callable

from trio_gateway.errors import StoreUnavailable
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.chain import wrong_method
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.wire import InvalidField, Problem

Answer = HttpResponse | Refusal


class Door:
    """Lets the requests of one application in.

    Arguments:
        token: what a client must show; None turns the API off (403).
        limit: counts a request of an address, and returns the seconds to wait, or 0; asked before
            the token, so that nobody guesses faster than clients ask.

    Attributes:
        requests: how many there were, by endpoint and status.
    """

    def __init__(self, token: str | None, *, limit: Callable[[str], float] | None = None) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self._limit = limit
        self._token = None if token is None else token.encode()

    async def let_in(
        self,
        endpoint: str,
        request: HttpRequest,
        methods: tuple[str, ...],
        answer: Callable[[HttpRequest], Awaitable[Answer]],
    ) -> Answer:
        """Return the answer to a request, or why there is none.

        Arguments:
            endpoint: what it is counted as; never anything that a client sent.
            request: as it came.
            methods: that the endpoint answers to.
            answer: may raise ``InvalidField`` (400) and ``StoreUnavailable`` (503).
        """
        answered = self._refuse(request, methods) or await self._ask(request, answer)
        self.requests[endpoint, answered.status] += 1
        return answered

    @staticmethod
    async def _ask(
        request: HttpRequest, answer: Callable[[HttpRequest], Awaitable[Answer]]
    ) -> Answer:
        try:
            return await answer(request)
        except InvalidField as error:
            return Refusal(400, "invalid_field", str(error))
        except StoreUnavailable:
            return Refusal(
                503,
                "store_unavailable",
                "the store cannot be reached now; nothing was stored, try again",
                (("Retry-After", "5"),),
            )

    def _refuse(self, request: HttpRequest, methods: tuple[str, ...]) -> Refusal | None:
        if self._limit is not None and (wait := self._limit(request.remote)):
            return Refusal(
                429,
                "rate_limited",
                "too many requests; send it again later",
                (("Retry-After", str(math.ceil(wait))),),
            )
        return wrong_method(request, *methods) or self._refuse_stranger(request)

    def _refuse_stranger(self, request: HttpRequest) -> Refusal | None:
        """Return why the bearer token does not open the API (RFC 6750 §3), or None."""
        if self._token is None:
            return Refusal(403, "api_disabled", "the API is off: the gateway has no API token")
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return Refusal(
                401,
                "unauthorized",
                "send the API token as Authorization: Bearer TOKEN",
                (("WWW-Authenticate", "Bearer"),),
            )
        if not hmac.compare_digest(shown.strip(" ").encode("latin-1", "replace"), self._token):
            return Refusal(
                401,
                "invalid_token",
                "this is not the API token",
                (("WWW-Authenticate", 'Bearer error="invalid_token"'),),
            )
        return None


def bad_request(problem: Problem) -> Refusal:
    """Return the 400 for a body that is not what it should be."""
    message = problem.message
    if problem.code == "not_an_object":
        message = "the body must be a JSON object"
    return Refusal(400, problem.code, message)
