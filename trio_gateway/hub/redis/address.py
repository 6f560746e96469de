"""Where Redis is: a URL read once, and connections made from it.

In: ``redis://``, ``rediss://``, ``redis+unix://``, ``redis+sentinel://``, ``redis+cluster://`` (the
last two with ``rediss`` too). Out: unopened coredis connections. The rule: a URL that cannot be
right is told before anything is tried, and no password is ever part of what is shown.
"""

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import trio
from coredis import Sentinel
from coredis.connection import (
    BaseConnection,
    TCPConnection,
    TCPLocation,
    UnixDomainSocketConnection,
    UnixDomainSocketLocation,
)
from coredis.exceptions import PrimaryNotFoundError

from trio_gateway.hub.redis.failures import FAILURES

_SCHEMES = {
    "redis": (False, "single"),
    "rediss": (True, "single"),
    "redis+unix": (False, "unix"),
    "redis+sentinel": (False, "sentinel"),
    "rediss+sentinel": (True, "sentinel"),
    "redis+cluster": (False, "cluster"),
    "rediss+cluster": (True, "cluster"),
}
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
_SETTINGS = {"prefix", "deadline", "lease"}
_OPTIONS = {"db", "sentinel_username", "sentinel_password"} | _TLS_OPTIONS | _SETTINGS
_CONNECT_TIMEOUT = 2.0
_CONTEXT_FAILURES = (OSError, ssl.SSLError)


@attrs.frozen(kw_only=True)
class Address:
    """Where Redis is; ``str()`` shows it without its password.

    Attributes:
        kind: ``single``, ``unix``, ``sentinel`` or ``cluster``.
        hosts: names and ports: of the server, the sentinels, or some nodes of the cluster.
        path: of a Unix socket.
        service: what the sentinels call the primary.
        db: the number of the database.
        parameters: what every connection is made with.
        sentinel_parameters: the same for the sentinels.
        settings: fields of ``RedisSettings`` that the URL has.
        shown: for people.
    """

    kind: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    service: str
    db: int
    parameters: Mapping[str, Any] = attrs.field(repr=False)
    sentinel_parameters: Mapping[str, Any] = attrs.field(repr=False)
    settings: Mapping[str, Any]
    shown: str

    def __str__(self) -> str:
        return self.shown

    async def connection(
        self, attempt: int = 0, *, budget: trio.CapacityLimiter | None = None
    ) -> BaseConnection:
        """Return an unopened connection to where publications go.

        Args:
            attempt: counts up, so that another node of a cluster is tried each time.
            budget: what the connection waits for before it works off what came unasked.

        Raises:
            coredis.exceptions.RedisError: no sentinel knows the primary; perhaps in a group.

        Cancelled: nothing has happened.
        """
        own: dict[str, Any] = {} if budget is None else {"processing_budget": budget}
        if self.kind == "unix":
            location = UnixDomainSocketLocation(self.path)
            return UnixDomainSocketConnection(location, **self.parameters, **own)
        if self.kind == "sentinel":
            host, port = await self._primary()
            return self.connection_to(host, port, **own)
        return self.connection_to(*self.hosts[attempt % len(self.hosts)], **own)

    async def _primary(self) -> tuple[str, int]:
        sentinels = [TCPLocation(*host) for host in self.hosts]
        parameters = dict(self.sentinel_parameters)
        async with Sentinel(sentinels, sentinel_kwargs=parameters) as sentinel:
            try:
                return await sentinel.discover_primary(self.service)
            except PrimaryNotFoundError:
                await self._see_why(sentinels)
                raise

    async def _see_why(self, sentinels: list[TCPLocation]) -> None:
        """Raise why none of the sentinels is reached, which their client does not tell."""
        problems: list[BaseExceptionGroup[Exception]] = []
        for location in sentinels:
            connection = TCPConnection(location, **self.sentinel_parameters)
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(connection.run)
                    nursery.cancel_scope.cancel()
            except* FAILURES as group:
                problems.append(group)
        if len(problems) == len(sentinels):
            raise problems[-1]

    def connection_to(self, host: str, port: int, **own: Any) -> TCPConnection:
        """Return an unopened connection to a server."""
        location = TCPLocation(host, port)
        return TCPConnection(location, socket_keepalive=True, **self.parameters, **own)


def parse_address(url: str) -> Address:
    """Read a URL.

    Raises:
        ValueError: says what is wrong with it, in one line without the password.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)} is expected")
    tls, kind = _SCHEMES[parts.scheme]
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := sorted(set(options) - (_OPTIONS if tls else _OPTIONS - _TLS_OPTIONS)):
        raise ValueError(f"{unknown[0]} is no option of a {parts.scheme} URL")
    if parts.fragment:
        raise ValueError("a # in a password is written %23")
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    segments = [segment for segment in unquote(parts.path).split("/") if segment]
    path, service = "", ""
    if kind == "unix":
        path, segments = unquote(parts.path), []
        if not path:
            raise ValueError("redis+unix:// needs the path of a socket")
        hosts: tuple[tuple[str, int], ...] = ()
    else:
        hosts = tuple(_host(place, kind) for place in places.split(","))
    if len(hosts) > 1 and kind == "single":
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    if kind == "sentinel":
        if not segments:
            raise ValueError("redis+sentinel://HOST/SERVICE needs the name of the service")
        service, *segments = segments
    if len(segments) > 1:
        raise ValueError(f"the path is the number of a database, not {'/'.join(segments)!r}")
    db = _number(options.get("db", segments[0] if segments else "0"), "the database")
    if kind == "cluster" and db:
        raise ValueError("a Redis Cluster has database 0 alone")
    common: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT}
    if tls:
        common["ssl_context"] = _context(options)
    parameters = {**common, "db": db, "client_name": "trio-gateway"}
    if credentials:
        parameters |= {"username": unquote(username) or None, "password": unquote(password)}
    sentinel = dict(common)
    if "sentinel_password" in options:
        sentinel["password"] = options["sentinel_password"]
        sentinel["username"] = options.get("sentinel_username")
    where = path or places + "".join(f"/{part}" for part in [service, str(db or "")] if part)
    return Address(
        kind=kind,
        hosts=hosts,
        path=path,
        service=service,
        db=db,
        parameters=parameters,
        sentinel_parameters=sentinel,
        settings={
            name: options[name] if name == "prefix" else _seconds(options[name], name)
            for name in sorted(_SETTINGS & set(options))
        },
        shown=f"{parts.scheme}://{where}",
    )


def _host(place: str, kind: str) -> tuple[str, int]:
    split = urlsplit(f"//{place}")
    try:
        port = split.port
    except ValueError:
        raise ValueError(f"{place.rpartition(':')[2]!r} is no port") from None
    if not split.hostname:
        raise ValueError("the name of a host is missing")
    return split.hostname, port or (26379 if kind == "sentinel" else 6379)


def _seconds(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} is a number of seconds, not {text!r}") from None


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{what} is a number, not {text!r}")
    return int(text)


def _context(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except _CONTEXT_FAILURES as error:
        raise ValueError(f"the certificates cannot be used: {error}") from error
    context.check_hostname = options.get("ssl_check_hostname", "true") not in ("false", "0", "no")
    return context
