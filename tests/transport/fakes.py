"""Links without sockets, and a way to run on virtual time inside a Hypothesis test."""

import errno
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.testing
from trio_websocket import Endpoint

from trio_gateway.settings import Timeouts
from trio_gateway.transport.link import Link, LinkSetup, Receiver
from trio_gateway.transport.outbox import Sender
from trio_gateway.transport.timers import Timers

T = TypeVar("T")
PEER = ("192.0.2.7", 50_000)
LOCAL = ("192.0.2.1", 443)


def on_virtual_time(function: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Run an async function in a run of its own, whose clock jumps."""
    return trio.run(function, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))


def link_setup(
    *,
    timers: Timers | None = None,
    timeouts: Timeouts | None = None,
    max_outbox_bytes: int = 1024 * 1024,
    max_read: int | None = None,
    not_tls: bytes = b"not TLS",
    ended: Callable[[Link], None] | None = None,
) -> LinkSetup:
    """Return what links share, with nobody who minds their end."""
    return LinkSetup(
        timers=Timers() if timers is None else timers,  # an empty wheel is false
        timeouts=timeouts or Timeouts(),
        max_outbox_bytes=max_outbox_bytes,
        max_read=max_read,
        not_tls=not_tls,
        ended=ended or nothing,
    )


def nothing(*_: object) -> None:
    """Do nothing with whatever it is."""


def url(address: Endpoint | str) -> str:
    """Return an endpoint in a form that can be compared."""
    return address.url if isinstance(address, Endpoint) else address


class FakeLink(Link):
    """A link whose peer is a ``bytearray``.

    Attributes:
        sent: what the peer has got.
        capacity: bytes that still fit.
        broken: sending fails.
        paused: nobody reads.
        wants_write: ``outbox.flush()`` is asked for.
        eof_sent: the peer was told that no more will come.
        closes: how often the socket was closed; never more than once.
    """

    def __init__(
        self, setup: LinkSetup | None = None, *, peer: Any = PEER, capacity: float = math.inf
    ) -> None:
        self.sent = bytearray()
        self.capacity = capacity
        self.broken = False
        self.paused = False
        self.wants_write = False
        self.eof_sent = False
        self.closes = 0
        super().__init__(setup or link_setup(), peer=peer, local=LOCAL, is_ssl=False)

    @property
    def sender(self) -> Sender:
        return self

    def send(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise BrokenPipeError(errno.EPIPE, "the peer is gone")
        fitting = int(min(self.capacity, len(data)))
        self.capacity -= fitting
        self.sent += data[:fitting]
        return fitting

    def read(self) -> bytes:
        """Return what the peer has got since the last call."""
        sent = bytes(self.sent)
        self.sent.clear()
        return sent

    def make_room(self, capacity: float = math.inf) -> None:
        """The peer reads: so many bytes more fit, and who waits to write is told."""
        self.capacity += capacity
        if self.wants_write:
            self.wants_write = False
            self.outbox.flush()

    def want_write(self) -> None:
        self.wants_write = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def _send_eof(self) -> None:
        self.eof_sent = True

    def _close(self) -> None:
        self.closes += 1


class Recorder(Receiver):
    """A phase that writes down what happens to it.

    Arguments:
        reaction: called with each event's name; may raise, or do anything to the link.
    """

    def __init__(self, reaction: Callable[[str], object] | None = None) -> None:
        self.events: list[str | bytes] = []
        self._reaction = reaction or nothing

    def _note(self, event: str | bytes) -> None:
        self.events.append(event)
        self._reaction("feed" if isinstance(event, bytes) else event)

    def feed(self, data: bytes) -> None:
        self._note(data)

    def feed_eof(self) -> None:
        self._note("eof")

    def lost(self) -> None:
        self._note("lost")

    def expired(self) -> None:
        self._note("expired")

    def leave(self) -> None:
        self._note("leave")

    def stalled(self) -> None:
        self._note("stalled")


class Thing:
    """Something that a link holds."""

    def __init__(self) -> None:
        self.closes = 0

    def close(self) -> None:
        self.closes += 1
