r"""Which pages may connect: the ``Origin`` of a browser against a list of those that may.

In: the patterns of the configuration, then request heads. Out: yes or no. The rules: an origin is
compared as a browser writes it (RFC 6454 §6.2), so ``http://x`` and ``HTTP://X:80/`` are one; a
client without an ``Origin`` is no page and is not asked; what cannot be an origin may not come in.

A pattern is one of

==========================  ===========================================================
``https://app.example``     that origin; a name beyond ASCII is taken as its A-labels
``http://localhost:*``      that scheme and host, whatever the port
``re:https://.*\.app\.test``   a regular expression for the whole origin, in lower case
``same-host``               pages of the host that was asked for, whatever their port;
                            this machine's names and addresses (localhost) count as one
``null``                    pages without an origin: sandboxed, or opened from a file
``*``                       every page
==========================  ===========================================================
"""

import re
from collections.abc import Callable, Collection
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import attrs
import idna

from trio_gateway.handshake.head import RequestHead

SAME_HOST = "same-host"
MEANING = "scheme://host[:port or :*], re:REGEX, same-host, null or *"
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_MAX_ORIGIN_BYTES = 1024  # scheme, the 253 characters of a name, port; a regex sees no more
_MAX_PORT = 65535
_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]\\*]+)(?::([0-9]{1,5}|\*))?"
)
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?")


class InvalidOrigin(ValueError):
    """A pattern that cannot be read."""

    def __init__(self, pattern: str, problem: str = "") -> None:
        super().__init__(pattern, problem)
        self.pattern = pattern
        self.problem = problem

    def __str__(self) -> str:
        problem = f": {self.problem}" if self.problem else ""
        return f"an origin is {MEANING}, not {self.pattern!r}{problem}"


@attrs.frozen
class _Origin:
    scheme: str
    host: str
    port: str  # empty for the default one, * for any

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.port and ':'}{self.port}"


class Origins:
    """The pages that may connect.

    Arguments:
        patterns: see the module's docstring.

    Raises:
        InvalidOrigin: one of them cannot be read (a ValueError).
    """

    def __init__(self, patterns: Collection[str]) -> None:
        self._all = False
        self._same_host = False
        self._exact: set[str] = set()
        self._any_port: set[str] = set()
        self._expressions: list[Callable[[str], object]] = []
        for pattern in map(normal, patterns):
            if pattern == "*":
                self._all = True
            elif pattern == SAME_HOST:
                self._same_host = True
            elif pattern.startswith("re:"):
                self._expressions.append(re.compile(pattern[3:]).fullmatch)
            elif pattern.endswith(":*"):
                self._any_port.add(pattern[:-2])
            else:
                self._exact.add(pattern)

    def admit(self, head: RequestHead) -> bool:
        """Tell whether whoever sends this request may connect."""
        if self._all:
            return True
        values = [value for name, value in head.headers if name == b"origin"]
        if not values:
            return True
        if len(values) > 1 or not values[0].isascii() or len(values[0]) > _MAX_ORIGIN_BYTES:
            return False
        return self._admits(values[0].decode("ascii").lower(), head.host)

    def _admits(self, text: str, host: str | None) -> bool:
        if text in self._exact:  # null too, and what has no host, as file://
            return True
        origin = _parse(text)
        if origin is None or origin.port == "*":
            return False
        return (
            str(origin) in self._exact
            or f"{origin.scheme}://{origin.host}" in self._any_port
            or (self._same_host and _is_same_host(origin.host, host))
            or any(matches(str(origin)) for matches in self._expressions)
        )


def normal(pattern: str) -> str:
    """Return a pattern as it is compared: lower case, A-labels, no default port.

    Raises:
        InvalidOrigin: it cannot be read.
    """
    if pattern in {"*", "null", SAME_HOST, "file://"}:
        return pattern
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidOrigin(pattern, str(error)) from None
        return pattern
    origin = _parse(_ascii(pattern.lower().removesuffix("/")))
    if origin is None:
        raise InvalidOrigin(pattern)
    return str(origin)


def _ascii(text: str) -> str:
    """Return an origin with the A-labels of its host (RFC 5890 §2.3.2.1), or as it is."""
    parts = _ORIGIN.fullmatch(text)
    if text.isascii() or parts is None:
        return text
    try:
        host = idna.encode(parts[2], uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return text
    return text[: parts.start(2)] + host + text[parts.end(2) :]


def _parse(text: str) -> _Origin | None:
    """Read an origin in lower case; None for what is none."""
    parts = _ORIGIN.fullmatch(text)
    host = None if parts is None else _host(parts[2])
    if parts is None or host is None:
        return None
    port = parts[3] or ""
    if port.isdigit():
        if int(port) > _MAX_PORT:
            return None
        port = "" if int(port) == _DEFAULT_PORTS.get(parts[1]) else str(int(port))
    return _Origin(parts[1], host, port)


def _host(text: str) -> str | None:
    if text.startswith("["):
        try:
            return f"[{IPv6Address(text[1:-1]).compressed}]"
        except AddressValueError:
            return None
    return text if _NAME.fullmatch(text) else None


def _is_same_host(host: str, authority: str | None) -> bool:
    """Compare with the authority of the request, without its port."""
    if not authority:
        return False
    asked = _host(re.sub(r":[0-9]*\Z", "", authority.lower()))
    if asked is None:
        return False
    return host == asked or (_is_here(host) and _is_here(asked))


def _is_here(host: str) -> bool:
    """Whether a host is this machine, whichever it is (RFC 6761 §6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1]).is_loopback
        return IPv4Address(host).is_loopback
    except AddressValueError:
        return False
