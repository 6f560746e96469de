"""The outbox: bytes on their way to one peer, bounded, never awaited.

In: whole frames, offered by anybody. Out: the same bytes in the same order, through a sink that
takes what it can at once. The rule: an offer is taken whole or not at all, so nothing that is
cancelled, refused or slow can cut a frame in two.
"""

import enum
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from trio_gateway.transport.signal import WaitingTasks
from trio_gateway.transport.timers import Timers

_PIECE = 64 * 1024


class Verdict(enum.Enum):
    """What an outbox says of an offered frame."""

    ACCEPTED = "accepted"
    SLOW = "slow"
    CLOSED = "closed"


# A member of an enum is found by name each time; a delivery has no time for that.
_ACCEPTED = Verdict.ACCEPTED


class Lane(Protocol):
    """Takes frames without waiting; an outbox is one."""

    def offer(self, data: bytes, /) -> Verdict:
        """Take one or more complete frames whole, or say why not."""
        ...


class Sender(Protocol):
    """What an outbox writes to; a non-blocking socket is one."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Send what fits and return how many bytes that was.

        Where that is none, return 0 or raise BlockingIOError; another OSError says that it is
        broken.
        """
        ...


class Sink(Protocol):
    """Whose outbox it is; every call returns at once."""

    @property
    def sender(self) -> Sender:
        """Takes the bytes. Asked for once, so that a delivery goes straight to the socket."""
        ...

    def want_write(self) -> None:
        """See to it that ``Outbox.flush()`` is called when more may fit."""

    def overflowed(self) -> None:
        """An offer was refused: too much waits already."""

    def stalled(self) -> None:
        """Bytes wait, and nothing moved for the send timeout, or they wait too long already."""

    def abort(self) -> None:
        """Sending failed: the sender is broken."""


class Outbox:
    """A bounded send queue.

    Arguments:
        sink: has the sender, and is told what becomes of the bytes.
        max_bytes: what may wait before an offer is answered ``Verdict.SLOW``.
        timers: the wheel that watches for progress.
        send_timeout: seconds without progress until the sink is told that it is stalled.
        max_age: seconds until the sink is told so although it moves, because it never gets empty.

    Attributes:
        size: bytes that wait.
        closed: nothing is taken any more.
    """

    __slots__ = (
        "_behind_since",
        "_chunks",
        "_clear",
        "_emptied",
        "_max_age",
        "_moved",
        "_room",
        "_send_timeout",
        "_sender",
        "_shut",
        "_sink",
        "_timers",
        "closed",
        "max_bytes",
        "size",
        "timer_tick",
    )

    def __init__(
        self,
        sink: Sink,
        *,
        max_bytes: int,
        timers: Timers,
        send_timeout: float,
        max_age: float = math.inf,
    ) -> None:
        self._sink = sink
        self._sender = sink.sender
        # The same while nothing waits and offers are taken, else None: all that a delivery asks.
        self._clear: Sender | None = self._sender
        self._chunks: deque[bytes | memoryview] | None = None
        self._timers = timers
        self._send_timeout = send_timeout
        self._max_age = max_age
        self._behind_since = 0.0
        self._emptied: Callable[[], None] | None = None
        self._room: WaitingTasks | None = None
        self._moved = False
        self.max_bytes = max_bytes
        self.size = 0
        self.closed = False
        self._shut = False
        self.timer_tick = 0

    @property
    def shut(self) -> bool:
        """Whether no offer is taken any more; what has to be written still is."""
        return self._shut

    def shut_down(self) -> None:
        """Take no more offers; what waits is still sent. Idempotent."""
        self._shut = True
        self._clear = None

    def offer(self, data: bytes) -> Verdict:
        """Take ``data`` whole, or say why not; never waits.

        ``SLOW`` means that earlier bytes wait and these would exceed ``max_bytes``; the sink is
        told. ``CLOSED`` means that it is broken, closed or ``shut``.
        """
        sender = self._clear
        if sender is None:
            return self._offer_behind(data)
        # The whole of a delivery, for nearly all of them: this is what a fan-out calls.
        try:
            sent = sender.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._fail()
            return Verdict.CLOSED
        if sent != len(data):
            self._keep(data, sent)
        return _ACCEPTED

    def write(self, data: bytes) -> Verdict:
        """As ``offer``, for what must not be refused: an HTTP answer, a Close frame."""
        if self._clear is None:  # else there is nothing to look at
            if self.closed:
                return Verdict.CLOSED
            if self._chunks:
                self._chunks.append(data)
                self.size += len(data)
                return _ACCEPTED
        try:
            sent = self._sender.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._fail()
            return Verdict.CLOSED
        if sent != len(data):
            self._keep(data, sent)
        return _ACCEPTED

    def _offer_behind(self, data: bytes) -> Verdict:
        """Take an offer behind bytes that wait, unless it is too much or too late."""
        if self._shut:
            return Verdict.CLOSED
        if self.size + len(data) > self.max_bytes:
            self._sink.overflowed()
            return Verdict.SLOW
        return self.write(data)

    def flush(self) -> None:
        """Send what fits now; called by whoever watches the sink."""
        chunks = self._chunks
        while chunks and self.size:
            self._join()
            try:
                sent = self._sender.send(chunks[0])
            except BlockingIOError:
                break
            except OSError:
                self._fail()
                return
            if not sent:
                break
            self._sent(sent)
        if self.size:
            self._sink.want_write()

    def take(self) -> bytes | memoryview:
        """Return the next piece of what waits, for a writer that sends by itself.

        The writer reports with ``took(len(...))`` once it is sent: until then it counts as waiting.
        """
        assert self._chunks is not None
        self._join()
        return memoryview(self._chunks[0])[:_PIECE]

    def took(self, sent: int) -> None:
        """Count ``sent`` bytes of what ``take`` returned as gone."""
        if not self.closed:
            self._sent(sent)

    async def room(self, below: int) -> None:
        """Wait until at most ``below`` bytes wait, or the outbox is closed.

        Cancellation is safe: nothing was queued by this call.
        """
        while self.size > below and not self.closed:
            if self._room is None:
                self._room = WaitingTasks()
            await self._room.wait()

    def when_empty(self, action: Callable[[], None]) -> None:
        """Call ``action`` once nothing waits, perhaps at once."""
        if self.size:
            self._emptied = action
        else:
            action()

    def close(self) -> None:
        """Forget what waits and wake whoever waits for room; idempotent."""
        if not self.closed:
            self.closed = True
            self.shut_down()
            self.size = 0
            self._chunks = None
            self._emptied = None
            self._timers.disarm(self)
            # Each has the other: with this both would stay until the garbage collector comes.
            del self._sink
            self._wake()

    def expire(self) -> None:
        """The wheel's call: was there any progress, and is there an end in sight?"""
        moved, self._moved = self._moved, False
        self._timers.arm(self, self._send_timeout)
        if not moved or trio.current_time() >= self._behind_since + self._max_age:
            self._sink.stalled()

    def _keep(self, data: bytes, sent: int) -> None:
        """Begin to wait with what did not fit."""
        self._clear = None
        self._chunks = deque((memoryview(data)[sent:] if sent else data,))
        self.size = len(data) - sent
        self._behind_since = trio.current_time()
        self._timers.arm(self, self._send_timeout)
        self._sink.want_write()

    def _join(self) -> None:
        """Make one piece of many small ones, so that one system call sends them all."""
        chunks = self._chunks
        if chunks is not None and len(chunks) > 1 and len(chunks[0]) < _PIECE:
            joined = b"".join(chunks)
            chunks.clear()
            chunks.append(joined)

    def _sent(self, count: int) -> None:
        chunks = self._chunks
        assert chunks is not None
        self.size -= count
        self._moved = True
        while count:
            first = chunks[0]
            if count < len(first):
                chunks[0] = memoryview(first)[count:]
                break
            count -= len(first)
            chunks.popleft()
        if not self.size:
            self._chunks = None
            self._clear = None if self._shut else self._sender
            self._moved = False
            self._timers.disarm(self)
            if self._emptied is not None:
                action, self._emptied = self._emptied, None
                action()
        self._wake()

    def _wake(self) -> None:
        if self._room is not None:
            self._room.wake_all()

    def _fail(self) -> None:
        sink = self._sink
        self.close()
        sink.abort()
