"""Plain HTTP requests and responses, as values.

In: a request whose body has been read whole (it is bounded). Out: a response, or a refusal. The
rule: a handler sees no socket and no parser; it maps a value to a value.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import msgspec

from trio_gateway.handshake.refusal import Refusal


@attrs.define(kw_only=True)
class HttpRequest:
    """A plain HTTP request.

    Attributes:
        method: upper case, for example ``"GET"``.
        path: percent-encoded, without the query.
        query: percent-decoded; of a repeated name the last value.
        headers: lower-case names; of a repeated name the values joined with ``", "``.
        body: all of it, at most ``Limits.max_body_bytes``.
        remote: the peer's address, for logs and rates.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    remote: str


@attrs.frozen(kw_only=True)
class HttpResponse:
    """A response: status, body, media type, further headers."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def json(
        cls, status: int, value: Any, *, headers: tuple[tuple[str, str], ...] = ()
    ) -> "HttpResponse":
        """Return ``value`` as one line of JSON."""
        return cls(status=status, body=msgspec.json.encode(value) + b"\n", headers=headers)


HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse | Refusal | None]]
"""An async function from a request to its answer; ``None`` says "not mine"."""
