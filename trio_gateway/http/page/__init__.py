"""The browser page: chat and notifications, live, from three files.

In: ``GET /``, ``/page.js``, ``/page.css``. Out: the files beside this module, each with its ETag.
The rule: nothing comes from elsewhere and nothing runs inline, which the Content-Security-Policy
makes the browser enforce.
"""

import hashlib
from importlib import resources

import attrs

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.chain import wrong_method
from trio_gateway.http.messages import HttpRequest, HttpResponse

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",  # covers ws: and wss: of the same host (CSP 3 §6.7.2.8)
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("Cache-Control", "no-cache"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


@attrs.frozen
class _File:
    body: bytes
    content_type: str
    etag: str


class Page:
    """An ``HttpHandler`` for the page and its two files, which are read once, here."""

    def __init__(self) -> None:
        self._files = {path: _load(*file) for path, file in _FILES.items()}

    async def __call__(self, request: HttpRequest) -> HttpResponse | Refusal | None:
        """Answer a request, or return None for another path. Holds no checkpoint."""
        file = self._files.get(request.path)
        if file is None:
            return None
        refusal = wrong_method(request, "GET", "HEAD")
        if refusal is not None:
            return refusal
        headers = (("ETag", file.etag), *_HEADERS)
        if _matches(request.headers.get("if-none-match", ""), file.etag):
            return HttpResponse(status=304, content_type=file.content_type, headers=headers)
        return HttpResponse(
            status=200, body=file.body, content_type=file.content_type, headers=headers
        )


def _load(name: str, content_type: str) -> _File:
    body = (resources.files(__name__) / name).read_bytes()
    return _File(body, content_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _matches(header: str, etag: str) -> bool:
    """Whether ``If-None-Match`` names the ETag, by weak comparison (RFC 9110 §13.1.2)."""
    tags = (tag.strip().removeprefix("W/") for tag in header.split(","))
    return header.strip() == "*" or etag in tags
