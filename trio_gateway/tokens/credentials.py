"""Where a client shows its token.

In: an upgrade. Out: its token, or the refusal of a client that shows none, or two. The rule: there
is one token or there is none; a proxy in front may have looked at the other.
"""

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import attrs

from trio_gateway.handshake.authentication import BEARER
from trio_gateway.handshake.refusal import Refusal

if TYPE_CHECKING:
    from trio_gateway.handshake.upgrade import Upgrade

_AUTHORIZATION = re.compile(rb"(?i:bearer) +([^ ]+)")
_MISSING = Refusal(
    401,
    "missing_token",
    "send a token: Authorization: Bearer TOKEN, ?token=TOKEN, or the subprotocols bearer, TOKEN",
    (("WWW-Authenticate", "Bearer"),),
)
_SEVERAL = Refusal(
    400,
    "several_tokens",
    "send one token, in one place",
    (("WWW-Authenticate", 'Bearer error="invalid_request"'),),
)


@attrs.frozen
class Credentials:
    """What a client shows.

    Attributes:
        token: as it was sent; ASCII or not.
        subprotocol: ``bearer`` where it was offered with the token, and is to be answered.
    """

    token: str = attrs.field(repr=False)
    subprotocol: str | None


def credentials_of(upgrade: "Upgrade") -> Credentials | Refusal:
    """Find the token of an upgrade (RFC 6750 §2, and what a browser can set)."""
    head = upgrade.head
    tokens: set[str] = set()
    count = 0
    for name, value in head.headers:
        if name == b"authorization":
            count += 1
            shown = _AUTHORIZATION.fullmatch(value)
            if shown is not None:  # another scheme is for somebody else, a proxy perhaps
                tokens.add(shown[1].decode("latin-1"))
    if count > 1:
        return _SEVERAL
    if "token=" in head.query_string or "%" in head.query_string:
        pairs = parse_qsl(head.query_string, keep_blank_values=True)
        tokens.update(value for name, value in pairs if name == "token")
    subprotocol = None
    offered = () if head.websocket is None else head.websocket.subprotocols
    if BEARER in offered[:-1]:
        subprotocol = BEARER
        tokens.add(offered[offered.index(BEARER) + 1])
    if len(tokens) > 1:
        return _SEVERAL
    return Credentials(tokens.pop(), subprotocol) if tokens else _MISSING
