"""Where a storm goes: a URL or a listener, and whether it may.

In: ``ws://HOST:PORT/PATH``, or a Trio listener of this process. Out: what fills the words in
braces. The rule: an address that is not loopback is attacked only where its owner has named it.
"""

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

import attrs
import trio

from trio_gateway.storm.transport import Unreachable

_SECURE = {"ws": False, "http": False, "wss": True, "https": True}


class BadTarget(ValueError):
    """A storm cannot go there; ``str()`` says why."""


@attrs.frozen(kw_only=True)
class Target:
    """Where the server is.

    Attributes:
        host: without brackets.
        port: of TCP.
        secure: whether it speaks TLS.
        path: of the WebSocket that is attacked, with its query.
        other: a second WebSocket path, for requests at two routes at once.
    """

    host: str
    port: int
    secure: bool = False
    path: str = "/"
    other: str = "/"

    @classmethod
    def parse(cls, url: str, *, owned: str | None = None) -> "Target":
        """Read a URL.

        Arguments:
            url: ``ws://``, ``wss://``, ``http://`` or ``https://``.
            owned: a host that is not loopback, and the caller's to attack.

        Raises:
            BadTarget: it is no URL, or neither on loopback nor owned.
        """
        wrong = BadTarget(f"must be a URL like ws://127.0.0.1:3000/, not {url!r}")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise wrong from None
        if re.fullmatch(r"[!-~]+", url) is None or not host or parts.scheme not in _SECURE:
            raise wrong
        if "@" in parts.netloc or parts.fragment:
            raise BadTarget("a URL without a user and without a fragment")
        if not is_loopback(host) and host != owned:
            raise BadTarget(
                f"{host} is not this machine; --i-own-this-server {host} says that it is yours"
            )
        secure = _SECURE[parts.scheme]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        default = 443 if secure else 80
        return cls(host=host, port=port or default, secure=secure, path=path, other=path)

    @classmethod
    def of(cls, place: "str | Target | trio.SocketListener | Any") -> "Target":
        """Return the target of a URL or of a listener (TCP, with or without TLS).

        Raises:
            BadTarget: it is none of these, or not on loopback.
        """
        if isinstance(place, Target):
            return place
        if isinstance(place, str):
            return cls.parse(place)
        secure = isinstance(place, trio.SSLListener)
        inner = place.transport_listener if isinstance(place, trio.SSLListener) else place
        if not isinstance(inner, trio.SocketListener):
            raise BadTarget("a storm goes to a URL or to a listener of TCP sockets")
        name = inner.socket.getsockname()
        if not isinstance(name, tuple):
            raise BadTarget("a storm goes to TCP sockets")
        bound = str(name[0])
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound, bound)  # noqa: S104  # not bound here
        if not is_loopback(host):
            raise BadTarget(f"{host} is not loopback")
        return cls(host=host, port=name[1], secure=secure)

    @property
    def authority(self) -> str:
        """What ``Host`` says."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The same as text."""
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.path}"

    def with_query(self, query: str) -> str:
        """Return the path with more of a query."""
        return f"{self.path}{'&' if '?' in self.path else '?'}{query}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's own, without asking a resolver."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


__all__ = ["BadTarget", "Target", "Unreachable", "is_loopback"]
