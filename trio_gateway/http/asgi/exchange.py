"""One plain HTTP request, answered by an ASGI application.

In: a request head, the bytes of its body as they come, the application's messages. Out: one call of
the application, its answer, then the socket's next request. The rules: the body waits for the
application in bounded space and the peer waits with it; the answer waits for the peer; one of two
clocks runs at any time, the client's or the application's; once the answer has begun, a failure
cuts the connection, and before that it is a 500.
"""

import logging
import math
from typing import Protocol

import h11
import trio

from trio_gateway.containment import split
from trio_gateway.handshake.admission import Place
from trio_gateway.handshake.head import RequestHead
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.asgi.application import AsgiApp, Message, Scope
from trio_gateway.http.asgi.response import ClientGone, Response
from trio_gateway.settings import Limits
from trio_gateway.transport.link import Link, Receiver
from trio_gateway.transport.signal import WaitingTasks

_log = logging.getLogger("trio_gateway")

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MAX_WAITING_BYTES = 64 * 1024  # of the body for the application; of later requests; of the answer
_PIECE = 256 * 1024
_TOO_LATE = Refusal(408, "body_timeout", "the request body took too long; send it at once")
_BAD_BODY = Refusal(400, "bad_body", "the request body is not framed as its headers say")
_FAILED = Refusal(500, "internal_error", "the request could not be answered")
_OVERDUE = Refusal(503, "response_timeout", "the answer took too long", (("Retry-After", "5"),))


class AppDesk(Protocol):
    """Whose socket it is.

    Attributes:
        draining: no further request is taken from any socket.
    """

    draining: bool

    def answered(self, exchange: "AppExchange", rest: bytes, *, keep_alive: bool) -> None:
        """The answer is on its way; ``rest`` came in behind the request."""

    def refused(self, link: Link, refusal: Refusal, *, head_only: bool = False) -> None:
        """The application does not answer this; answer and close."""


class AppExchange(Receiver):
    """One request and its answer.

    Arguments:
        link: the socket.
        head: the request's head.
        desk: whose socket it is.
        limits: the bound of the body.
        app: who answers.
        scope: what it is told.
        place: held until the body is whole; None where there is none.
    """

    __slots__ = (
        "_app",
        "_body",
        "_client_clock",
        "_client_left",
        "_cut",
        "_desk",
        "_eof",
        "_gone",
        "_handed",
        "_head_only",
        "_invite",
        "_limits",
        "_parser",
        "_paused",
        "_place",
        "_received",
        "_response",
        "_rest",
        "_run_scope",
        "_scope",
        "_waiting",
        "_whole",
        "link",
    )

    def __init__(
        self,
        link: Link,
        head: RequestHead,
        desk: AppDesk,
        limits: Limits,
        *,
        app: AsgiApp,
        scope: Scope,
        place: Place | None = None,
    ) -> None:
        self.link = link
        self._app = app
        self._scope = scope
        self._desk = desk
        self._limits = limits
        self._place = place
        self._head_only = head.method == "HEAD"
        self._response = Response(head_only=self._head_only, chunks=head.http_version == "1.1")
        self._run_scope = trio.CancelScope()
        self._waiting = WaitingTasks()
        self._parser: h11.Connection | None = None
        self._body = bytearray()
        self._received = 0
        self._rest = b""
        self._whole = True  # the body is
        self._handed = False  # the end of it, to the application
        self._invite = False  # a 100 is due
        self._paused = False
        self._eof = False
        self._gone = False
        self._cut = not head.keep_alive
        self._client_left = link.timeouts.body_timeout
        self._client_clock: float | None = None

    # From the peer.

    def begin(self, head: RequestHead, rest: bytes) -> bool:
        """Read the body, if there is one; say whether the application is to be called.

        Arguments:
            head: the request's head.
            rest: what came in behind it.
        """
        if head.content_length > self._limits.max_body_bytes:
            self._refuse_body()
        elif head.content_length or head.chunked:
            self._whole = False
            self._parser = h11.Connection(h11.SERVER)
            self._parser.receive_data(head.raw)
            self._invite = head.expects_continue and not rest
            self.link.enter(self)
            self._watch()
            self.link.feed(rest)  # h11 has yet to see the head
        else:
            self._rest = rest
            self.link.enter(self)
            self._watch()
        return not self._gone

    def feed(self, data: bytes) -> None:
        """Take more of the body, or of the next request."""
        if self._whole or self._parser is None:
            self._rest += data
            if len(self._rest) > _MAX_WAITING_BYTES:
                self.link.pause()
            return
        if data:
            self._invite = False
            self._parser.receive_data(data)
        try:
            self._read_body(self._parser)
        except h11.RemoteProtocolError:
            self._give_up(_BAD_BODY)

    def feed_eof(self) -> None:
        """The peer sends no more: it may still read its answer, or have gone."""
        self._eof = True
        if self._whole:
            self._waiting.wake_all()
            self._watch()
        else:
            self.link.abort()

    def expired(self) -> None:
        """The body, or the application, took too long."""
        if self._client_clock is not None:
            self._give_up(_TOO_LATE)
        else:
            self._give_up(_OVERDUE)
            self._run_scope.cancel()

    def lost(self) -> None:
        """The peer is gone."""
        self._part()

    def stalled(self) -> None:
        """The peer does not read its answer."""
        self.link.abort()

    def _read_body(self, parser: h11.Connection) -> None:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Data):
                self._received += len(event.data)
                if self._received > self._limits.max_body_bytes:
                    self._refuse_body()
                    return
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._rest = parser.trailing_data[0]
                self._whole = True
                self._leave_place()
                break
            elif not isinstance(event, h11.Request):
                break
        if self._body or self._whole:
            self._waiting.wake_all()
        if not self._whole and len(self._body) > _MAX_WAITING_BYTES:
            self._paused = True
            self.link.pause()
        self._watch()

    def _refuse_body(self) -> None:
        most = self._limits.max_body_bytes
        self._give_up(Refusal(413, "body_too_large", f"a request body has at most {most} bytes"))

    def _watch(self) -> None:
        """Let the client's clock run while its bytes are awaited, else the application's."""
        link, now = self.link, trio.current_time()
        if self._client_clock is not None:
            self._client_left -= now - self._client_clock
            self._client_clock = None
        if not (self._whole or self._paused or self._invite):
            self._client_clock = now
            link.deadline(max(0.0, self._client_left))
        elif self._eof or not self._response.begun:
            link.deadline(link.timeouts.response_timeout)
        else:
            link.no_deadline()  # a stream may be silent for hours

    def _leave_place(self) -> None:
        if self._place is not None:
            self._place.close()

    def _part(self) -> None:
        """Nobody is there to be answered; the application has a moment to notice."""
        self._gone = True
        self._leave_place()
        self._waiting.wake_all()
        self._run_scope.deadline = trio.current_time() + self.link.timeouts.response_timeout

    def _give_up(self, refusal: Refusal) -> None:
        """Answer for the application, or cut its answer off."""
        if self._gone or self._response.complete:
            return
        self._part()
        if self._response.begun and self._response.delimited:
            self.link.finish()  # what there is of it; the client sees that it is not whole
        elif self._response.begun:
            self.link.abort()
        else:
            self._desk.refused(self.link, refusal, head_only=self._head_only)

    # The application.

    async def run(self) -> None:
        """Call the application; no exception of its making leaves this call."""
        try:
            with self._run_scope:
                await self._app.app(self._scope, self.receive, self.send)
            if not (self._gone or self._eof or self._response.complete):
                _log.error("the ASGI application ended without an answer at %s", self._path)
        except BaseException as error:
            own, passing = split(error)
            if own is not None and not _is_departure(own):
                _log.error("the ASGI application failed at %s", self._path, exc_info=own)
            if passing is not None:
                raise passing from None
        finally:
            self._give_up(_FAILED)

    @property
    def _path(self) -> str:
        return str(self._scope["raw_path"], "ascii", "backslashreplace")

    async def receive(self) -> Message:
        """Return the next part of the body, then, when that has come, ``http.disconnect``.

        Cancelled, nothing has been taken.
        """
        await trio.lowlevel.checkpoint()
        if self._invite and not self._response.begun and not self._gone:
            self._invite = False
            self.link.outbox.write(_CONTINUE)
            self._watch()
        while not (self._gone or self._response.complete):
            if self._body or (self._whole and not self._handed):
                body = bytes(self._body)
                self._body.clear()
                self._handed = self._whole
                if self._paused:
                    self._paused = False
                    self.link.resume()
                    self._watch()
                return {"type": "http.request", "body": body, "more_body": not self._whole}
            if self._eof:
                break
            await self._waiting.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message of the response; waits while the client is behind.

        Cancelled, a part of the message may have been sent, and the connection will be cut.

        Raises:
            ClientGone: there is nobody to send to.
            RuntimeError: the messages are not those of one response.
            TypeError: a field has the wrong type.
            ValueError: the message or a header cannot be sent.
        """
        kind = message["type"]
        if self._gone and not self._response.complete:
            raise ClientGone
        if kind == "http.response.start":
            self._response.start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), bool(message.get("more_body", False)))
        else:
            raise ValueError(f"an answer to a request has no message {kind!r}")

    async def _send_body(self, body: bytes, more: bool) -> None:
        if len(body) <= _PIECE:
            self._write(bytes(body), more)
        else:
            view = memoryview(body)
            for at in range(0, len(body), _PIECE):
                self._write(bytes(view[at : at + _PIECE]), more or at + _PIECE < len(body))
                await self._wait_for_room(0)
        if more:
            await trio.lowlevel.checkpoint()
            await self._wait_for_room(_MAX_WAITING_BYTES)

    async def _wait_for_room(self, most: int) -> None:
        """Wait for a client that is behind until it is not: slow is no offence while it reads."""
        outbox = self.link.outbox
        if outbox.size > most and not self._response.complete:
            await outbox.room(0)
        if self._gone:
            raise ClientGone

    def _write(self, data: bytes, more: bool) -> None:
        response, link, desk = self._response, self.link, self._desk
        begins = not response.begun
        keep_alive = self._whole and not (self._cut or self._eof or desk.draining)
        framed = response.body(data, more=more, keep_alive=keep_alive)
        link.outbox.write(framed)
        if self._gone:
            if more:
                raise ClientGone
        elif response.complete:
            self._leave_place()
            self._waiting.wake_all()
            self._run_scope.deadline = math.inf
            link.no_deadline()
            desk.answered(self, self._rest, keep_alive=response.keep_alive)
        elif begins or self._eof:
            self._watch()


def _is_departure(error: BaseException | None) -> bool:
    """Say whether an exception comes of a ``ClientGone``, whatever a framework made of it."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ClientGone):
            return True
        if isinstance(error, BaseExceptionGroup):
            return all(_is_departure(inner) for inner in error.exceptions)
        error = error.__cause__ or error.__context__
    return False
