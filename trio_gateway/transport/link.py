"""A link: one accepted socket, from the accept to its last byte.

In: bytes, an end of file, a broken socket, a deadline, from whichever source reads the socket.
Out: calls of the one *receiver* that stands for the present phase of the socket's life (a request
head, an HTTP exchange, an upgrade, a connection, the lingering close). The rules: a link has one
receiver at a time, ends exactly once, and whatever was held for it is given back then.
"""

import enum
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
from trio_websocket import Endpoint

from trio_gateway.settings import Timeouts
from trio_gateway.transport.addresses import endpoint, plain_address
from trio_gateway.transport.outbox import Outbox, Sender
from trio_gateway.transport.timers import Timers

_log = logging.getLogger("trio_gateway")
# Above what a client has on its way when it is told 1009 or 413: Node's gives up at the RST unread.
_MAX_LINGER_BYTES = 16 * 1024 * 1024


class Receiver:
    """One phase of a socket's life; every call returns at once."""

    __slots__ = ()

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer, never empty."""

    def feed_eof(self) -> None:
        """The peer will send no more."""

    def lost(self) -> None:
        """The link is gone; nothing can be sent or received any more. The last call."""

    def expired(self) -> None:
        """The deadline set with ``Link.deadline()`` has passed."""

    def overflowed(self) -> None:
        """More was offered than may wait for the peer."""

    def leave(self) -> None:
        """The gateway is cancelled: say goodbye, as far as that goes without waiting."""

    def stalled(self) -> None:
        """Bytes wait to be sent and nothing moved for ``Timeouts.send_timeout``."""


class Held(Protocol):
    """Something a link holds for its lifetime."""

    def close(self) -> None:
        """Give it back; idempotent, never raises."""


class _State(enum.Enum):
    OPEN = enum.auto()
    FINISHING = enum.auto()
    ENDED = enum.auto()


@attrs.frozen(kw_only=True)
class LinkSetup:
    """What all links of one gateway share.

    Attributes:
        timers: the wheel of their deadlines.
        timeouts: their phases' time limits.
        max_outbox_bytes: what may wait for a peer.
        max_read: bytes read at once; None for a sensible number.
        not_tls: what is answered to plain HTTP on a TLS port.
        proxy_protocol: whether a PROXY protocol header comes first, before TLS too.
        ended: called once with each link, when it has ended.
        about: returns what logs say of a link beside its address.
    """

    timers: Timers
    timeouts: Timeouts
    max_outbox_bytes: int
    max_read: int | None
    not_tls: bytes
    ended: "Callable[[Link], None]"
    proxy_protocol: bool = False
    about: "Callable[[Link], Mapping[str, str]] | None" = None


class Link(ABC):
    """One accepted socket, whatever reads and writes it.

    Attributes:
        receiver: the present phase; assign it to enter the next.
        outbox: the way out.
        eof: whether the peer has said that it will send no more.
        peer: the peer's socket address as the accept gave it.
    """

    __slots__ = (
        "__weakref__",
        "_about",
        "_client",
        "_conveyed",
        "_ended",
        "_held",
        "_state",
        "eof",
        "is_ssl",
        "local_peer",
        "outbox",
        "peer",
        "receiver",
        "timeouts",
        "timer_tick",
        "timers",
    )

    def __init__(self, setup: LinkSetup, *, peer: Any, local: Any, is_ssl: bool) -> None:
        self.receiver: Receiver = Receiver()
        self.timers = setup.timers
        self.timeouts = setup.timeouts
        self._ended = setup.ended
        self._about = setup.about
        self.timer_tick = 0
        self.peer = peer
        self._conveyed: str | None = None
        self._client: str | None = None
        self.local_peer = local
        self.is_ssl = is_ssl
        self.eof = False
        self._state = _State.OPEN
        self._held: tuple[Held, ...] = ()
        self.outbox = Outbox(
            self,
            max_bytes=setup.max_outbox_bytes,
            timers=setup.timers,
            send_timeout=setup.timeouts.send_timeout,
            max_age=setup.timeouts.outbox_timeout,
        )

    # What a kind of socket must bring.

    @property
    @abstractmethod
    def sender(self) -> Sender:
        """What the outbox writes to."""

    @abstractmethod
    def want_write(self) -> None:
        """Have ``outbox.flush()`` called when more may fit."""

    @abstractmethod
    def pause(self) -> None:
        """Stop reading until ``resume()``; idempotent."""

    @abstractmethod
    def resume(self) -> None:
        """Read again; idempotent."""

    @abstractmethod
    def _send_eof(self) -> None:
        """Tell the peer that no more will come, where the transport can."""

    @abstractmethod
    def _close(self) -> None:
        """Give the descriptor or stream back; called once."""

    # What every phase uses.

    def let_in(self) -> None:  # noqa: B027 - most kinds have no lobby
        """Its peer is no newcomer any more, but one of those who don't wait behind newcomers."""

    @property
    def ended(self) -> bool:
        """Whether the link is gone."""
        return self._state is _State.ENDED

    @property
    def remote(self) -> Endpoint | str:
        """The peer's endpoint; never raises."""
        return endpoint(self.peer, is_ssl=self.is_ssl)

    @property
    def local(self) -> Endpoint | str:
        """Our endpoint; never raises."""
        return endpoint(self.local_peer, is_ssl=self.is_ssl)

    @property
    def hop(self) -> str:
        """The address, without its port, of the peer or of whom the PROXY protocol names."""
        if self._conveyed is not None:
            return self._conveyed
        peer = self.peer
        return plain_address(str(peer[0])) if isinstance(peer, tuple) and peer else "unix"

    @property
    def address(self) -> str:
        """The client's address without its port, as limits and logs have it.

        The peer's, unless a proxy that is trusted speaks for somebody else.
        """
        return self._client or self.hop

    def conveyed(self, address: str) -> None:
        """The PROXY protocol says who is at the other end of the proxy."""
        self._conveyed = address

    def speaks_for(self, address: str) -> None:
        """The headers of a trusted proxy say who the present request is from."""
        self._client = address

    def hold(self, held: Held) -> None:
        """Have ``held.close()`` called when the link ends, whatever way it ends."""
        if self._state is _State.ENDED:
            held.close()
        else:
            self._held = (*self._held, held)

    def deadline(self, seconds: float) -> None:
        """Call ``receiver.expired()`` in so many seconds; replaces the earlier deadline."""
        if self._state is not _State.ENDED:
            self.timers.arm(self, seconds)

    def no_deadline(self) -> None:
        """Forget the deadline."""
        self.timers.disarm(self)

    def expire(self) -> None:
        """The wheel's call."""
        self._contain(self.receiver.expired)

    def feed(self, data: bytes) -> None:
        """Hand bytes to the present phase; an exception there ends this link alone."""
        try:
            self.receiver.feed(data)
        except Exception:
            self.failed()

    def feed_eof(self) -> None:
        """Tell the present phase that the peer will send no more; the first time only."""
        if not self.eof:
            self.eof = True
            self._contain(self.receiver.feed_eof)

    def enter(self, receiver: Receiver, rest: bytes = b"") -> None:
        """Begin the next phase: ``receiver`` gets what came behind the last one, then the peer's.

        Arguments:
            receiver: the new phase.
            rest: bytes that were read before it began.
        """
        self.receiver = receiver
        self.resume()
        if rest:
            self.feed(rest)
        if self.eof and self.receiver is receiver:
            self._contain(receiver.feed_eof)

    def finish(self, *, linger: bool = True) -> None:
        """Send what waits, then close.

        With ``linger`` input is read and thrown away until the peer hangs up or
        ``Timeouts.linger_timeout`` has passed: closing a socket with unread input sends RST,
        which can destroy the answer on its way (RFC 9112 §9.6).
        """
        if self._state is _State.OPEN:
            self._state = _State.FINISHING
            self.receiver = _Lingering(self, linger=linger)
            self.resume()
            if self.outbox.size:
                self.deadline(self.timeouts.closing_timeout)
            self.outbox.when_empty(self._emptied)

    def abort(self) -> None:
        """Close now; what waits is thrown away. Idempotent."""
        if self._state is _State.ENDED:
            return
        self._state = _State.ENDED
        self.timers.disarm(self)
        self.outbox.close()
        receiver, self.receiver = self.receiver, Receiver()
        held, self._held = self._held, ()
        try:
            receiver.lost()
        except Exception:
            _log.exception("the end of a connection failed")
        finally:
            for thing in held:
                thing.close()
            self._close()
            self._ended(self)

    def _emptied(self) -> None:
        receiver = self.receiver
        if isinstance(receiver, _Lingering):
            receiver.sent_all()

    def linger(self) -> None:
        """Say that no more will come, and wait a moment for the peer to hang up."""
        self._send_eof()
        self.deadline(self.timeouts.linger_timeout)

    def overflowed(self) -> None:
        """The outbox's call: an offer was refused."""
        self._contain(self.receiver.overflowed)

    def stalled(self) -> None:
        """The outbox's call: nothing moved for ``Timeouts.send_timeout``."""
        self._contain(self.receiver.stalled)

    def _contain(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            self.failed()

    def failed(self) -> None:
        """Report the exception being handled and end this link alone."""
        about = {} if self._about is None else self._about(self)
        _log.exception("connection from %s failed", self.address, extra=about)
        self.abort()


class _Lingering(Receiver):
    """After our last byte: read and forget until the peer hangs up."""

    __slots__ = ("_link", "_linger", "_read", "_sent", "_unsent")

    def __init__(self, link: Link, *, linger: bool) -> None:
        self._link = link
        self._linger = linger
        self._sent = False
        self._unsent = link.outbox.size
        self._read = 0

    def sent_all(self) -> None:
        self._sent = True
        if self._linger and not self._link.eof:
            self._link.linger()
        else:
            self._link.abort()

    def feed(self, data: bytes) -> None:
        self._read += len(data)
        if self._read > _MAX_LINGER_BYTES:
            self._link.abort()

    def feed_eof(self) -> None:
        if self._sent:
            self._link.abort()

    def expired(self) -> None:
        unsent = self._link.outbox.size
        if self._sent or unsent >= self._unsent:
            self._link.abort()
        else:  # slow, but it reads
            self._unsent = unsent
            self._link.deadline(self._link.timeouts.closing_timeout)

    def stalled(self) -> None:
        self._link.abort()
