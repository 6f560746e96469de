"""Who an upgrade is for, and what they may do: the two questions an application answers.

In: an upgrade that nobody has decided; an identity, an action and a topic. Out: an ``Identity`` or
the ``Refusal`` to answer with; yes or no. The rule: whoever may not come in is told so before the
101, in HTTP, where a program can read why; and who nobody has vouched for is nobody.
"""

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from trio_gateway.handshake.origins import SAME_HOST
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.wire import MAX_USER, check_name

if TYPE_CHECKING:
    from trio_gateway.handshake.upgrade import Upgrade

BEARER = "bearer"
"""The subprotocol that says: the next one is my token."""

_NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})
OVERDUE = Refusal(
    503, "authentication_timeout", "who you are took too long to find out", (("Retry-After", "5"),)
)
"""The answer where ``Timeouts.authentication_timeout`` has passed."""


def _is_user(_instance: object, _attribute: object, value: str) -> None:
    check_name("user", value, MAX_USER)


@attrs.frozen
class Identity:
    """Who a connection speaks for.

    Attributes:
        user: the name that others see, 1 to 64 printable characters.
        claims: what else was vouched for, for ``Authorize``; the claims of a token.
        expires: when the connection is closed with 4401, in seconds since 1970; None for never.
        subprotocol: what ``Upgrade.accept()`` answers where the handler names none; a browser
            insists on one of those it offered.

    Raises:
        InvalidField: the user's name cannot be one (also a ValueError).
    """

    user: str = attrs.field(validator=_is_user)
    claims: Mapping[str, Any] = attrs.field(default=_NO_CLAIMS, repr=False, hash=False)
    expires: float | None = None
    subprotocol: str | None = None


class Action(enum.StrEnum):
    """What somebody is about to do with a topic.

    Attributes:
        CONNECT: open a connection; the topic is the endpoint, ``chat`` or ``notifications``.
        SUBSCRIBE: join a room, receive a stream.
        PUBLISH: say something there.
        READ: ask for its history or its members.
    """

    CONNECT = "connect"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    READ = "read"


Authenticate = Callable[["Upgrade"], Awaitable[Identity | Refusal]]
"""An async function that says who an upgrade is for; it decides nothing on the upgrade itself.

It has ``Timeouts.authentication_timeout`` seconds and is cancelled then, or when the peer is turned
away by a drain; what it raises is logged and answered with 500. Where it reads what a browser sends
unasked (cookies, an address, client certificates), pages of other hosts must be kept out: that is
the default unless it has an attribute ``ambient`` that is False.
"""

Authorize = Callable[[Identity, Action, str], Awaitable[bool]]
"""An async function that says whether somebody may do something with a topic of the hub.

Topics are ``chat:ROOM``, ``user:NAME``, ``topic:NAME``. It is asked each time, in the connection's
own task: while it waits, that connection waits and nobody else. Cancelled, nothing has been done.
"""


def default_origins(authenticate: Authenticate) -> tuple[str, ...] | None:
    """Return where pages may come from where nobody has said it: None for anywhere.

    What a browser sends unasked (a cookie, its place in the network) speaks for its user whatever
    page it shows, so only pages of the same host may use it; a token is the page's own doing.
    """
    return None if getattr(authenticate, "ambient", True) is False else (SAME_HOST,)


def without_token(offered: Sequence[str]) -> tuple[str, ...]:
    """Return the subprotocols without the token behind ``bearer``, which is nobody's to see."""
    names = list(offered)
    if BEARER in names:
        del names[names.index(BEARER) + 1 : names.index(BEARER) + 2]
    return tuple(names)
