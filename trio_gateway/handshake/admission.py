"""Who may come in: caps and origins, decided before an upgrade costs anything.

In: a peer's address, its request head. Out: a ``Place`` or a ``Refusal``. The rule: a place is a
context manager that gives back exactly once what it took, so that no counter can leak whatever
becomes of the socket.
"""

from collections import Counter
from collections.abc import Collection
from types import TracebackType
from typing import Self

from trio_gateway.handshake.head import RequestHead
from trio_gateway.handshake.origins import Origins
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.settings import Limits
from trio_gateway.transport.addresses import owned_by

_RETRY_SOON = ("Retry-After", "5")


class Place:
    """Something taken from counters, given back on ``close()`` or at the end of a ``with``."""

    __slots__ = ("_key", "_taken_from")

    def __init__(self, taken_from: "Counter[str] | None", key: str) -> None:
        self._taken_from = taken_from
        self._key = key

    def close(self) -> None:
        """Give it back; idempotent."""
        counter, self._taken_from = self._taken_from, None
        if counter is not None:
            counter[""] -= 1
            if self._key:
                counter[self._key] -= 1
                if not counter[self._key]:
                    del counter[self._key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Admission:
    """The doorkeeper of one gateway.

    Arguments:
        limits: the caps.
        allowed_origins: where pages may come from, as ``handshake.origins`` has them; None admits
            all. A client that sends no ``Origin`` is not a browser and is not asked.

    Raises:
        ValueError: an origin cannot be read.
    """

    def __init__(self, limits: Limits, allowed_origins: Collection[str] | None = None) -> None:
        self._limits = limits
        self._origins = None if allowed_origins is None else Origins(allowed_origins)
        # The total stands under "", each address under its own name.
        self._handshakes: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._bodies: Counter[str] = Counter()
        self._users: Counter[str] = Counter()

    @property
    def handshakes(self) -> int:
        """Sockets that have not finished their first request."""
        return self._handshakes[""]

    @property
    def connections(self) -> int:
        """Upgrades being decided and open connections."""
        return self._connections[""]

    @property
    def gives_way(self) -> bool:
        """Whether newcomers had better go to another process: no connection can be admitted."""
        return self._limits.gives_way and self.connections >= self._limits.max_connections

    def admit_handshake(self) -> Place | Refusal:
        """Take a place for a socket that has just been accepted."""
        if self.handshakes >= self._limits.max_pending_handshakes:
            return Refusal(
                503, "too_many_handshakes", "too many handshakes at once; try again", (_RETRY_SOON,)
            )
        return _take(self._handshakes, "")

    def admit_body(self) -> Place | Refusal:
        """Take a place for the body of a plain HTTP request, until it is whole."""
        if self._bodies[""] >= self._limits.max_pending_bodies:
            return Refusal(
                503, "too_many_bodies", "too many request bodies at once; try again", (_RETRY_SOON,)
            )
        return _take(self._bodies, "")

    def admit_connection(self, address: str, head: RequestHead) -> Place | Refusal:
        """Take a place for an upgrade.

        Arguments:
            address: the peer's address without its port.
            head: its request.
        """
        if self._origins is not None and not self._origins.admit(head):
            return Refusal(403, "origin_not_allowed", "pages of this origin may not connect here")
        if self.connections >= self._limits.max_connections:
            return Refusal(
                503, "too_many_connections", "the gateway is full; try again", (_RETRY_SOON,)
            )
        per_ip = self._limits.max_connections_per_ip
        if per_ip is None:
            return _take(self._connections, "")
        owner = owned_by(address, self._limits.ipv6_prefix)
        if self._connections[owner] >= per_ip:
            return Refusal(
                429,
                "too_many_connections_per_ip",
                f"at most {per_ip} connections from one address; close one first",
                (_RETRY_SOON,),
            )
        return _take(self._connections, owner)

    def admit_user(self, user: str) -> Place | Refusal:
        """Take a place for one more connection of a user, who is known by now."""
        per_user = self._limits.max_connections_per_user
        if per_user is None:
            return _take(self._users, "")
        if self._users[user] >= per_user:
            return Refusal(
                429,
                "too_many_connections_per_user",
                f"at most {per_user} connections of one user; close one first",
                (_RETRY_SOON,),
            )
        return _take(self._users, user)


def _take(counter: "Counter[str]", key: str) -> Place:
    counter[""] += 1
    if key:
        counter[key] += 1
    return Place(counter, key)
