"""The connection: messages to and from one handler.

In: bytes from the link, calls from the handler, frames from the hub. Out: messages, frames, one
truthful close reason. The rules: control frames are answered whether or not the handler reads;
what waits for the handler is bounded, and reading pauses at the bound; a send is taken whole or not
at all; once there is a close reason it does not change.
"""

import secrets
import struct
from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol, Self

import trio
from trio_websocket import CloseReason, ConnectionClosed, Endpoint, WebSocketConnection
from wsproto.events import CloseConnection, Ping, Pong

from trio_gateway.connection.frames import (
    Failure,
    FrameDecoder,
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from trio_gateway.errors import CloseCode
from trio_gateway.handshake.head import RequestHead
from trio_gateway.handshake.upgrade import handshake_headers
from trio_gateway.settings import Heartbeat, Limits
from trio_gateway.transport.link import Link, Receiver
from trio_gateway.transport.outbox import Lane, Verdict
from trio_gateway.transport.signal import WaitingTasks

_MESSAGE_OVERHEAD = 64  # what a queued message costs besides its bytes
_SEND_HIGH_WATER = 64 * 1024
_CALLS_BETWEEN_YIELDS = 16
_HEARTBEAT = b"heartbeat"
SLOW_CONSUMER = "slow consumer"
_UNSENDABLE = frozenset({1004, 1005, 1006, 1015})


class ConnectionDesk(Protocol):
    """What a connection tells its gateway."""

    def closed(self, connection: "Connection") -> None:
        """It has its close reason."""


class _Flight:
    """A ping on its way."""

    __slots__ = ("answered", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answered = False


class Connection(WebSocketConnection, Receiver):
    """A server's WebSocket connection.

    It is a ``trio_websocket.WebSocketConnection`` in all its names, and adds ``async for``,
    ``offer()``, ``send_frame()``, ``disconnect()`` and ``id``. Its methods may be called from any
    task; several tasks may receive, each message goes to one of them.
    """

    __slots__ = (
        "_arrivals",
        "_awaiting_pong",
        "_calls",
        "_close_sent",
        "_control_frames",
        "_control_window",
        "_decoder",
        "_desk",
        "_gone",
        "_head",
        "_heard",
        "_heartbeat",
        "_uid",
        "_unsent",
        "_limits",
        "_link",
        "_messages",
        "_number",
        "_over",
        "_paused",
        "_pings_in_flight",
        "_queued",
        "_reason",
        "_subprotocol",
    )

    # The base class's __init__ makes a wsproto connection, a lock and a channel that would have no
    # use here (6.8 KiB a connection); every public name of it is overridden (a test holds that).
    def __init__(
        self,
        link: Link,
        *,
        head: RequestHead,
        subprotocol: str | None,
        limits: Limits,
        heartbeat: Heartbeat,
        desk: ConnectionDesk,
    ) -> None:
        self._link = link
        self._head = head
        self._subprotocol = subprotocol
        self._limits = limits
        self._heartbeat = heartbeat
        self._desk = desk
        self._number = next(WebSocketConnection.CONNECTION_ID)
        self._uid: str | None = None
        self._decoder = FrameDecoder(
            max_message_bytes=limits.max_message_bytes, max_fragments=limits.max_fragments
        )
        self._messages: list[str | bytes] = []  # an empty deque takes 760 bytes
        self._queued = 0
        self._paused = False
        self._arrivals = WaitingTasks()
        self._gone: trio.Event | None = None
        self._pings_in_flight: dict[bytes, _Flight] = {}
        self._reason: CloseReason | None = None
        self._close_sent = False
        self._over = False
        self._heard = False
        self._awaiting_pong = False
        self._calls = 0
        self._control_window = 0.0
        self._control_frames = 0
        self._unsent = 0
        self._link.deadline(heartbeat.interval)

    # What a handler asks.

    @property
    def id(self) -> str:
        """A name for this connection, unique over all gateways."""
        if self._uid is None:
            self._uid = secrets.token_hex(8)
        return self._uid

    @property
    def number(self) -> int:
        """In the order in which the connections of this process were opened."""
        return self._number

    @property
    def closed(self) -> CloseReason | None:
        """Why the connection was or is being closed, or None; the first reason stands."""
        return self._reason

    @property
    def is_client(self) -> bool:
        """False: this is the server's side."""
        return False

    @property
    def is_server(self) -> bool:
        """True: this is the server's side."""
        return True

    @property
    def local(self) -> Endpoint | str:
        """Our end of the socket; never raises, text where there is no port."""
        return self._link.local

    @property
    def remote(self) -> Endpoint | str:
        """The peer's end of the socket; never raises, text where there is no port."""
        return self._link.remote

    @property
    def client_address(self) -> str:
        """The client's address without its port; see ``Upgrade.client_address``."""
        return self._link.address

    @property
    def path(self) -> str:
        """The request target, with its query."""
        return self._head.target

    @property
    def unread(self) -> int:
        """Messages that can be had without waiting."""
        return len(self._messages)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was accepted, or None."""
        return self._subprotocol

    @property
    def handshake_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of the client's request, with lower-case names."""
        return tuple(handshake_headers(self._head))

    def __str__(self) -> str:
        return f"server-{self._number}"

    # Receiving.

    # pyright infers the narrower CoroutineType for the base class; mypy has no such inference.
    def get_message(  # pyright: ignore[reportIncompatibleMethodOverride] - see above
        self,
    ) -> Coroutine[Any, Any, str | bytes]:
        """Return the next message.

        Messages that came in before the peer closed are still returned; after ``aclose()`` none
        are. If this is cancelled, no message is lost. It looks for cancellation every time and
        lets other tasks run at least every 16 calls.

        Raises:
            ConnectionClosed: with the reason, once there are no more.
        """
        return self._receive(ConnectionClosed)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, str | bytes]:
        """Return the next message; the loop ends when the connection is closed."""
        return self._receive(StopAsyncIteration)

    async def _receive(self, at_end: type[ConnectionClosed | StopAsyncIteration]) -> str | bytes:
        # One coroutine for both calls: each level costs at every message.
        if self._messages or self._reason is not None:
            await self._checkpoint()
        while not self._messages:
            if self._reason is not None:
                raise at_end(self._reason)
            self._calls = 0
            await trio.lowlevel.wait_task_rescheduled(self._arrivals.enter())
        message = self._messages.pop(0)
        self._queued -= len(message) + _MESSAGE_OVERHEAD
        if self._paused and self._has_room():
            self._read_on()
        return message

    # Sending.

    def send_message(  # pyright: ignore[reportIncompatibleMethodOverride] - see get_message
        self, message: str | bytes
    ) -> Coroutine[Any, Any, None]:
        """Send a text (``str``) or binary (``bytes``) message.

        Waits while 64 KiB or more wait for a peer that is slower than we are. If that is
        cancelled, nothing of the message is sent; otherwise all of it is.

        Raises:
            ConnectionClosed: the connection is closed or closing.
            ValueError: neither str nor bytes, or text that is not Unicode (a lone surrogate).
        """
        if isinstance(message, str):
            return self.send_frame(text_frame(message.encode()))
        if isinstance(message, bytes):
            return self.send_frame(binary_frame(message))
        raise ValueError("message must be str or bytes")

    async def send_frame(self, frame: bytes) -> None:
        """Send frames that are already encoded; as ``send_message`` in all else.

        Arguments:
            frame: one or more whole, unmasked frames (RFC 6455 §5.2).
        """
        if self._reason is not None:
            raise ConnectionClosed(self._reason)
        outbox = self._link.outbox
        if outbox.size >= _SEND_HIGH_WATER:
            self._calls = 0
            await outbox.room(_SEND_HIGH_WATER - 1)
        else:
            await self._checkpoint()
        if self._reason is not None or outbox.write(frame) is Verdict.CLOSED:
            self._check_open()

    def offer(self, frame: bytes, /) -> Verdict:
        """Send an encoded frame without ever waiting, as a hub does.

        A peer for which ``Limits.max_outbox_bytes`` wait already is disconnected with 1013 and the
        answer is ``Verdict.SLOW``.
        """
        return self._link.outbox.offer(frame)

    @property
    def lane(self) -> Lane:
        """What a hub offers frames to in place of this: a fan-out has no time for a call more."""
        return self._link.outbox

    async def ping(self, payload: bytes | None = None) -> None:
        """Send a ping and wait for its pong; a later ping's pong counts too.

        If this is cancelled the ping has been sent and its pong is ignored.

        Arguments:
            payload: at most 125 bytes, different from that of every ping in flight; None for a
                random one.

        Raises:
            ConnectionClosed: the connection is closed, or closes before the pong comes.
            ValueError: the payload is too long or already in flight.
        """
        self._check_open()
        if payload is None:
            payload = struct.pack("!I", secrets.randbits(32))
        frame = ping_frame(payload)
        await self._checkpoint()
        self._check_open()
        if payload in self._pings_in_flight:
            raise ValueError(f"Payload value {payload!r} is already in flight.")
        flight = self._pings_in_flight[payload] = _Flight()
        try:
            self._control(frame)
            await flight.event.wait()
        finally:
            self._pings_in_flight.pop(payload, None)
        if not flight.answered:
            self._check_open()

    async def pong(self, payload: bytes | None = None) -> None:
        """Send an unsolicited pong.

        Arguments:
            payload: at most 125 bytes.

        Raises:
            ConnectionClosed: the connection is closed or closing.
            ValueError: the payload is too long.
        """
        frame = pong_frame(payload or b"")
        self._check_open()
        await self._checkpoint()
        self._check_open()
        self._control(frame)

    # Closing.

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """Close the connection and wait until the peer has answered.

        Idempotent. What was sent before goes out first, as long as the peer reads on. Then waits at
        most ``Timeouts.closing_timeout``; after that, or when cancelled, the socket is dropped.

        Arguments:
            code: 1000–1014 but for those that cannot be sent, or 3000–4999 (RFC 6455 §7.4).
            reason: for people; cut to 123 bytes of UTF-8.

        Raises:
            ValueError: the code or the reason cannot be sent; nothing was.
        """
        self.disconnect(code, reason)
        if self._gone is None:
            self._gone = trio.Event()
        if self._over:
            self._gone.set()
        try:
            await self._gone.wait()
        except BaseException:
            self._link.abort()
            raise

    def disconnect(self, code: int, reason: str | None = None) -> None:
        """Begin to close, without waiting; nothing happens if it has begun already.

        Raises:
            ValueError: the code or the reason cannot be sent; nothing was.
        """
        if not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in _UNSENDABLE:
            raise ValueError(f"{code} is not a close code that can be sent (RFC 6455 §7.4)")
        frame = close_frame(code, reason)
        if self._reason is None:
            self._messages.clear()
            self._queued = 0
            self._end(CloseReason(int(code), reason), frame)
            if not self._link.ended:
                self._unsent = self._link.outbox.size
                self._await_close()
                self._link.outbox.when_empty(self._await_close)
                self._link.resume()

    def _await_close(self) -> None:
        self._link.deadline(self._link.timeouts.closing_timeout)

    def _cut_off(self, code: int, reason: str) -> None:
        """Disconnect a peer that is owed nothing: what it does not fetch in time is lost to it."""
        if self._reason is None:
            self.disconnect(code, reason)
            self._unsent = 0

    # The link's calls.

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._heard = True
        for event in self._decoder.feed(data):
            if type(event) is str or type(event) is bytes:
                if self._reason is None:
                    self._message(event)
            elif isinstance(event, Ping):
                if self._admit_control() and not self._close_sent:
                    self._control(pong_frame(event.payload))
            elif isinstance(event, Pong):
                if self._admit_control():
                    self._pong(event.payload)
            elif isinstance(event, CloseConnection):
                self._peer_closed(event.code, event.reason)
            elif isinstance(event, Failure):
                self._failed(event)

    def feed_eof(self) -> None:
        """The peer sends no more, and has sent no Close (RFC 6455 §7.1.5)."""
        self._end(CloseReason(CloseCode.ABNORMAL, None), None)
        self._finish(linger=False)

    def lost(self) -> None:
        """The link is gone."""
        self._end(CloseReason(CloseCode.ABNORMAL, None), None)
        self._over = True
        if self._gone is not None:
            self._gone.set()

    def expired(self) -> None:
        """Time for a ping, or the end of waiting for something."""
        if self._close_sent:
            unsent = self._link.outbox.size
            if 0 < unsent < self._unsent:  # slow, but it reads
                self._unsent = unsent
                self._await_close()
            else:
                self._link.abort()
        elif self._heard or self._paused or self._link.outbox.size:
            # Paused is our doing: what would show that the peer lives may lie unread. And a ping
            # behind all that waits to be sent asks nothing: the outbox sees whether that moves.
            # A silent peer counts on a ping in each interval, whenever its pong came.
            beat = self._heartbeat
            rest = beat.interval - beat.pong_timeout if self._awaiting_pong else beat.interval
            self._heard = self._awaiting_pong = False
            self._link.deadline(max(rest, beat.interval / 10))
        elif self._awaiting_pong:
            self.disconnect(CloseCode.IDLE, "no pong")
        else:
            self._awaiting_pong = True
            self._link.deadline(self._heartbeat.pong_timeout)
            self._control(ping_frame(_HEARTBEAT))

    def overflowed(self) -> None:
        """More was offered than may wait."""
        self._cut_off(CloseCode.TRY_AGAIN_LATER, SLOW_CONSUMER)

    def leave(self) -> None:
        """The gateway is cancelled."""
        self.disconnect(CloseCode.GOING_AWAY)

    def stalled(self) -> None:
        """What waits to be sent does not move."""
        if self._close_sent:
            self._link.abort()
        else:
            self._cut_off(CloseCode.TRY_AGAIN_LATER, SLOW_CONSUMER)

    # Inside.

    def _checkpoint(self) -> Awaitable[None]:
        """Look for cancellation; every so often let the others run."""
        # Awaited by the caller: a coroutine of our own around it would cost at every message.
        self._calls += 1
        if self._calls < _CALLS_BETWEEN_YIELDS:
            return trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC105 - see above
        self._calls = 0
        return trio.lowlevel.checkpoint()  # noqa: ASYNC105 - see above

    def _check_open(self) -> None:
        if self._reason is not None:
            raise ConnectionClosed(self._reason)

    def _message(self, message: str | bytes) -> None:
        self._messages.append(message)
        self._queued += len(message) + _MESSAGE_OVERHEAD
        if not self._has_room():
            self._paused = True
            self._link.pause()
        self._arrivals.wake_one()

    def _read_on(self) -> None:
        """The handler has caught up."""
        self._paused = False
        self._link.resume()

    def _has_room(self) -> bool:
        """Whether more messages may be read for the handler."""
        limits = self._limits
        return self._queued < limits.max_queued_bytes and (
            limits.max_queued_messages is None or len(self._messages) < limits.max_queued_messages
        )

    def _admit_control(self) -> bool:
        """Count a ping or pong of the peer; more than the limit in a second end the connection."""
        now = trio.current_time()
        if now >= self._control_window + 1:
            self._control_window = now
            self._control_frames = 0
        self._control_frames += 1
        if self._control_frames <= self._limits.max_control_frames:
            return True
        self._cut_off(CloseCode.RATE, "too many control frames")
        return False

    def _control(self, frame: bytes) -> None:
        """Send a control frame; a peer that provokes them and never reads is a slow consumer."""
        self._link.outbox.offer(frame)

    def _pong(self, payload: bytes) -> None:
        # A pong answers its ping and all before it (RFC 6455 §5.5.3).
        flights = self._pings_in_flight
        if payload in flights:
            for earlier in list(flights):
                flight = flights.pop(earlier)
                flight.answered = True
                flight.event.set()
                if earlier == payload:
                    break

    def _peer_closed(self, code: int, reason: str | None) -> None:
        self._end(CloseReason(code, reason), close_frame(code))
        # Nothing more can come from a peer that has closed: what follows anyway is read and
        # forgotten, so that our Close reaches it.
        self._finish(linger=self._decoder.trailing)

    def _failed(self, failure: Failure) -> None:
        """Fail the connection (RFC 6455 §7.1.7): one Close frame, then no more reading."""
        code, reason = failure.code, failure.reason
        self._end(CloseReason(code, reason), close_frame(code, reason))
        self._finish(linger=True)

    def _finish(self, *, linger: bool) -> None:
        """The WebSocket is over; what is left is the socket's business."""
        self._over = True
        if self._gone is not None:
            self._gone.set()
        self._link.finish(linger=linger)

    def _end(self, reason: CloseReason, frame: bytes | None) -> None:
        """Set the close reason and send the Close frame, the first time only."""
        if self._reason is not None:
            return
        self._reason = reason
        self._link.outbox.shut_down()
        if frame is not None:
            self._close_sent = True
            self._link.outbox.write(frame)
        self._arrivals.wake_all()
        for flight in self._pings_in_flight.values():
            flight.event.set()
        self._desk.closed(self)
