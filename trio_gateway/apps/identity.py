"""Who is there: from an upgrade to an identity, or to a refusal.

In: an upgrade that nobody has decided. Out: an ``Identity``, or the ``Refusal`` to answer with. The
rule: whoever may not come in is told so before the 101, in HTTP, where a program can read why.
"""

import random
import string
from collections.abc import Awaitable, Callable

import attrs

from trio_gateway.apps.session import UpgradeLike
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.wire import MAX_USER, InvalidField, check_name

_ALPHABET = string.ascii_lowercase + string.digits


@attrs.frozen
class Identity:
    """Who a connection speaks for.

    Attributes:
        user: the name that others see, 1 to 64 printable characters.
    """

    user: str


Authenticate = Callable[[UpgradeLike], Awaitable[Identity | Refusal]]
"""An async function that says who an upgrade is for; it decides nothing on the upgrade itself."""


async def anyone(upgrade: UpgradeLike) -> Identity | Refusal:
    """Take ``?user=NAME`` at its word, or make up a guest (``--auth none``).

    Returns a 400 for a name that cannot be one. Holds no checkpoint.
    """
    name = upgrade.query.get("user")
    if name is None:
        return Identity(guest_name())
    try:
        check_name("user", name, MAX_USER)
    except InvalidField as error:
        return Refusal(400, "invalid_field", f"the query parameter {error}")
    return Identity(name)


def guest_name() -> str:
    """Return ``guest-`` and six random characters."""
    return "guest-" + "".join(random.choices(_ALPHABET, k=6))
