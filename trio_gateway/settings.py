"""Every setting and its default, stated once.

One frozen class a concern. Counts and bytes are ``max_*``, seconds are ``*_timeout``, ``interval``
or ``grace``. A value that cannot be meant raises ValueError (TypeError for a wrong type) here, not
later in the middle of a connection.
"""

import math
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import attrs
from attrs.validators import ge, gt, instance_of, le, optional

_count = attrs.validators.and_(instance_of(int), ge(1))
_one_to_nine = attrs.validators.and_(_count, le(9))


def _seconds(_instance: Any, attribute: "attrs.Attribute[float]", value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{attribute.name} is a number of seconds, not {value!r}")
    if math.isnan(value) or value <= 0:
        raise ValueError(f"{attribute.name} is a positive number of seconds, not {value!r}")


def _per_second(_instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{attribute.name} is a number for each second, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{attribute.name} is a positive number, or None, not {value!r}")


MAX_CONNECTIONS_PER_KNOWN_USER = 100
"""Of one user whom a token vouches for, at ``python -m trio_gateway --auth jwt``."""


@attrs.frozen(kw_only=True)
class Limits:
    """What one peer, or all of them, may take.

    Attributes:
        max_connections: upgraded connections at once; more are refused with 503.
        gives_way: whether other processes accept from the same sockets; to them a full one leaves
            newcomers for a moment before it refuses any.
        max_connections_per_ip: the same for one address, refused with 429; None for no limit.
        max_connections_per_user: the same for one user that ``authenticate`` knows; None for no
            limit, for where names are taken at their word a stranger could use up somebody's.
        ipv6_prefix: the bits of an IPv6 address that one owner has: what counts as one address.
        max_pending_handshakes: sockets that have not finished their first request; more are
            refused with 503 as they come.
        max_head_bytes: request line and headers together.
        max_headers: header lines of a request.
        max_target_bytes: the request target.
        max_body_bytes: the body of a plain HTTP request.
        max_pending_bodies: such bodies being read at once; more are refused with 503.
        max_message_bytes: a message, in bytes, whatever it is made of.
        max_fragments: frames of one message.
        max_control_frames: pings and pongs of one peer in any second; more close it with 4429.
        max_queued_messages: messages waiting for a handler before reading pauses; None leaves
            it to ``max_queued_bytes``.
        max_queued_bytes: bytes waiting for a handler before reading pauses, every message
            counted with 64 bytes on top.
        max_early_bytes: bytes sent behind the request and kept until the upgrade is decided.
        max_outbox_bytes: bytes waiting for a peer before it is a slow consumer.
    """

    max_connections: int = attrs.field(default=100_000, validator=_count)
    gives_way: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    max_connections_per_ip: int | None = attrs.field(default=None, validator=optional(_count))
    max_connections_per_user: int | None = attrs.field(default=None, validator=optional(_count))
    ipv6_prefix: int = attrs.field(default=64, validator=attrs.validators.and_(_count, le(128)))
    max_pending_handshakes: int = attrs.field(default=20_000, validator=_count)
    max_head_bytes: int = attrs.field(default=16 * 1024, validator=_count)
    max_headers: int = attrs.field(default=100, validator=_count)
    max_target_bytes: int = attrs.field(default=8 * 1024, validator=_count)
    max_body_bytes: int = attrs.field(default=1024 * 1024, validator=_count)
    max_pending_bodies: int = attrs.field(default=256, validator=_count)
    max_message_bytes: int = attrs.field(default=1024 * 1024, validator=_count)
    max_fragments: int = attrs.field(default=1024, validator=_count)
    max_control_frames: int = attrs.field(default=100, validator=_count)
    max_queued_messages: int | None = attrs.field(default=None, validator=optional(_count))
    max_queued_bytes: int = attrs.field(default=128 * 1024, validator=_count)
    max_early_bytes: int = attrs.field(default=64 * 1024, validator=_count)
    max_outbox_bytes: int = attrs.field(default=1024 * 1024, validator=_count)


@attrs.frozen(kw_only=True)
class Rates:
    """How much may come in a second, from whom; None for no limit.

    The defaults are out of reach for people and for all but the busiest programs: they keep one
    client from taking the whole of a process, and no more. Where people chat, 10 or 20 messages a
    second are plenty.

    Attributes:
        messages_per_second: from one connection of the applications. One too many is answered with
            the error ``rate_limited``; who goes on, as many again, is closed with 4429.
        messages_per_second_per_user: from all connections of one user together, likewise.
        bytes_per_second: in messages of one connection; over it, reading waits.
        joins_per_second: rooms and topics joined by one connection.
        api_requests_per_second: to the HTTP API from one address; more get 429.
        burst_seconds: what a second allows, times this, may come at once.
    """

    messages_per_second: float | None = attrs.field(default=5_000, validator=_per_second)
    messages_per_second_per_user: float | None = attrs.field(default=10_000, validator=_per_second)
    bytes_per_second: float | None = attrs.field(default=2**23, validator=_per_second)
    joins_per_second: float | None = attrs.field(default=100, validator=_per_second)
    api_requests_per_second: float | None = attrs.field(default=5_000, validator=_per_second)
    burst_seconds: float = attrs.field(default=2.0, validator=_seconds)


def _networks(trusted: Iterable[str]) -> tuple[str, ...]:
    if isinstance(trusted, str):
        raise TypeError(f"trusted is a list of addresses, not {trusted!r}")
    return tuple(
        address if address == "unix" else str(ip_network(address, strict=False))
        for address in trusted
    )


@attrs.frozen(kw_only=True)
class Proxies:
    """The proxies in front, and what is believed of them.

    Attributes:
        trusted: their addresses and networks, ``"10.0.0.0/8"``; ``"unix"`` for whoever connects by
            a Unix socket. What they write into ``Forwarded`` and ``X-Forwarded-For`` is believed,
            and nobody else's.
        header: which of the two they write, ``"forwarded"`` or ``"x-forwarded-for"``; ``"any"`` for
            either, and 400 where both are there and name different clients.
        protocol: every connection begins with a PROXY protocol header, version 2. Whoever can
            connect can write one; with ``trusted``, only those may.
    """

    trusted: tuple[str, ...] = attrs.field(default=(), converter=_networks)
    header: str = attrs.field(
        default="any", validator=attrs.validators.in_(("any", "forwarded", "x-forwarded-for"))
    )
    protocol: bool = attrs.field(default=False, validator=instance_of(bool))


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long each phase of a socket's life may last, in seconds.

    Attributes:
        handshake_timeout: from the accept to a whole request, TLS included.
        authentication_timeout: for ``authenticate`` to say who an upgrade is for.
        decision_timeout: from the request to the handler's accept or reject, that included.
        body_timeout: from the head of a plain HTTP request to the end of its body.
        response_timeout: for an HTTP handler to answer.
        keep_alive_timeout: between two plain HTTP requests on one socket.
        send_timeout: without any progress while bytes wait to be sent.
        outbox_timeout: until all that waits has been sent, however it moves.
        closing_timeout: for the peer to answer a Close frame.
        linger_timeout: for the peer to hang up after our last byte.
    """

    handshake_timeout: float = attrs.field(default=10.0, validator=_seconds)
    authentication_timeout: float = attrs.field(default=10.0, validator=_seconds)
    decision_timeout: float = attrs.field(default=60.0, validator=_seconds)
    body_timeout: float = attrs.field(default=20.0, validator=_seconds)
    response_timeout: float = attrs.field(default=30.0, validator=_seconds)
    keep_alive_timeout: float = attrs.field(default=15.0, validator=_seconds)
    send_timeout: float = attrs.field(default=30.0, validator=_seconds)
    outbox_timeout: float = attrs.field(default=120.0, validator=_seconds)
    closing_timeout: float = attrs.field(default=10.0, validator=_seconds)
    linger_timeout: float = attrs.field(default=2.0, validator=_seconds)


@attrs.frozen(kw_only=True)
class Heartbeat:
    """How a silent peer is told from a dead one.

    Attributes:
        interval: seconds of silence before a ping; ``math.inf`` turns the heartbeat off.
        pong_timeout: seconds for any byte to come back before the connection is closed
            with 4408.
    """

    interval: float = attrs.field(default=25.0, validator=_seconds)
    pong_timeout: float = attrs.field(default=20.0, validator=_seconds)


@attrs.frozen(kw_only=True)
class Drain:
    """How a gateway goes away.

    Attributes:
        grace: seconds until whatever is left is ended hard.
        closes_per_second: connections told to leave each second, raised where the grace
            period would not be enough for all.
        min_retry: the least a client is told to wait, in seconds.
        max_retry: the most; each client is told a time drawn between the two.
    """

    grace: float = attrs.field(default=30.0, validator=_seconds)
    closes_per_second: float = attrs.field(default=200.0, validator=gt(0))
    min_retry: float = attrs.field(default=0.5, validator=_seconds)
    max_retry: float = attrs.field(default=5.0, validator=_seconds)

    def __attrs_post_init__(self) -> None:
        if self.max_retry < self.min_retry:
            raise ValueError("max_retry is less than min_retry")


@attrs.frozen(kw_only=True)
class Compression:
    """How messages are compressed for clients that offer permessage-deflate (RFC 7692).

    Attributes:
        level: zlib's, from 1 (fastest) to 9 (smallest).
        mem_level: zlib's, from 1 to 9: its memory, of which there is one for the whole gateway.
        max_window_bits: the base-2 logarithm of the window messages are compressed with, from 9
            to 15; a client can ask for less.
        min_bytes: a shorter message is sent uncompressed.
    """

    level: int = attrs.field(default=3, validator=_one_to_nine)
    mem_level: int = attrs.field(default=8, validator=_one_to_nine)
    max_window_bits: int = attrs.field(
        default=15, validator=attrs.validators.and_(instance_of(int), ge(9), le(15))
    )
    min_bytes: int = attrs.field(default=256, validator=_count)
