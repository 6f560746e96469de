"""Who a request is from, when it came by proxies: ``Forwarded`` (RFC 7239), ``X-Forwarded-For``.

In: the address that the socket (or the PROXY protocol) shows, a request's headers. Out: a
``Client``, or ``Refused``. The rules:

- An entry is believed only if whoever wrote it is trusted. Each proxy appends the address that it
  saw, so the entries are read from the right, for as long as the address before is a trusted one;
  the first that is not is the client's. What stands further left is anybody's and is not looked at.
- Without a trusted proxy at the socket, the headers say nothing.
- An entry of a trusted proxy that cannot be read is a 400: to ignore it would count the client as
  the proxy. ``unknown`` is counted as the proxy that does not know; an obfuscated identifier
  (RFC 7239 §6.3) as itself.
- A proxy that writes one of the two headers hands on what a client wrote into the other. Where
  both are there, and no choice was made, they must name the same client.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import attrs

from trio_gateway.handshake.fields import TCHAR, Refused, is_authority
from trio_gateway.settings import Proxies
from trio_gateway.transport.addresses import plain_address

Headers = Iterable[tuple[bytes, bytes]]

_ADVICE = "have the proxy send a list of addresses"
# Colons and brackets need quotes, which not every proxy puts around them.
_PAIR = re.compile(
    rb"(" + TCHAR + rb"++)=(?:((?:" + TCHAR + rb"|[:\[\]])++)"
    rb'|"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -~\x80-\xff])*+)")'
)
_BETWEEN = re.compile(rb"[ \t]*+([;,]|\Z)[ \t;]*+")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_NODE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+|_[A-Za-z0-9._-]+)(?::(?:[0-9]{1,5}|_[\w.-]+))?")
_MAX_HOST = 255


@attrs.frozen
class Client:
    """Where a request came from.

    Attributes:
        address: an IP address, ``"unix"``, or an obfuscated identifier such as ``"_hidden"``.
        host: the authority that the client asked for, where a trusted proxy tells.
        scheme: ``"http"`` or ``"https"``, likewise.
    """

    address: str
    host: str | None = None
    scheme: str | None = None


class TrustedProxies:
    """Reads the headers of the proxies that are trusted.

    Arguments:
        proxies: which those are.
    """

    def __init__(self, proxies: Proxies) -> None:
        self._header = proxies.header
        self._unix = "unix" in proxies.trusted
        self._networks: list[IPv4Network | IPv6Network] = [
            ip_network(network) for network in proxies.trusted if network != "unix"
        ]
        # The same few proxies ask each time.
        self.trusts = lru_cache(maxsize=1024)(self._trusts)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def client_of(self, hop: str, headers: Headers) -> Client:
        """Return who a request is from.

        Arguments:
            hop: the address that the socket shows.
            headers: the request's, with lower-case names.

        Raises:
            Refused: what a trusted proxy wrote cannot be read, or is contradicted.
        """
        if not self.trusts(hop):
            return Client(hop)
        lines: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            if name == b"forwarded" or name.startswith(b"x-forwarded-"):
                lines.setdefault(name, []).append(value)
        standard = lines.get(b"forwarded") if self._header != "x-forwarded-for" else None
        usual = lines.get(b"x-forwarded-for") if self._header != "forwarded" else None
        if standard is None:
            return self._by_custom(hop, usual or [], lines)
        client = self._by_standard(hop, b",".join(standard))
        if usual is not None and self._by_custom(hop, usual, lines).address != client.address:
            raise Refused(
                400, "conflicting_forwarded", "Forwarded and X-Forwarded-For name different clients"
            )
        return client

    def _trusts(self, address: str) -> bool:
        if address == "unix":
            return self._unix
        try:
            found = ip_address(plain_address(address))
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def _by_standard(self, hop: str, value: bytes) -> Client:
        client = Client(hop)
        for element in reversed(list(_elements(value))):
            if not self.trusts(client.address):
                break
            node = _node(element.get("for", "unknown"))
            client = Client(
                node or client.address, _host(element.get("host")), _scheme(element.get("proto"))
            )
            if node is None:
                break
        return client

    def _by_custom(self, hop: str, values: list[bytes], lines: dict[bytes, list[bytes]]) -> Client:
        address = hop
        entries = b",".join(values).decode("latin-1").split(",") if values else []
        for entry in reversed(entries):
            if not self.trusts(address):
                break
            if not (text := entry.strip(" \t")):
                continue
            node = _node(text)
            if node is None:
                break
            address = node
        # The nearest proxy wrote the last one. Or a client did, and it hands that on; but no page
        # can, so that a browser's origin is still compared with what the browser asked for.
        hosts = lines.get(b"x-forwarded-host")
        host = None if hosts is None else hosts[-1].decode("latin-1").rpartition(",")[2]
        schemes = lines.get(b"x-forwarded-proto")
        scheme = None if schemes is None else schemes[-1].decode("latin-1").rpartition(",")[2]
        return Client(address, _host(host), _scheme(scheme))


def _elements(value: bytes) -> Iterator[dict[str, str]]:
    """Yield the elements of ``Forwarded`` (RFC 7239 §4), without empty ones."""
    at = len(value) - len(value.lstrip(b" \t,;"))
    element: dict[str, str] = {}
    while at < len(value):
        pair = _PAIR.match(value, at)
        between = None if pair is None else _BETWEEN.match(value, pair.end())
        if pair is None or between is None:
            raise Refused(400, "bad_forwarded", "write Forwarded as RFC 7239 has it")
        name = pair[1].decode("ascii").lower()
        if name in element:
            raise Refused(400, "bad_forwarded", f"{name} stands twice in an element of Forwarded")
        raw = pair[2] if pair[3] is None else _ESCAPED.sub(rb"\1", pair[3])
        element[name] = raw.decode("latin-1")
        at = between.end()
        if between[1] != b";":
            yield element
            element = {}
            while value[at : at + 1] in (b",", b" ", b"\t", b";"):
                at += 1
    if element:
        yield element


def _node(text: str) -> str | None:
    """Return the address of a node without its port, None for ``unknown`` (RFC 7239 §6)."""
    if text.lower() == "unknown":
        return None
    parts = _NODE.fullmatch(text)
    name = text if parts is None else parts[1]
    if parts is not None and name.startswith("_"):
        return name
    if parts is not None and name.startswith("["):
        name = name[1:-1]
    try:
        return str(ip_address(plain_address(name)))
    except ValueError:
        raise Refused(400, "bad_forwarded", f"an entry is no address; {_ADVICE}") from None


def _scheme(text: str | None) -> str | None:
    text = "" if text is None else text.strip(" \t").lower()
    return text if text in ("http", "https") else None


def _host(text: str | None) -> str | None:
    text = "" if text is None else text.strip(" \t")
    return text if len(text) <= _MAX_HOST and is_authority(text.encode("latin-1")) else None
