"""The operator's side of the HTTP API: who is connected, and who is to go.

In: requests below ``/api/`` with the API's token. Out: JSON; connections that are closed. The rule:
what is listed is read from what the gateway holds anyway, so a connection that nobody asks about
costs nothing for it.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any, Protocol

import attrs
import msgspec

from trio_gateway.connection.connection import Connection
from trio_gateway.errors import CloseCode
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.http.api import decode_segment, query_number
from trio_gateway.http.door import Door, bad_request
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.metrics import Distribution
from trio_gateway.wire import InvalidField, Problem, decode

_CONNECTION = re.compile(r"/api/connections/([^/]+)")
_USER = re.compile(r"/api/users/([^/]+)/disconnect")
_MAX_PAGE = 1_000
_PAGE = 100
_MAX_REASON_BYTES = 123  # RFC 6455 §5.5


class Operated(Protocol):
    """What the API needs of a gateway."""

    @property
    def connections(self) -> Mapping[Connection, Upgrade]:
        """Those that are open, in the order of opening."""
        ...

    def age_of(self, upgrade: Upgrade) -> float:
        """Return the seconds since an upgrade was asked for."""
        ...

    def disconnect_user(self, user: str, code: int, reason: str | None = None) -> int:
        """Close a user's connections; return how many there were."""
        ...


class _Farewell(msgspec.Struct, kw_only=True):
    code: int = CloseCode.FORBIDDEN
    reason: str = "disconnected by an operator"


_farewell = msgspec.json.Decoder(_Farewell)
DisconnectElsewhere = Callable[[str, int, str], Awaitable[object]]


class Admin:
    """An ``HttpHandler`` for connections, users and statistics, below ``/api/``.

    Arguments:
        gateway: returns the gateway, or None before there is one.
        statistics: returns the parts of ``GET /api/statistics`` by name: attrs instances.
        door: asks for the token.

    Attributes:
        disconnected: connections closed so far.
        elsewhere: closes a user's connections to other nodes (user, code, reason), once those to
            this one are; may raise ``StoreUnavailable``. None where there are no others.
    """

    def __init__(
        self,
        gateway: Callable[[], Operated | None],
        statistics: Callable[[], Mapping[str, Any]],
        door: Door,
    ) -> None:
        self.disconnected = 0
        self.elsewhere: DisconnectElsewhere | None = None
        self._gateway = gateway
        self._statistics = statistics
        self._door = door

    async def __call__(self, request: HttpRequest) -> HttpResponse | Refusal | None:
        """Answer a request, or return None for a path that is another's.

        Cancelled, a user may be disconnected from this node and not from others.
        """
        path, let_in = request.path, self._door.let_in
        if path == "/api/connections":
            return await let_in("connections", request, ("GET", "HEAD"), self._list)
        if path == "/api/statistics":
            return await let_in("statistics", request, ("GET", "HEAD"), self._tell)
        if found := _CONNECTION.fullmatch(path):
            close = partial(self._close, segment=found[1])
            return await let_in("connection", request, ("DELETE",), close)
        if found := _USER.fullmatch(path):
            disconnect = partial(self._disconnect, segment=found[1])
            return await let_in("disconnect", request, ("POST",), disconnect)
        return None

    async def _list(self, request: HttpRequest) -> HttpResponse:
        query = request.query
        limit = query_number(query, "limit", 1) or _PAGE
        if limit > _MAX_PAGE:
            raise InvalidField("limit", f"must be a whole number from 1 to {_MAX_PAGE}")
        cursor = query_number(query, "cursor", 0)
        wanted = {name: query[name] for name in ("user", "route", "address") if name in query}
        listed: list[dict[str, Any]] = []
        last, more = 0, False
        gateway = self._gateway()
        connections = {} if gateway is None else gateway.connections
        for connection, upgrade in connections.items():
            if cursor is not None and connection.number <= cursor:
                continue
            if not _matches(upgrade, wanted):
                continue
            if len(listed) == limit:
                more = True
                break
            assert gateway is not None
            listed.append(_entry(connection, upgrade, gateway.age_of(upgrade)))
            last = connection.number
        return HttpResponse.json(
            200,
            {"connections": listed, "open": len(connections), "cursor": last if more else None},
        )

    async def _tell(self, _request: HttpRequest) -> HttpResponse:
        parts = {name: to_json(part) for name, part in self._statistics().items()}
        return HttpResponse.json(200, parts)

    async def _close(self, request: HttpRequest, *, segment: str) -> HttpResponse | Refusal:
        id = decode_segment("id", segment)
        farewell = _read_farewell(request)
        if isinstance(farewell, Problem):
            return bad_request(farewell)
        gateway = self._gateway()
        connections = {} if gateway is None else gateway.connections
        for connection in connections:
            if connection.id == id:
                connection.disconnect(farewell.code, farewell.reason)
                self.disconnected += 1
                return HttpResponse.json(200, {"id": id, "disconnected": 1})
        return Refusal(404, "no_such_connection", "no connection has this id here, or no more")

    async def _disconnect(self, request: HttpRequest, *, segment: str) -> HttpResponse | Refusal:
        user = decode_segment("user", segment)
        farewell = _read_farewell(request)
        if isinstance(farewell, Problem):
            return bad_request(farewell)
        gateway = self._gateway()
        count = 0
        if gateway is not None:
            count = gateway.disconnect_user(user, farewell.code, farewell.reason)
        self.disconnected += count
        if self.elsewhere is not None:
            await self.elsewhere(user, farewell.code, farewell.reason)
        return HttpResponse.json(200, {"user": user, "disconnected": count})


def _matches(upgrade: Upgrade, wanted: Mapping[str, str]) -> bool:
    for name, value in wanted.items():
        if name == "user":
            if upgrade.identity is None or upgrade.identity.user != value:
                return False
        elif value != (upgrade.route if name == "route" else upgrade.client_address):
            return False
    return True


def _entry(connection: Connection, upgrade: Upgrade, age: float) -> dict[str, Any]:
    return {
        "id": connection.id,
        "user": None if upgrade.identity is None else upgrade.identity.user,
        "address": upgrade.client_address,
        "route": upgrade.route,
        "path": upgrade.head.path,  # the query may hold a token
        "age": round(age, 3),
        "unread": connection.unread,
        "outbox_bytes": upgrade.link.outbox.size,
    }


def _read_farewell(request: HttpRequest) -> _Farewell | Problem:
    """Return the code and reason of the body, where there is one, else of the query."""
    if request.body:
        farewell = decode(_farewell, request.body)
        if isinstance(farewell, Problem):
            return farewell
    else:
        farewell = _Farewell()
        farewell.code = query_number(request.query, "code", 1000) or farewell.code
        farewell.reason = request.query.get("reason", farewell.reason)
    code = farewell.code
    if not (3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))):
        raise InvalidField("code", "must be a close code that can be sent (RFC 6455 §7.4)")
    try:
        too_long = len(farewell.reason.encode()) > _MAX_REASON_BYTES
    except UnicodeError:
        too_long = True
    if too_long:
        raise InvalidField("reason", f"must be at most {_MAX_REASON_BYTES} bytes of UTF-8")
    return farewell


def to_json(value: Any) -> Any:
    """Return statistics as JSON has them; of a mapping with pairs as keys, mappings in a mapping.

    A distribution is its count, sum and some quantiles, each the upper bound of a bucket: null
    where there were none, or above the last.
    """
    if isinstance(value, Distribution):
        shares = (0.5, 0.9, 0.99)
        quantiles = {str(share): _finite(value.quantile(share)) for share in shares}
        return {"count": value.count, "sum": value.total, "quantiles": quantiles}
    if attrs.has(type(value)):
        return {name: to_json(part) for name, part in attrs.asdict(value, recurse=False).items()}
    if isinstance(value, Mapping):
        told: dict[str, Any] = {}
        for key, part in value.items():
            first, *rest = key if isinstance(key, tuple) else (key,)
            place = told
            for step in rest:
                place = place.setdefault(str(first), {})
                first = step
            place[str(first)] = to_json(part)
        return told
    return value.value if isinstance(value, Enum) else value


def _finite(number: float) -> float | None:
    return number if abs(number) < float("inf") else None
