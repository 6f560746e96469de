"""The reception: what becomes of each socket, phase by phase.

In: links, and what their phases tell: a head, a decision, the end of a connection, an HTTP answer.
Out: the next phase, and a task for each upgrade that is to be handled. The rule: whatever a client
or a handler does stays on its connection; nothing of it leaves the task where it happened.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import trio

from trio_gateway.connection.compression import Deflaters, agree
from trio_gateway.connection.connection import SLOW_CONSUMER, Connection
from trio_gateway.connection.deflating import DeflatingConnection
from trio_gateway.connection.expiry import Expiry
from trio_gateway.containment import is_end_of, split
from trio_gateway.errors import CloseCode, UpgradeState
from trio_gateway.handshake.admission import Admission
from trio_gateway.handshake.authentication import Authenticate
from trio_gateway.handshake.fields import Refused
from trio_gateway.handshake.forwarded import TrustedProxies
from trio_gateway.handshake.head import RequestHead
from trio_gateway.handshake.intake import Intake, PrefacedIntake
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.http.asgi.application import AsgiApp
from trio_gateway.http.asgi.exchange import AppExchange
from trio_gateway.http.messages import HttpHandler, HttpRequest, HttpResponse
from trio_gateway.http.responder import Exchange
from trio_gateway.logs import SPEAKING_FOR, describe
from trio_gateway.metrics import NO_LATENCIES, Counters, Distribution, Statistics
from trio_gateway.routing import Handler, Router
from trio_gateway.settings import Heartbeat, Limits, Proxies, Timeouts
from trio_gateway.transport.link import Link

_log = logging.getLogger("trio_gateway")

_ORDINARY = frozenset(
    {
        CloseCode.NORMAL,
        CloseCode.GOING_AWAY,
        CloseCode.NO_STATUS,
        CloseCode.ABNORMAL,
        CloseCode.SERVICE_RESTART,
    }
)
_DRAINING = Refusal(
    503, "draining", "the gateway is going away; connect again", (("Retry-After", "1"),)
)
_FAILED = Refusal(500, "handler_failed", "the handler failed before it decided")
_NOT_AUTHENTICATED = Refusal(
    500, "authentication_failed", "who you are could not be found out; try again later"
)
_UNDECIDED = Refusal(500, "undecided", "the handler ended without a decision")
_OVERDUE = Refusal(
    503, "decision_timeout", "the handler took too long; try again", (("Retry-After", "5"),)
)
_NOT_A_PROXY = Refusal(
    403, "proxy_not_trusted", "connections come through a proxy here; this address is none of them"
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
        http: a handler or an ASGI application that answers plain HTTP; None for nobody.
        admission: who may come in.
        limits: what one peer may take.
        timeouts: how long each phase may last.
        heartbeat: how dead peers are found.
        deflaters: compress for clients that offer it; None declines.
        proxies: who may speak for others.
        authenticate: who an upgrade is for, asked before the handler; None asks nobody.
        changed: called whenever a socket or a handler has ended.
        clock: measures handshakes, in seconds.

    Attributes:
        nursery: where handlers run; set before the first socket comes.
        draining: the gateway goes away; nobody new is admitted.
        connections: those that are open, each with its upgrade.
    """

    nursery: trio.Nursery

    def __init__(
        self,
        *,
        router: Router,
        http: HttpHandler | AsgiApp | None,
        admission: Admission,
        limits: Limits,
        timeouts: Timeouts,
        heartbeat: Heartbeat,
        deflaters: Deflaters | None,
        authenticate: Authenticate | None,
        changed: Callable[[], None],
        proxies: Proxies | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        proxies = proxies or Proxies()
        self.clock = clock
        self._trusted = TrustedProxies(proxies)
        self._prefaced = proxies.protocol
        self.admission = admission
        self.draining = False
        # In the order they came, which a set would not keep: a run with a seed can be replayed.
        self.connections: dict[Connection, Upgrade] = {}
        self._closing: dict[Link, Upgrade] = {}
        self._links: dict[Link, None] = {}
        self._upgrades: dict[Upgrade, None] = {}
        self._handlers = 0
        self._counters = Counters()
        self._router = router
        self._app = http if isinstance(http, AsgiApp) else None
        self._http = None if isinstance(http, AsgiApp) else http
        self._limits = limits
        self._timeouts = timeouts
        self._heartbeat = heartbeat
        self._deflaters = deflaters
        self._authenticate = authenticate
        self._changed = changed

    @property
    def empty(self) -> bool:
        """Whether no socket is open and no handler runs."""
        return not self._links and not self._handlers

    def statistics(self, *, lag: Distribution = NO_LATENCIES) -> Statistics:
        """Return what is held now and was counted so far.

        Arguments:
            lag: of the wheel.
        """
        routes = Counter((upgrade.route, state) for upgrade, state in self._upgrades_and_states())
        return self._counters.snapshot(
            routes=routes,
            outboxes=[size for link in self._links if (size := link.outbox.size)],
            lag=lag,
            sockets=len(self._links),
            pending_handshakes=self.admission.handshakes,
            pending_upgrades=len(self._upgrades),
            connections=len(self.connections),
            handlers=self._handlers,
        )

    def _upgrades_and_states(self) -> Iterator[tuple[Upgrade, str]]:
        yield from ((upgrade, "deciding") for upgrade in self._upgrades)
        yield from ((upgrade, "open") for upgrade in self.connections.values())
        yield from ((upgrade, "closing") for upgrade in self._closing.values())

    def about(self, link: Link) -> dict[str, str]:
        """Return what logs say of a socket."""
        receiver = link.receiver
        upgrade = self.connections.get(receiver) if isinstance(receiver, Connection) else None
        return {"client": link.address} if upgrade is None else describe(upgrade)

    def begin(self, link: Link) -> None:
        """Take a socket that has just been accepted."""
        self._counters.accepted_sockets += 1
        self._links[link] = None
        if self._prefaced and self._trusted and not self._trusted.trusts(link.hop):
            self.refused(link, _NOT_A_PROXY)
            return
        place = self.admission.admit_handshake()
        if isinstance(place, Refusal):
            self._limited(link, place)
            return
        link.deadline(self._timeouts.handshake_timeout)
        # Before TLS there is no feed(): the link itself reads what comes first there.
        intake = PrefacedIntake if self._prefaced and not link.is_ssl else Intake
        link.receiver = intake(link, self, self._limits, place)

    def ended(self, link: Link) -> None:
        """A socket is gone."""
        self._links.pop(link, None)
        self._closing.pop(link, None)
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
        scheme = None
        if self._trusted:
            try:
                client = self._trusted.client_of(link.hop, head.headers)
            except Refused as error:
                self.refused(link, error.refusal)
                return
            link.speaks_for(client.address)
            head.host = client.host or head.host
            scheme = client.scheme
        if head.websocket is None:
            self._exchange(link, head, rest, scheme)
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
            self._limited(link, place)
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
            route=match.route or "fallback",
            began=self.clock(),
        )
        self._upgrades[upgrade] = None
        upgrade.begin(rest, self._timeouts.decision_timeout)
        self._handlers += 1
        self.nursery.start_soon(self._handle, upgrade, match.handler)

    def _exchange(self, link: Link, head: RequestHead, rest: bytes, scheme: str | None) -> None:
        place = self.admission.admit_body() if head.content_length or head.chunked else None
        if isinstance(place, Refusal):
            self._limited(link, place)
        elif self._app is not None:
            scope = self._app.scope_of(link, head, scheme)
            exchange = AppExchange(
                link, head, self, self._limits, app=self._app, scope=scope, place=place
            )
            self._counters.http_requests += 1
            if exchange.begin(head, rest):
                self._handlers += 1
                self.nursery.start_soon(self._run_app, exchange)
        else:
            Exchange(link, head, self, self._limits, place).begin(rest)

    def _limited(self, link: Link, refusal: Refusal) -> None:
        """Answer who was not admitted: for the time being, unless it is of another origin."""
        if refusal.status != 403:
            self._counters.limited[refusal.error] += 1
        self.refused(link, refusal)

    def refused(self, link: Link, refusal: Refusal, *, head_only: bool = False) -> None:
        """Answer with a refusal and close."""
        self._counters.refuse(refusal.status, refusal.error)
        link.outbox.write(refusal.render(head_only=head_only))
        link.finish()

    # Handlers.

    async def _handle(self, upgrade: Upgrade, handler: Handler) -> None:
        """Run a handler; no exception of its making leaves this task."""
        SPEAKING_FOR.set(upgrade)  # the task's own: it began with a copy
        answer, code = _UNDECIDED, CloseCode.NORMAL
        failed = _FAILED if self._authenticate is None else _NOT_AUTHENTICATED
        try:
            with upgrade.scope:
                if self._authenticate is not None:
                    identity = await upgrade.identify(self._authenticate)
                    if isinstance(identity, Refusal):
                        upgrade.refuse(identity)
                    failed = _FAILED
                if upgrade.state is UpgradeState.PENDING:
                    await handler(upgrade)
        except BaseException as error:
            own, passing = split(error)
            if own is not None and not is_end_of(upgrade.connection, own):
                answer, code = failed, CloseCode.INTERNAL_ERROR
                self._report(upgrade, own)
            del own  # it has this frame in its traceback
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
            upgrade.client_address,
            exc_info=error,
            extra=describe(upgrade),
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
        upgrade.link.let_in()
        self.connections[connection] = upgrade
        if upgrade.identity is not None and upgrade.identity.expires is not None:
            Expiry.watch(upgrade.link, connection, upgrade.identity.expires)
        return connection

    def decided(self, upgrade: Upgrade) -> None:
        """An upgrade has its final state."""
        self._upgrades.pop(upgrade, None)
        match upgrade.state:
            case UpgradeState.ACCEPTED:
                self._counters.upgrades_accepted += 1
                self._counters.handshakes.observe(self.clock() - upgrade.began)
            case UpgradeState.REJECTED:
                self._counters.reject(*upgrade.answer)
            case _:
                self._counters.upgrades_abandoned += 1
                # The deadline of the decision went with the link.
                upgrade.scope.deadline = trio.current_time() + self._timeouts.decision_timeout

    def admit_user(self, upgrade: Upgrade, user: str) -> Refusal | None:
        """Take a place for the user of an upgrade, until its socket ends; or say why not."""
        place = self.admission.admit_user(user)
        if isinstance(place, Refusal):
            self._counters.limited[place.error] += 1
            return place
        upgrade.link.hold(place)
        return None

    def overdue(self, upgrade: Upgrade) -> None:
        """A handler has not decided in time: answer for it, and end it."""
        if upgrade.refuse(_OVERDUE):
            upgrade.scope.cancel()

    def prevented(self) -> None:
        """A second decision was turned away."""
        self._counters.duplicate_upgrades_prevented += 1

    def closed(self, connection: Connection) -> None:
        """A connection has its close reason."""
        upgrade = self.connections.pop(connection, None)
        if upgrade is not None and not upgrade.link.ended:
            self._closing[upgrade.link] = upgrade
        if connection.closed is not None:
            code = int(connection.closed.code)
            self._counters.close(code)
            if code == CloseCode.TRY_AGAIN_LATER and connection.closed.reason == SLOW_CONSUMER:
                self._counters.slow_consumers += 1
            if upgrade is not None and code not in _ORDINARY and _log.isEnabledFor(logging.INFO):
                # The reason may be the peer's, and its words are not for logs.
                _log.info("connection closed with %d", code, extra=describe(upgrade))

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

    async def _run_app(self, exchange: AppExchange) -> None:
        try:
            await exchange.run()
        finally:
            self._handlers -= 1
            self._changed()

    def answered(self, exchange: Exchange | AppExchange, rest: bytes, *, keep_alive: bool) -> None:
        """An HTTP answer is on its way: read the next request, or close."""
        link = exchange.link
        if keep_alive and not link.ended:  # writing the answer may have shown that it is gone
            place = self.admission.admit_handshake()
            if not isinstance(place, Refusal):
                link.deadline(self._timeouts.keep_alive_timeout)
                link.let_in()
                link.enter(Intake(link, self, self._limits, place, fresh=False), rest)
                return
        link.finish()
