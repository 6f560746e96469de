"""An ASGI application, told from an HTTP handler, and what it is told of a request.

In: what the user passed as ``http``. Out: an ``AsgiApp``, or the handler as it is. The rule: what
takes one argument is a handler, what takes three is an ASGI application; whatever is neither is
refused before a socket is opened.
"""

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeGuard
from urllib.parse import unquote

import attrs

from trio_gateway.handshake.head import RequestHead
from trio_gateway.http.messages import HttpHandler
from trio_gateway.transport.addresses import plain_address
from trio_gateway.transport.link import Link

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application; frameworks write the types of its arguments each in their own way."""

_VERSIONS = {"version": "3.0", "spec_version": "2.4"}  # 2.4: send() raises when the client is gone


@attrs.frozen(kw_only=True)
class AsgiApp:
    """An ASGI application and how it is served; made by ``asgi()``.

    Attributes:
        app: the application.
        root_path: where it is mounted, as its clients see it.
        lifespan: whether it is told of startup and shutdown.
        state: what it put into ``scope["state"]`` at its startup; each request gets a copy.
    """

    app: Application
    root_path: str = ""
    lifespan: bool = True
    state: dict[str, Any] = attrs.field(factory=dict, init=False, repr=False)

    def scope_of(self, link: Link, head: RequestHead, scheme: str | None) -> Scope:
        """Return what the application is told of a request.

        Arguments:
            link: its socket.
            head: its head.
            scheme: as a trusted proxy tells it; None for the socket's own.
        """
        path = head.path
        return {
            "type": "http",
            "asgi": dict(_VERSIONS),
            "http_version": head.http_version,
            "method": head.method,
            "scheme": scheme or ("https" if link.is_ssl else "http"),
            "path": self.root_path + unquote(path),
            "raw_path": (self.root_path + path).encode(),
            "query_string": head.query_string.encode("ascii"),
            "root_path": self.root_path,
            "headers": head.headers,
            "client": _client(link),
            "server": _server(link.local_peer),
            "state": self.state.copy(),
            "extensions": {},
        }


def asgi(app: Application, *, root_path: str = "", lifespan: bool = True) -> AsgiApp:
    """Return ``app`` for ``serve_websocket(..., http=...)``, with settings.

    Without settings the application itself does: ``http=app``.

    Arguments:
        app: an ASGI 3 application that runs on Trio: Starlette and others on anyio, Quart-Trio.
        root_path: the path below which a proxy serves it, and which the proxy takes away.
        lifespan: whether it is told of startup and shutdown.

    Raises:
        TypeError: the application cannot take ``scope``, ``receive`` and ``send``.
        ValueError: ``root_path`` does not begin with a slash, or ends with one.
    """
    if not _is_application(app):
        raise TypeError(f"an ASGI application takes scope, receive and send; {app!r} does not")
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        raise ValueError(f"root_path is a path without a slash at its end, not {root_path!r}")
    return AsgiApp(app=app, root_path=root_path, lifespan=lifespan)


def as_http(http: "HttpHandler | Application | AsgiApp | None") -> HttpHandler | AsgiApp | None:
    """Return what answers plain HTTP: an ASGI application as an ``AsgiApp``.

    Raises:
        TypeError: it is neither an HTTP handler nor an ASGI application.
    """
    if http is None or isinstance(http, AsgiApp):
        return http
    if _is_handler(http):
        return http
    if _is_application(http):
        return asgi(http)
    raise TypeError(
        "http is an HTTP handler, which takes a request, or an ASGI application, which takes "
        f"scope, receive and send; {http!r} takes neither"
    )


def _is_handler(function: object) -> TypeGuard[HttpHandler]:
    return _takes(function, 1)


def _is_application(function: object) -> TypeGuard[Application]:
    return _takes(function, 3)


def _takes(function: object, count: int) -> bool:
    """Say whether a function can be called with so many arguments."""
    if not callable(function):
        return False
    try:
        signature = inspect.signature(function)
    except ValueError:
        return True  # built in, and does not tell
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _client(link: Link) -> tuple[str, int] | None:
    """Return the client's address; port 0 where a proxy speaks for it, None without an address."""
    address = link.address
    if address == "unix":
        return None
    peer: Any = link.peer
    direct = isinstance(peer, tuple) and plain_address(str(peer[0])) == address
    return address, int(peer[1]) if direct else 0


def _server(local: Any) -> tuple[str, int | None] | None:
    if isinstance(local, tuple) and len(local) >= 2:
        return str(local[0]), int(local[1])
    if isinstance(local, bytes):
        local = local.decode("utf-8", "backslashreplace")
    return (str(local), None) if local else None
