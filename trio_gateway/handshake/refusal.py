"""A refusal: an HTTP "no" as a value, and its bytes.

In: why a request is refused. Out: one complete HTTP/1.1 response. The rule: every refusal carries a
reason phrase, ``Content-Type``, ``Content-Length``, ``Connection: close`` and a one-line JSON body,
so that a person with curl and a program both learn what to do.
"""

from functools import lru_cache
from http import HTTPStatus

import attrs
import msgspec


def reason_phrase(status: int) -> str:
    """Return the registered reason phrase of a status, or ``"Unknown"`` (RFC 9110 §15)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


@attrs.frozen
class Refusal:
    """A decided refusal.

    Attributes:
        status: the HTTP status, 300–599.
        error: a short ``snake_case`` code for programs.
        message: one sentence for people; says what to do.
        headers: further response headers, for example ``("Retry-After", "5")``.
    """

    status: int
    error: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def render(self, *, head_only: bool = False) -> bytes:
        """Return the whole response; without the body for a ``HEAD`` request."""
        return _render(self, head_only)


@lru_cache(maxsize=256)
def _render(refusal: Refusal, head_only: bool) -> bytes:
    # A storm is refused for the same few reasons over and over.
    body = msgspec.json.encode({"error": refusal.error, "message": refusal.message}) + b"\n"
    lines = [
        f"HTTP/1.1 {refusal.status} {reason_phrase(refusal.status)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in refusal.headers),
        "\r\n",
    ]
    head = "\r\n".join(lines).encode("latin-1")
    return head if head_only else head + body
