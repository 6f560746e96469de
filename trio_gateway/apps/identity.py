"""Who is there and what they may do, as the applications ask it where nobody says otherwise.

In: an upgrade that nobody has decided; an identity with its claims. Out: an ``Identity`` or
a ``Refusal``; yes or no. The rules: an identity that the gateway has vouched for is taken, and
nothing else beside it; a claim that cannot be understood allows nothing.
"""

import random
import string
from typing import TYPE_CHECKING, Any

from trio_gateway.handshake.authentication import Action, Authenticate, Authorize, Identity
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.wire import InvalidField

if TYPE_CHECKING:
    from trio_gateway.apps.session import UpgradeLike

__all__ = [
    "Action",
    "Authenticate",
    "Authorize",
    "Identity",
    "anyone",
    "by_claims",
    "guest_name",
    "vouched_for",
]

_ALPHABET = string.ascii_lowercase + string.digits
_CLAIM_OF = {"chat": "rooms", "topic": "topics"}


async def anyone(upgrade: "UpgradeLike") -> Identity | Refusal:
    """Take ``?user=NAME`` at its word, or make up a guest (``--auth none``).

    Returns a 400 for a name that cannot be one. Holds no checkpoint.
    """
    name = upgrade.query.get("user")
    try:
        return Identity(guest_name() if name is None else name)
    except InvalidField as error:
        return Refusal(400, "invalid_field", f"the query parameter {error}")


async def vouched_for(upgrade: "UpgradeLike") -> Identity | Refusal:
    """Take the gateway's ``authenticate`` at its word; where it has none, ``anyone()`` may come."""
    return upgrade.identity or await anyone(upgrade)


async def by_claims(identity: Identity, action: Action, topic: str) -> bool:
    """Allow what the claims of a token leave; without a claim about it, everything.

    ``rooms`` lists the rooms of the chat and ``topics`` the shared topics of the notifications:
    names, or beginnings with ``*`` behind them, ``"team-*"``. ``publish`` is false for who may only
    listen, or such a list of the rooms they may speak in. A user's own stream is theirs alone.
    Holds no checkpoint.
    """
    kind, _, name = topic.partition(":")
    if kind == "user":
        return name == identity.user
    claims = identity.claims
    if not claims or action is Action.CONNECT:
        return True
    if action is Action.PUBLISH and not _allows(claims.get("publish", True), name):
        return False
    return _allows(claims.get(_CLAIM_OF.get(kind, kind), True), name)


def guest_name() -> str:
    """Return ``guest-`` and six random characters."""
    return "guest-" + "".join(random.choices(_ALPHABET, k=6))


def _allows(claim: Any, name: str) -> bool:
    if isinstance(claim, str):
        claim = [claim]
    if isinstance(claim, list):
        return any(isinstance(pattern, str) and _matches(pattern, name) for pattern in claim)
    return claim is True


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
