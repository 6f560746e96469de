"""Plain HTTP on the port: one request, one answer, perhaps the next request.

In: a request head that is no opening handshake, then its body. Out: one whole response. The rules:
the head has been judged already, h11 judges the body; a body is bounded before it is kept; whatever
comes behind the request is the next request's.
"""

import re
from typing import Protocol
from urllib.parse import parse_qsl

import h11

from trio_gateway.handshake.admission import Place
from trio_gateway.handshake.head import RequestHead
from trio_gateway.handshake.refusal import Refusal, reason_phrase
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.settings import Limits
from trio_gateway.transport.link import Link, Receiver

_SENDABLE = re.compile(r"[\t\x20-\x7e\x80-\xff]+")  # RFC 9110 §5.5
_WITHOUT_CONTENT = frozenset({204, 304})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MAX_PIPELINED_BYTES = 64 * 1024
_TOO_LATE = Refusal(408, "body_timeout", "the request body took too long; send it at once")
_BAD_BODY = Refusal(400, "bad_body", "the request body is not framed as its headers say")


class ExchangeDesk(Protocol):
    """Who answers.

    Attributes:
        draining: no further request is taken from any socket.
    """

    draining: bool

    def answer(self, exchange: "Exchange", request: HttpRequest) -> None:
        """Have ``exchange.respond()`` or ``exchange.refuse()`` called, now or later."""

    def answered(self, exchange: "Exchange", rest: bytes, *, keep_alive: bool) -> None:
        """The answer is on its way; ``rest`` came in behind the request."""

    def refused(self, link: Link, refusal: Refusal, *, head_only: bool = False) -> None:
        """No request will come of this; answer and close."""


class Exchange(Receiver):
    """One plain HTTP request and its answer.

    Arguments:
        link: the socket.
        head: the request's head.
        desk: who answers.
        limits: the bound of the body.
        place: held until the body is whole; None where there is none.
    """

    __slots__ = (
        "_body",
        "_desk",
        "_limits",
        "_parser",
        "_place",
        "_rest",
        "_waiting",
        "head",
        "link",
    )

    def __init__(
        self,
        link: Link,
        head: RequestHead,
        desk: ExchangeDesk,
        limits: Limits,
        place: Place | None = None,
    ) -> None:
        self.link = link
        self.head = head
        self._desk = desk
        self._limits = limits
        self._body = bytearray()
        self._rest = b""
        self._parser: h11.Connection | None = None
        self._place = place
        self._waiting = False

    def begin(self, rest: bytes) -> None:
        """Read the body, if there is one; ``rest`` came in behind the head."""
        head = self.head
        if head.content_length > self._limits.max_body_bytes:
            self._refuse_body()
        elif head.content_length or head.chunked:
            self._parser = h11.Connection(h11.SERVER)
            self._parser.receive_data(head.raw)
            if head.expects_continue and not rest:
                self.link.outbox.write(_CONTINUE)
            self.link.deadline(self.link.timeouts.body_timeout)
            self.link.enter(self, rest)
        else:
            self._rest = rest
            self._waiting = True
            self.link.enter(self)  # first: the answer may come at once, and ends this phase
            self._complete()

    def feed(self, data: bytes) -> None:
        """Take more of the body, or of the next request."""
        if self._waiting or self._parser is None:
            self._rest += data
            if len(self._rest) > _MAX_PIPELINED_BYTES:
                self.link.pause()
            return
        if data:
            self._parser.receive_data(data)
        try:
            self._read_body(self._parser)
        except h11.RemoteProtocolError:
            self._give_up(_BAD_BODY)

    def feed_eof(self) -> None:
        """The peer sends no more; a request that is whole is still answered."""
        if not self._waiting:
            self.link.abort()

    def expired(self) -> None:
        """The body took too long."""
        self._give_up(_TOO_LATE)

    def lost(self) -> None:
        """The peer is gone."""
        self._leave_place()

    def stalled(self) -> None:
        """The peer does not read its answer."""
        self.link.abort()

    def respond(self, response: HttpResponse) -> None:
        """Send the answer; nothing happens if the peer has gone."""
        if self.link.ended:
            return
        keep_alive = self.head.keep_alive and not self.link.eof and not self._desk.draining
        self.link.outbox.write(
            _render(response, keep_alive=keep_alive, head_only=self.head.method == "HEAD")
        )
        self._desk.answered(self, self._rest, keep_alive=keep_alive)

    def refuse(self, refusal: Refusal) -> None:
        """Send a refusal and close; nothing happens if the peer has gone."""
        if not self.link.ended:
            self._desk.refused(self.link, refusal, head_only=self.head.method == "HEAD")

    def _read_body(self, parser: h11.Connection) -> None:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._limits.max_body_bytes:
                    self._refuse_body()
                    return
            elif isinstance(event, h11.EndOfMessage):
                self._rest = parser.trailing_data[0]
                self._complete()
                return
            elif not isinstance(event, h11.Request):
                return

    def _refuse_body(self) -> None:
        most = self._limits.max_body_bytes
        self._give_up(Refusal(413, "body_too_large", f"a request body has at most {most} bytes"))

    def _give_up(self, refusal: Refusal) -> None:
        """Refuse before the request is whole."""
        self._leave_place()
        self._desk.refused(self.link, refusal)

    def _leave_place(self) -> None:
        if self._place is not None:
            self._place.close()

    def _complete(self) -> None:
        self._leave_place()
        self._waiting = True
        self.link.no_deadline()
        head = self.head
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self._desk.answer(
            self,
            HttpRequest(
                method="GET" if head.method == "HEAD" else head.method,
                path=head.path,
                query=dict(parse_qsl(head.query_string, keep_blank_values=True)),
                headers=headers,
                body=bytes(self._body),
                remote=self.link.address,
            ),
        )


def _content_headers(response: HttpResponse) -> list[str]:
    if response.status in _WITHOUT_CONTENT:
        return []  # no content, so nothing to say of it (RFC 9110 §8.6)
    return [
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
    ]


def _render(response: HttpResponse, *, keep_alive: bool, head_only: bool) -> bytes:
    if not 200 <= response.status <= 599:
        raise ValueError(f"a response's status is from 200 to 599, not {response.status}")
    lines = [
        f"HTTP/1.1 {response.status} {reason_phrase(response.status)}",
        *_content_headers(response),
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
        *(f"{name}: {value}" for name, value in response.headers),
    ]
    for line in lines:
        if not _SENDABLE.fullmatch(line):
            raise ValueError(f"{line!r} may not be sent as a line of a response")
    head = "\r\n".join([*lines, "\r\n"]).encode("latin-1")
    return head if head_only or response.status in _WITHOUT_CONTENT else head + response.body
