"""How a client is told what to do, and how it tells what it does."""

import random
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypedDict

import attrs
import trio

from trio_gateway.client.backoff import Uniform
from trio_gateway.client.errors import ClientError
from trio_gateway.client.settings import ClientSettings
from trio_gateway.hub.positions import Position

Token: TypeAlias = str | Callable[[], Awaitable[str]]
Connect: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]


@attrs.frozen
class Connecting:
    """A connection is being made."""


@attrs.frozen
class Live:
    """Publications come as they happen.

    Attributes:
        user: who we are to the server.
        connection: the server's name for this connection, for its logs.
    """

    user: str
    connection: str


@attrs.frozen
class Waiting:
    """The next attempt is made later.

    Attributes:
        until: then, on Trio's clock.
        why: how the last one ended.
    """

    until: float
    why: str


@attrs.frozen
class Closed:
    """There will be no more connection.

    Attributes:
        error: why, or None where the program left.
    """

    error: ClientError | None


State: TypeAlias = Connecting | Live | Waiting | Closed


@attrs.frozen(kw_only=True)
class Options:
    """How a client gets to its server; what ``connect_chat()`` and its sister are given.

    Attributes:
        token: shown as a bearer token; a callable is asked anew for each connection.
        since: the position to go on from, or None to begin with what comes.
        ssl_context: for ``wss``; None for the system's certificates.
        connect: returns a stream to the server, instead of what the URL says.
        on_state: called with every new state; it must not raise.
        uniform: draws the waits from a range.
        settings: patience and sizes.
    """

    token: Token | None = attrs.field(default=None, repr=False)
    since: Position | None = None
    ssl_context: ssl.SSLContext | None = None
    connect: Connect | None = None
    on_state: Callable[[State], None] | None = None
    uniform: Uniform = random.uniform
    settings: ClientSettings = attrs.field(factory=ClientSettings)


class ClientOptions(TypedDict, total=False):
    """``Options``, as keyword arguments."""

    token: Token | None
    since: Position | None
    ssl_context: ssl.SSLContext | None
    connect: Connect | None
    on_state: Callable[[State], None] | None
    uniform: Uniform
    settings: ClientSettings
