"""The upgrade: a token that can be spent once.

In: a valid opening handshake and the bytes that came in behind it. Out: one decision. The rule::

    PENDING ──accept()──────────────► ACCEPTED    101, the rest of the bytes are frames
            ──reject(), the gateway─► REJECTED    an HTTP answer, then the socket is closed
            ──the peer is gone──────► ABANDONED   nothing is written

The first decision wins. A second one raises ``UpgradeAlreadyDecided`` in whoever tried, writes no
byte and hurts nobody else. Every decision is made in one piece, between two checkpoints: whoever is
cancelled has either decided or not.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

import trio
from trio_websocket import Endpoint, WebSocketRequest
from wsproto.utilities import generate_accept_token

from trio_gateway.errors import (
    InvalidResponse,
    UpgradeAbandoned,
    UpgradeAlreadyDecided,
    UpgradeState,
)
from trio_gateway.handshake.authentication import (
    BEARER,
    OVERDUE,
    Authenticate,
    Identity,
    without_token,
)
from trio_gateway.handshake.head import RequestHead
from trio_gateway.handshake.offer import WebSocketOffer
from trio_gateway.handshake.refusal import Refusal, reason_phrase
from trio_gateway.settings import Limits
from trio_gateway.transport.link import Link, Receiver
from trio_gateway.transport.outbox import Verdict

if TYPE_CHECKING:
    from trio_gateway.connection.compression import Agreement
    from trio_gateway.connection.connection import Connection

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 §5.5
_FORBIDDEN_101 = frozenset(
    {
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"transfer-encoding",
        b"upgrade",
    }
)
_BY_HANDLER = (0, "handler")
_FORBIDDEN_REJECT = frozenset({b"connection", b"content-length", b"transfer-encoding"})
# trio-websocket leaves these out of ``headers``, as wsproto does.
_NOT_IN_HEADERS = frozenset({b"host", b"sec-websocket-extensions", b"sec-websocket-protocol"})


class UpgradeDesk(Protocol):
    """What an upgrade needs of its gateway."""

    def open(self, upgrade: "Upgrade", subprotocol: str | None) -> "Connection":
        """Make the connection of an accepted upgrade."""
        ...

    def decided(self, upgrade: "Upgrade") -> None:
        """The upgrade has its final state."""

    def admit_user(self, upgrade: "Upgrade", user: str) -> Refusal | None:
        """Count the connection as the user's; or say why not."""
        ...

    def overdue(self, upgrade: "Upgrade") -> None:
        """The decision deadline has passed."""

    def prevented(self) -> None:
        """A second decision was turned away."""


class Upgrade(WebSocketRequest):
    """A client's request to speak WebSocket; the handler decides it once.

    It is a ``trio_websocket.WebSocketRequest`` in all its names, and adds ``params``, ``query``,
    ``head``, ``state`` and ``identity``.

    Attributes:
        identity: who it is for, once ``identify()`` has found out; before the handler runs, where
            the gateway has an ``authenticate``.
        params: the path parameters of the matched route, converted.
        head: the whole request head, ``Host`` and extensions too.
        link: the socket (internal use).
        agreement: how messages will be compressed, or None (internal use).
        scope: cancelled when the gateway ends the handler (internal use).
        route: the pattern that was matched, for logs and counts (internal use).
        began: when the head was whole, as the reception's clock has it (internal use).
        answer: the status of a rejection, and why (internal use).
    """

    # The base class keeps a trio-websocket connection that does not exist yet here, so its
    # __init__ is not called; every public name of it is overridden (a test holds that).
    def __init__(
        self,
        link: Link,
        head: RequestHead,
        offer: WebSocketOffer,
        *,
        params: Mapping[str, Any],
        limits: Limits,
        desk: UpgradeDesk,
        agreement: "Agreement | None" = None,
        route: str = "",
        began: float = 0.0,
    ) -> None:
        self.head = head
        self.route = route
        self.began = began
        self.answer: tuple[int, str] = _BY_HANDLER
        self.agreement = agreement
        self.params = params
        self.identity: Identity | None = None
        self.scope = trio.CancelScope()
        self.link = link
        self._offer = offer
        self._desk = desk
        self._state = UpgradeState.PENDING
        self._query: dict[str, str] | None = None
        self._connection_made: Connection | None = None
        self._max_early_bytes = limits.max_early_bytes

    @property
    def link_ended(self) -> trio.Event:
        """Set once the socket is gone (internal use)."""
        ended = trio.Event()
        self.link.hold(_Setter(ended))
        return ended

    @property
    def state(self) -> UpgradeState:
        """Where the decision stands."""
        return self._state

    @property
    def connection(self) -> "Connection | None":
        """The connection, once accepted."""
        return self._connection_made

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The request's headers with lower-case names.

        As in trio-websocket without ``Host``, subprotocols and extensions; ``head.headers`` has
        them all.
        """
        return handshake_headers(self.head)

    @property
    def path(self) -> str:
        """The request target with its query, as trio-websocket gives it."""
        return self.head.target

    @property
    def query(self) -> Mapping[str, str]:
        """The query, percent-decoded; of a repeated name the last value."""
        if self._query is None:
            self._query = dict(parse_qsl(self.head.query_string, keep_blank_values=True))
        return self._query

    @property
    def proposed_subprotocols(self) -> tuple[str, ...]:
        """The subprotocols the client offers, in its order of preference.

        Without the token behind ``bearer``, once that has said who the client is.
        """
        if self.identity is not None and self.identity.subprotocol == BEARER:
            return without_token(self._offer.subprotocols)
        return self._offer.subprotocols

    @property
    def local(self) -> Endpoint | str:
        """Our end of the socket; never raises, text where there is no port."""
        return self.link.local

    @property
    def remote(self) -> Endpoint | str:
        """The peer's end of the socket; never raises, text where there is no port."""
        return self.link.remote

    @property
    def client_address(self) -> str:
        """The client's address without its port: what limits count and logs say.

        ``remote``'s, unless a proxy that is trusted (``Proxies``) speaks for somebody else;
        ``"unix"`` for a Unix socket.
        """
        return self.link.address

    async def identify(self, authenticate: Authenticate) -> Identity | Refusal:
        """Find out who this upgrade is for; an identity is kept in ``identity``.

        Nothing is decided: a refusal is for the caller to answer with. If this is cancelled,
        ``authenticate`` is too.

        Arguments:
            authenticate: is asked; a 429 when the user has ``Limits.max_connections_per_user``
                already, a 503 when ``Timeouts.authentication_timeout`` has passed.

        Raises:
            TypeError: its answer is neither an identity nor a refusal.
        """
        answer: object = OVERDUE
        with trio.CancelScope(relative_deadline=self.link.timeouts.authentication_timeout):
            answer = await authenticate(self)
        if not isinstance(answer, Identity | Refusal):
            raise TypeError(f"authenticate gives an Identity or a Refusal, not {type(answer)}")
        if isinstance(answer, Identity):
            # Asked again, it keeps the place that it has.
            known = self.identity is not None and self.identity.user == answer.user
            refusal = None if known else self._desk.admit_user(self, answer.user)
            if refusal is not None:
                return refusal
            self.identity = answer
        return answer

    async def accept(
        self,
        *,
        subprotocol: str | None = None,
        extra_headers: list[tuple[bytes, bytes]] | None = None,
    ) -> "Connection":
        """Answer 101 and return the connection.

        Bytes that came in behind the request are its first frames. If this is cancelled, nothing
        has been decided and nothing written.

        Arguments:
            subprotocol: one of ``proposed_subprotocols``; None for that of ``identity``, or none.
            extra_headers: further response headers.

        Raises:
            InvalidResponse: the subprotocol was not offered, or a header may not be sent; the
                upgrade is still undecided.
            UpgradeAlreadyDecided: somebody decided before; no byte was written.
            UpgradeAbandoned: the peer is gone (also a ``ConnectionClosed``).
        """
        if subprotocol is None and self.identity is not None:
            subprotocol = self.identity.subprotocol
        response = self._render_101(subprotocol, _headers(extra_headers, _FORBIDDEN_101))
        await trio.lowlevel.checkpoint()
        self._decide(UpgradeState.ACCEPTED)
        link = self.link
        early = link.receiver
        assert isinstance(early, _Early)
        if link.outbox.write(response) is Verdict.CLOSED:
            self._state = UpgradeState.ABANDONED
            self._desk.decided(self)
            raise UpgradeAbandoned
        connection = self._desk.open(self, subprotocol)
        self._connection_made = connection
        self._desk.decided(self)
        link.enter(connection, early.take())
        return connection

    async def reject(
        self,
        status_code: int,
        *,
        extra_headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes | None = None,
    ) -> None:
        """Answer with an HTTP status and close the socket once the peer has had it.

        If this is cancelled, nothing has been decided and nothing written.

        Arguments:
            status_code: 200 to 599; 1xx are no final answers.
            extra_headers: further response headers.
            body: the response body; None for one line of JSON that names the status.

        Raises:
            InvalidResponse: the status or a header may not be sent; still undecided.
            UpgradeAlreadyDecided: somebody decided before; no byte was written.
            UpgradeAbandoned: the peer is gone (also a ``ConnectionClosed``).
        """
        if isinstance(status_code, bool) or not isinstance(status_code, int):
            raise InvalidResponse(f"a status is an integer, not {status_code!r}")
        if not 200 <= status_code <= 599:
            raise InvalidResponse(
                f"an upgrade cannot be rejected with {status_code}; use a status from 200 to 599"
            )
        if body is not None and not isinstance(body, bytes):
            raise InvalidResponse(f"a body is bytes, not {type(body).__name__}")
        response = _render_rejection(status_code, _headers(extra_headers, _FORBIDDEN_REJECT), body)
        await trio.lowlevel.checkpoint()
        self._decide(UpgradeState.REJECTED)
        self.answer = status_code, "handler"
        self._answer(response)

    def refuse(self, refusal: Refusal) -> bool:
        """The gateway's own rejection; returns False if the upgrade is already decided."""
        if self._state is not UpgradeState.PENDING:
            return False
        self._state = UpgradeState.REJECTED
        self.answer = refusal.status, refusal.error
        self._answer(refusal.render())
        return True

    def begin(self, rest: bytes, decision_timeout: float) -> None:
        """Enter the phase of the decision (the gateway's call).

        Arguments:
            rest: what came in behind the head.
            decision_timeout: seconds for the handler to decide.
        """
        self.link.deadline(decision_timeout)
        # The link has it, and not this too: what refers to itself waits for the collector.
        self.link.enter(_Early(self, self._max_early_bytes), rest)

    def overdue(self) -> None:
        """The handler has not decided in time (the link's call)."""
        self._desk.overdue(self)

    def _decide(self, state: UpgradeState) -> None:
        if self._state is UpgradeState.ABANDONED:
            raise UpgradeAbandoned
        if self._state is not UpgradeState.PENDING:
            self._desk.prevented()
            raise UpgradeAlreadyDecided(self._state)
        self._state = state

    def _answer(self, response: bytes) -> None:
        self._desk.decided(self)
        self.link.outbox.write(response)
        self.link.finish()

    def abandon(self) -> None:
        """The peer is gone (the link's call)."""
        if self._state is UpgradeState.PENDING:
            self._state = UpgradeState.ABANDONED
            self._desk.decided(self)

    def _render_101(self, subprotocol: str | None, headers: list[tuple[bytes, bytes]]) -> bytes:
        lines = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + generate_accept_token(self._offer.key),
        ]
        if subprotocol is not None:
            if subprotocol not in self.proposed_subprotocols:
                offered = ", ".join(self.proposed_subprotocols) or "none"
                raise InvalidResponse(
                    f"the subprotocol {subprotocol!r} was not offered by the client: {offered}"
                )
            lines.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode("ascii"))
        if self.agreement is not None:
            lines.append(b"Sec-WebSocket-Extensions: " + self.agreement.header)
        lines.extend(name + b": " + value for name, value in headers)
        return b"\r\n".join([*lines, b"\r\n"])


class _Setter:
    """Sets an event at the end of a link."""

    def __init__(self, event: trio.Event) -> None:
        self.close = event.set


class _Early(Receiver):
    """Keeps what the peer sends before the decision, up to a bound."""

    __slots__ = ("_chunks", "_max_bytes", "_size", "_upgrade")

    def __init__(self, upgrade: Upgrade, max_bytes: int) -> None:
        self._upgrade = upgrade
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size >= self._max_bytes:
            self._upgrade.link.pause()

    def take(self) -> bytes:
        """Return all of it, once."""
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)

    def lost(self) -> None:
        self._upgrade.abandon()

    def expired(self) -> None:
        self._upgrade.overdue()


def handshake_headers(head: RequestHead) -> list[tuple[bytes, bytes]]:
    """Return a request's headers as trio-websocket shows them."""
    return [header for header in head.headers if header[0] not in _NOT_IN_HEADERS]


def _headers(
    extra: Iterable[tuple[bytes, bytes]] | None, forbidden: frozenset[bytes]
) -> list[tuple[bytes, bytes]]:
    """Return the headers; raises InvalidResponse for one that may not be sent."""
    headers = list(extra or ())
    for name, value in headers:
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise InvalidResponse(f"a header is a pair of bytes, not {(name, value)!r}")
        if not _TOKEN.fullmatch(name):
            raise InvalidResponse(f"{name!r} is not a header name")
        if not _VALUE.fullmatch(value):
            raise InvalidResponse(f"the value of {name!r} has a control character: {value!r}")
        if name.lower() in forbidden:
            raise InvalidResponse(f"the gateway sets {name.decode('ascii')} itself; leave it out")
    return headers


def _render_rejection(status: int, headers: list[tuple[bytes, bytes]], body: bytes | None) -> bytes:
    phrase = reason_phrase(status)
    typed = any(name.lower() == b"content-type" for name, _ in headers)
    if status in {204, 205, 304}:
        body = b""  # these have none (RFC 9110 §15.3.5, §15.3.6, §15.4.5)
    if body is None and not typed:
        error = phrase.lower().replace(" ", "_")
        extra = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        return Refusal(status, error, phrase, extra).render()
    if body and not typed:
        headers = [*headers, (b"Content-Type", b"text/plain; charset=utf-8")]
    body = body or b""
    lines = [
        f"HTTP/1.1 {status} {phrase}".encode("latin-1"),
        *(name + b": " + value for name, value in headers),
        b"Connection: close",
    ]
    if status not in {204, 304}:  # RFC 9110 §8.6
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])
