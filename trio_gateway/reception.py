"""The reception: what becomes of each socket, phase by phase.

In: links, and what their phases tell: a head, a decision, the end of a connection, an HTTP answer.
Out: the next phase, and a task for each upgrade that is to be handled. The rule: whatever a client
or a handler does stays on its connection; nothing of it leaves the task where it happened.
"""

import logging
from collections.abc import Callable
from functools import partial

import trio

from trio_gateway.connection.compression import Deflaters, agree
from trio_gateway.connection.connection import Connection
from trio_gateway.connection.deflating import DeflatingConnection
from trio_gateway.containment import is_end_of, split
from trio_gateway.errors import CloseCode, UpgradeState
from trio_gateway.handshake.admission import Admission
from trio_gateway.handshake.head import RequestHead
from trio_gateway.handshake.intake import Intake
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.http.messages import HttpHandler, HttpRequest, HttpResponse
from trio_gateway.http.responder import Exchange
from trio_gateway.metrics import Counters, Statistics
from trio_gateway.routing import Handler, Router
from trio_gateway.settings import Heartbeat, Limits, Timeouts
from trio_gateway.transport.link import Link

_log = logging.getLogger("trio_gateway")

_DRAINING = Refusal(
    503, "draining", "the gateway is going away; connect again", (("Retry-After", "1"),)
)
_FAILED = Refusal(500, "handler_failed", "the handler failed before it decided")
_UNDECIDED = Refusal(500, "undecided", "the handler ended without a decision")
_OVERDUE = Refusal(
    503, "decision_timeout", "the handler took too long; try again", (("Retry-After", "5"),)
)
_NOT_FOUND = Refusal(404, "not_found", "nothing is served at this path")
_UPGRADE_REQUIRED = Refusal(
    426,
    "upgrade_required",
    "WebSocket is spoken at this path",
    (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")),
)
_HTTP_FAILED = Refusal(500, "internal_error", "the request could not be answered")
_HTTP_OVERDUE = Refusal(
    503, "response_timeout", "the answer took too long", (("Retry-After", "5"),)
)


class Reception:
    """The desk that every phase of every socket reports to.

    Arguments:
        router: chooses the handler.
        http: answers plain HTTP requests; None for nobody.
        admission: who may come in.
        limits: what one peer may take.
        timeouts: how long each phase may last.
        heartbeat: how dead peers are found.
        deflaters: compress for clients that offer it; None declines.
        changed: called whenever a socket or a handler has ended.

    Attributes:
        nursery: where handlers run; set before the first socket comes.
        draining: the gateway goes away; nobody new is admitted.
        connections: those that are open.
    """

    nursery: trio.Nursery

    def __init__(
        self,
        *,
        router: Router,
        http: HttpHandler | None,
        admission: Admission,
        limits: Limits,
        timeouts: Timeouts,
        heartbeat: Heartbeat,
        deflaters: Deflaters | None,
        changed: Callable[[], None],
    ) -> None:
        self.admission = admission
        self.draining = False
        # In the order they came, which a set would not keep: a run with a seed can be replayed.
        self.connections: dict[Connection, None] = {}
        self._links: dict[Link, None] = {}
        self._upgrades: dict[Upgrade, None] = {}
        self._handlers = 0
        self._counters = Counters()
        self._router = router
        self._http = http
        self._limits = limits
        self._timeouts = timeouts
        self._heartbeat = heartbeat
        self._deflaters = deflaters
        self._changed = changed

    @property
    def empty(self) -> bool:
        """Whether no socket is open and no handler runs."""
        return not self._links and not self._handlers

    def statistics(self) -> Statistics:
        """Return what is held now and was counted so far."""
        return self._counters.snapshot(
            sockets=len(self._links),
            pending_handshakes=self.admission.handshakes,
            pending_upgrades=len(self._upgrades),
            connections=len(self.connections),
            handlers=self._handlers,
        )

    def begin(self, link: Link) -> None:
        """Take a socket that has just been accepted."""
        self._counters.accepted_sockets += 1
        self._links[link] = None
        place = self.admission.admit_handshake()
        if isinstance(place, Refusal):
            self.refused(link, place)
            return
        link.deadline(self._timeouts.handshake_timeout)
        link.receiver = Intake(link, self, self._limits, place)

    def ended(self, link: Link) -> None:
        """A socket is gone."""
        self._links.pop(link, None)
        self._changed()

    def turn_away(self) -> None:
        """Begin to drain: 503 for whoever has not been answered."""
        self.draining = True
        for upgrade in list(self._upgrades):
            if upgrade.refuse(_DRAINING):
                upgrade.scope.cancel()
        for link in list(self._links):
            if isinstance(link.receiver, Intake):
                link.receiver.drain(_DRAINING)

    def abort(self) -> None:
        """Drop every socket; connections are told 1001 as far as that goes at once."""
        for link in list(self._links):
            link.receiver.leave()
            link.abort()

    # Requests: the desk of the intake.

    def requested(self, link: Link, head: RequestHead, rest: bytes) -> None:
        """A whole request head has come in."""
        if head.websocket is None:
            self._exchange(link, head, rest)
            return
        if self.draining:
            self.refused(link, _DRAINING)
            return
        match = self._router.match(head.path)
        if match is None:
            self.refused(link, _NOT_FOUND)
            return
        place = self.admission.admit_connection(link.address, head)
        if isinstance(place, Refusal):
            self.refused(link, place)
            return
        link.hold(place)
        agreement = None
        if self._deflaters is not None:
            agreement = agree(head.websocket.extensions, self._deflaters.compression)
        upgrade = Upgrade(
            link,
            head,
            head.websocket,
            params=match.params,
            limits=self._limits,
            desk=self,
            agreement=agreement,
        )
        self._upgrades[upgrade] = None
        upgrade.begin(rest, self._timeouts.decision_timeout)
        self._handlers += 1
        self.nursery.start_soon(self._handle, upgrade, match.handler)

    def _exchange(self, link: Link, head: RequestHead, rest: bytes) -> None:
        place = self.admission.admit_body() if head.content_length or head.chunked else None
        if isinstance(place, Refusal):
            self.refused(link, place)
        else:
            Exchange(link, head, self, self._limits, place).begin(rest)

    def refused(self, link: Link, refusal: Refusal, *, head_only: bool = False) -> None:
        """Answer with a refusal and close."""
        self._counters.refusals[refusal.status] += 1
        link.outbox.write(refusal.render(head_only=head_only))
        link.finish()

    # Handlers.

    async def _handle(self, upgrade: Upgrade, handler: Handler) -> None:
        """Run a handler; no exception of its making leaves this task."""
        answer, code = _UNDECIDED, CloseCode.NORMAL
        try:
            with upgrade.scope:
                await handler(upgrade)
        except BaseException as error:
            own, passing = split(error)
            if own is not None and not is_end_of(upgrade.connection, own):
                answer, code = _FAILED, CloseCode.INTERNAL_ERROR
                self._report(upgrade, own)
            if passing is not None:
                answer, code = _DRAINING, CloseCode.GOING_AWAY
                raise passing from None
        finally:
            self._handlers -= 1
            # What the handler left undecided is decided, what it left open is closed.
            upgrade.refuse(_DRAINING if self.draining else answer)
            if upgrade.connection is not None:
                upgrade.connection.disconnect(code)
            self._changed()

    def _report(self, upgrade: Upgrade, error: BaseException) -> None:
        self._counters.handler_failures += 1
        _log.error(
            "handler of %s failed (connection from %s)",
            upgrade.head.path,
            upgrade.remote,
            exc_info=error,
        )

    # The desk of upgrades and connections.

    def open(self, upgrade: Upgrade, subprotocol: str | None) -> Connection:
        """Make the connection of an accepted upgrade."""
        make: Callable[..., Connection] = Connection
        if self._deflaters is not None and upgrade.agreement is not None:
            make = partial(DeflatingConnection, self._deflaters.shared(upgrade.agreement))
        connection = make(
            upgrade.link,
            head=upgrade.head,
            subprotocol=subprotocol,
            limits=self._limits,
            heartbeat=self._heartbeat,
            desk=self,
        )
        upgrade.head.compact()
        self.connections[connection] = None
        return connection

    def decided(self, upgrade: Upgrade) -> None:
        """An upgrade has its final state."""
        self._upgrades.pop(upgrade, None)
        match upgrade.state:
            case UpgradeState.ACCEPTED:
                self._counters.upgrades_accepted += 1
            case UpgradeState.REJECTED:
                self._counters.upgrades_rejected += 1
            case _:
                self._counters.upgrades_abandoned += 1
                # The deadline of the decision went with the link.
                upgrade.scope.deadline = trio.current_time() + self._timeouts.decision_timeout

    def overdue(self, upgrade: Upgrade) -> None:
        """A handler has not decided in time: answer for it, and end it."""
        if upgrade.refuse(_OVERDUE):
            upgrade.scope.cancel()

    def prevented(self) -> None:
        """A second decision was turned away."""
        self._counters.duplicate_upgrades_prevented += 1

    def closed(self, connection: Connection) -> None:
        """A connection has its close reason."""
        self.connections.pop(connection, None)
        if connection.closed is not None:
            self._counters.closes[int(connection.closed.code)] += 1

    # Plain HTTP: the desk of exchanges.

    def answer(self, exchange: Exchange, request: HttpRequest) -> None:
        """Have an HTTP handler answer, or say that there is none."""
        self._counters.http_requests += 1
        if self._http is None:
            exchange.refuse(self._no_http(request))
        else:
            self._handlers += 1
            self.nursery.start_soon(self._answer, self._http, exchange, request)

    async def _answer(self, http: HttpHandler, exchange: Exchange, request: HttpRequest) -> None:
        answer: object = _HTTP_FAILED
        try:
            with trio.move_on_after(self._timeouts.response_timeout) as scope:
                answer = await http(request)
            if scope.cancelled_caught:
                answer = _HTTP_OVERDUE
        except BaseException as error:
            own, passing = split(error)
            if own is not None:
                _log.error("the HTTP handler failed at %s", request.path, exc_info=own)
            if passing is not None:
                raise passing from None
        finally:
            self._handlers -= 1
            self._send_answer(exchange, request, answer)
            self._changed()

    def _send_answer(self, exchange: Exchange, request: HttpRequest, answer: object) -> None:
        try:
            if isinstance(answer, HttpResponse):
                exchange.respond(answer)
                return
            if answer is not None and not isinstance(answer, Refusal):
                raise TypeError(f"an HTTP handler answers with a HttpResponse, not {answer!r}")
        except (TypeError, ValueError):
            _log.exception("the HTTP handler's answer at %s cannot be sent", request.path)
            answer = _HTTP_FAILED
        exchange.refuse(self._no_http(request) if answer is None else answer)

    def _no_http(self, request: HttpRequest) -> Refusal:
        match = self._router.match(request.path)
        return _NOT_FOUND if match is None or match.is_fallback else _UPGRADE_REQUIRED

    def answered(self, exchange: Exchange, rest: bytes, *, keep_alive: bool) -> None:
        """An HTTP answer is on its way: read the next request, or close."""
        link = exchange.link
        if keep_alive:
            place = self.admission.admit_handshake()
            if not isinstance(place, Refusal):
                link.deadline(self._timeouts.keep_alive_timeout)
                link.enter(Intake(link, self, self._limits, place, fresh=False), rest)
                return
        link.finish()
