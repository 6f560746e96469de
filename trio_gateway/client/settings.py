"""Every setting of a client and its default, stated once."""

import math
from typing import Any

import attrs
from attrs.validators import ge, instance_of

_count = attrs.validators.and_(instance_of(int), ge(1))


def _seconds(_instance: Any, attribute: "attrs.Attribute[float]", value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{attribute.name} is a number of seconds, not {value!r}")
    if math.isnan(value) or value <= 0:
        raise ValueError(f"{attribute.name} is a positive number of seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class ClientSettings:
    """How patient a client is, and what it holds; times are seconds.

    Attributes:
        connect_timeout: for the token, TCP, TLS, the upgrade and the welcome together.
        publish_timeout: for an acknowledgement, however many connections it takes.
        backoff_base: the first wait is drawn from 0 to this, each later one from twice as much.
        backoff_cap: the most that a wait is drawn from.
        max_retry: the most that a server can ask a client to wait.
        stable_time: a connection that lived so long starts the back-off anew.
        heartbeat: the silence after which the client pings, where the server's welcome names none.
        heartbeat_grace: the silence after that ping until the link is dead.
        send_timeout: for the network to take one message.
        closing_timeout: for the server to answer our Close frame.
        max_queued: publications that wait for the ``async for``.
        max_message_size: characters of one frame.
    """

    connect_timeout: float = attrs.field(default=15.0, validator=_seconds)
    publish_timeout: float = attrs.field(default=60.0, validator=_seconds)
    backoff_base: float = attrs.field(default=0.5, validator=_seconds)
    backoff_cap: float = attrs.field(default=30.0, validator=_seconds)
    max_retry: float = attrs.field(default=300.0, validator=_seconds)
    stable_time: float = attrs.field(default=10.0, validator=_seconds)
    heartbeat: float = attrs.field(default=25.0, validator=_seconds)
    heartbeat_grace: float = attrs.field(default=10.0, validator=_seconds)
    send_timeout: float = attrs.field(default=20.0, validator=_seconds)
    closing_timeout: float = attrs.field(default=2.0, validator=_seconds)
    max_queued: int = attrs.field(default=256, validator=_count)
    max_message_size: int = attrs.field(default=2**22, validator=_count)
