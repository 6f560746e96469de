"""The operator's side of the HTTP API: who is connected, and who is to go.

In: requests below ``/api/`` with the API's token. Out: JSON; connections that are closed, whichever
of the gateway's processes holds them. The rule: a request is checked here, put to all processes as
a question (``staff``), and what they say is one answer.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from trio_gateway.errors import CloseCode
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.api import decode_segment, query_number
from trio_gateway.http.door import Door, bad_request
from trio_gateway.http.ensemble import Answers, Ensemble
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.http.roll import FILTERS, MAX_PAGE, read_cursor, turn_page
from trio_gateway.http.staff import Operated, Staff
from trio_gateway.http.totals import add_up, present
from trio_gateway.wire import InvalidField, Problem, decode

_CONNECTION = re.compile(r"/api/connections/([^/]+)")
_USER = re.compile(r"/api/users/([^/]+)/disconnect")
_PAGE = 100
_MAX_REASON_BYTES = 123  # RFC 6455 §5.5


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
        ensemble: the gateway's processes; by default this one alone.

    Attributes:
        elsewhere: closes a user's connections to other nodes (user, code, reason), once those to
            this one are; may raise ``StoreUnavailable``. None where there are no others.
    """

    def __init__(
        self,
        gateway: Callable[[], Operated | None],
        statistics: Callable[[], Mapping[str, Any]],
        door: Door,
        ensemble: Ensemble | None = None,
    ) -> None:
        self.elsewhere: DisconnectElsewhere | None = None
        self._door = door
        self._ensemble = ensemble or Ensemble()
        self._staff = Staff(gateway, statistics, self._ensemble)

    @property
    def disconnected(self) -> int:
        """How many connections of this process were closed so far."""
        return self._staff.disconnected

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
        if limit > MAX_PAGE:
            raise InvalidField("limit", f"must be a whole number from 1 to {MAX_PAGE}")
        cursor = read_cursor(query.get("cursor", ""))
        wanted = {name: query[name] for name in FILTERS if name in query}
        answers = await self._ensemble.ask("roll", limit=limit, cursor=cursor, wanted=wanted)
        pages = list(answers.said.values())
        page = turn_page(pages, cursor, limit=limit, complete=not answers.silent)
        return HttpResponse.json(200, answers.mark(page))

    async def _tell(self, _request: HttpRequest) -> HttpResponse:
        answers = await self._ensemble.ask("statistics")
        told = present(add_up(answers.said.values()))
        if answers.workers is not None:
            told["workers"] = {str(pid): present(raw) for pid, raw in answers.said.items()}
        return HttpResponse.json(200, answers.mark(told))

    async def _close(self, request: HttpRequest, *, segment: str) -> HttpResponse | Refusal:
        id = decode_segment("id", segment)
        farewell = _read_farewell(request)
        if isinstance(farewell, Problem):
            return bad_request(farewell)
        answers = await self._ensemble.ask(
            "close", id=id, code=farewell.code, reason=farewell.reason
        )
        if sum(answers.said.values()):
            return HttpResponse.json(200, {"id": id, "disconnected": 1})
        if answers.silent:
            return _incomplete(answers, "none of the others has a connection of this id")
        return Refusal(404, "no_such_connection", "no connection has this id here, or no more")

    async def _disconnect(self, request: HttpRequest, *, segment: str) -> HttpResponse | Refusal:
        user = decode_segment("user", segment)
        farewell = _read_farewell(request)
        if isinstance(farewell, Problem):
            return bad_request(farewell)
        answers = await self._ensemble.ask(
            "disconnect", user=user, code=farewell.code, reason=farewell.reason
        )
        # The siblings hear this order too, at once: whoever is closing is not closed again.
        if self.elsewhere is not None:
            await self.elsewhere(user, farewell.code, farewell.reason)
        count = sum(answers.said.values())
        if answers.silent:
            return _incomplete(answers, f"{count} connections were closed")
        return HttpResponse.json(200, {"user": user, "disconnected": count})


def _incomplete(answers: Answers, rest: str) -> Refusal:
    silent = ", ".join(map(str, answers.silent))
    return Refusal(
        503,
        "incomplete",
        f"process {silent} did not answer in time, and may yet obey; {rest}; try again",
        (("Retry-After", "5"),),
    )


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
