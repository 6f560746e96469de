"""The first phase of every socket: from its first byte to a request head.

In: bytes. Out: one call of the desk, with a head or a refusal. The rule: a peer that sends nothing,
or never finishes, costs this object and a deadline.
"""

from typing import Protocol

from trio_gateway.handshake.admission import Place
from trio_gateway.handshake.head import HeadReader, RequestHead
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.settings import Limits
from trio_gateway.transport.link import Link, Receiver
from trio_gateway.transport.proxy_protocol import NotConveyed, read_header

_TOO_LATE = Refusal(408, "handshake_timeout", "the request took too long; send it at once")


class Desk(Protocol):
    """Who takes what the intake has read."""

    def requested(self, link: Link, head: RequestHead, rest: bytes) -> None:
        """A whole head, and the bytes behind it."""

    def refused(self, link: Link, refusal: Refusal) -> None:
        """No request will come of this; answer and close."""


class Intake(Receiver):
    """Reads one request head.

    Arguments:
        link: the socket.
        desk: who is told.
        limits: the bounds of a head.
        place: held until the head is read.
        fresh: whether this is the socket's first request; a later one that never comes is
            closed without an answer, as RFC 9112 §9.5 lets a server do.
    """

    __slots__ = ("_begun", "_desk", "_fresh", "_link", "_place", "_reader")

    def __init__(
        self, link: Link, desk: Desk, limits: Limits, place: Place, *, fresh: bool = True
    ) -> None:
        self._link = link
        self._place = place
        self._desk = desk
        self._fresh = fresh
        self._begun = False
        self._reader = HeadReader(
            max_head_bytes=limits.max_head_bytes,
            max_headers=limits.max_headers,
            max_target_bytes=limits.max_target_bytes,
        )

    def feed(self, data: bytes) -> None:
        """Read on."""
        self._begun = True
        result = self._reader.feed(data)
        if result is None:
            return
        if isinstance(result, Refusal):
            self._refuse(result)
        else:
            self._place.close()
            self._desk.requested(self._link, result, self._reader.rest)

    def feed_eof(self) -> None:
        """No request will come: there is nobody to answer."""
        self._link.abort()

    def lost(self) -> None:
        """The peer is gone."""
        self._place.close()

    def expired(self) -> None:
        """The request took too long."""
        if self._fresh or self._begun:
            self._refuse(_TOO_LATE)
        elif self._link.outbox.size:
            # The answer before is still on its way, and the outbox has clocks of its own.
            self._link.deadline(self._link.timeouts.keep_alive_timeout)
        else:
            self._link.abort()

    def stalled(self) -> None:
        """The answer to the request before this one does not move."""
        self._link.abort()

    def drain(self, refusal: Refusal) -> None:
        """The gateway goes away: answer what has begun, drop what has not."""
        if self._begun:
            self._refuse(refusal)
        else:
            self._link.abort()

    def _refuse(self, refusal: Refusal) -> None:
        self._place.close()
        self._desk.refused(self._link, refusal)


class PrefacedIntake(Intake):
    """Reads a PROXY protocol header, then a request head, within the same time."""

    __slots__ = ("_preface",)

    def __init__(self, link: Link, desk: Desk, limits: Limits, place: Place) -> None:
        super().__init__(link, desk, limits, place)
        self._preface: bytearray | None = bytearray()

    def feed(self, data: bytes) -> None:
        """Read on."""
        preface = self._preface
        if preface is None:
            super().feed(data)
            return
        self._begun = True
        preface += data
        try:
            conveyed = read_header(preface)
        except NotConveyed as error:
            message = f"connections begin with a PROXY protocol header here; this has {error}"
            self._refuse(Refusal(400, "bad_proxy_header", message))
            return
        if isinstance(conveyed, int):
            return
        self._preface = None
        if conveyed.address is not None:
            self._link.conveyed(conveyed.address)
        if rest := bytes(preface[conveyed.size :]):
            super().feed(rest)
