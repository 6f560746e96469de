"""The browser page and the client it is made with: static files, read once.

In: ``GET /``, the page's own files, ``/gateway.js`` and ``/gateway.d.ts``. Out: the files beside
this module, each with its ETag, compressed where the client takes that. The rule: nothing comes
from elsewhere and nothing runs inline, which the Content-Security-Policy makes the browser enforce.
"""

import gzip
import hashlib
import re
from importlib import resources
from typing import Literal

import attrs

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.chain import wrong_method
from trio_gateway.http.messages import HttpRequest, HttpResponse

_SCRIPT = "text/javascript; charset=utf-8"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/gateway.js": ("gateway.js", _SCRIPT),
    "/gateway.d.ts": ("gateway.d.ts", "text/plain; charset=utf-8"),
    "/page.js": ("page.js", _SCRIPT),
    "/page-chat.js": ("page-chat.js", _SCRIPT),
    "/page-dom.js": ("page-dom.js", _SCRIPT),
    "/page-notes.js": ("page-notes.js", _SCRIPT),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",  # covers ws: and wss: of the same host (CSP 3 §6.7.2.8)
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # a string cannot become markup
    )
)
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("Cache-Control", "no-cache"),
    ("Referrer-Policy", "no-referrer"),
    ("Vary", "Accept-Encoding"),
    ("X-Content-Type-Options", "nosniff"),
)
_AUTH = b'data-auth="none"'
_REFUSED = re.compile(r";\s*q=0(\.0*)?$")


@attrs.frozen
class _Coded:
    """One form of a file."""

    body: bytes
    etag: str
    headers: tuple[tuple[str, str], ...]


@attrs.frozen
class _File:
    content_type: str
    plain: _Coded
    gzip: _Coded


class Page:
    """An ``HttpHandler`` for the page and its files, which are read and compressed once, here.

    Arguments:
        auth: how users are known; with ``"jwt"`` the page asks for a token instead of a name.
    """

    def __init__(self, auth: Literal["none", "jwt"] = "none") -> None:
        self._files = {path: _load(*file, auth) for path, file in _FILES.items()}

    async def __call__(self, request: HttpRequest) -> HttpResponse | Refusal | None:
        """Answer a request, or return None for another path. Holds no checkpoint."""
        file = self._files.get(request.path)
        if file is None:
            return None
        refusal = wrong_method(request, "GET", "HEAD")
        if refusal is not None:
            return refusal
        coded = file.gzip if _takes_gzip(request.headers.get("accept-encoding", "")) else file.plain
        if _matches(request.headers.get("if-none-match", ""), coded.etag):
            return HttpResponse(
                status=304, content_type=file.content_type, headers=(coded.headers[0], *_HEADERS)
            )
        return HttpResponse(
            status=200, body=coded.body, content_type=file.content_type, headers=coded.headers
        )


def _load(name: str, content_type: str, auth: str) -> _File:
    body = (resources.files(__name__) / name).read_bytes()
    if name == "index.html":
        body = body.replace(_AUTH, f'data-auth="{auth}"'.encode())
    tag = hashlib.sha256(body).hexdigest()[:32]
    return _File(
        content_type,
        _coded(body, tag),
        # Two forms are two ETags (RFC 9110 §8.8.3.3).
        _coded(gzip.compress(body, 9, mtime=0), f"{tag}-gzip", ("Content-Encoding", "gzip")),
    )


def _coded(body: bytes, tag: str, *more: tuple[str, str]) -> _Coded:
    etag = f'"{tag}"'
    return _Coded(body, etag, (("ETag", etag), *more, *_HEADERS))


def _takes_gzip(header: str) -> bool:
    """Whether ``Accept-Encoding`` names gzip, or anything, and does not refuse it."""
    items = [item.strip() for item in header.lower().split(",")]
    taken = {item.split(";")[0].strip(): _REFUSED.search(item) is None for item in items}
    return taken.get("gzip", taken.get("*", False))


def _matches(header: str, etag: str) -> bool:
    """Whether ``If-None-Match`` names the ETag, by weak comparison (RFC 9110 §13.1.2)."""
    tags = (tag.strip().removeprefix("W/") for tag in header.split(","))
    return header.strip() == "*" or etag in tags
