"""The way into an application: from an upgrade to a client that is served.

In: upgrades that a router has handed over. Out: a refusal in HTTP, or a connection served until it
ends. The rule: whoever may not come in, or asks for what cannot be, is told so before the 101; and
whatever ends a connection, its subscriptions end with it.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from trio_websocket import ConnectionClosed

from trio_gateway.apps.identity import by_claims, vouched_for
from trio_gateway.apps.limits import ClientLimits
from trio_gateway.apps.session import (
    ConnectionLike,
    Session,
    UpgradeLike,
    first_refusal,
    refuse,
    seconds,
)
from trio_gateway.handshake.authentication import Action, Authenticate, Authorize, Identity
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.hub.hub import Hub
from trio_gateway.wire import InvalidField

_O = TypeVar("_O")


class AppOptions(TypedDict, total=False):
    """What every application may be told.

    Attributes:
        authenticate: who an upgrade is for; by default who the gateway says, or who they say.
        authorize: what they may do; by default what the claims of their token leave.
        heartbeat: the seconds that ``welcome`` names, 25 by default; ``math.inf`` is told as 0.
        clock: seconds since 1970, for the time of what is published; by default ``time.time``.
        limits: how much clients may ask; by default as much as they like.
    """

    authenticate: Authenticate
    authorize: Authorize
    heartbeat: float
    clock: Callable[[], float]
    limits: ClientLimits | None


class App(ABC, Generic[_O]):
    """An application of one gateway, whose clients' query strings say an ``_O``.

    Arguments:
        hub: carries the topics.
        options: see ``AppOptions``.
    """

    def __init__(self, hub: Hub, **options: Unpack[AppOptions]) -> None:
        self.hub = hub
        self.limits = options.get("limits")
        self.heartbeat = seconds(options.get("heartbeat", 25.0))
        self.authorize = options.get("authorize", by_claims)
        self._authenticate = options.get("authenticate", vouched_for)
        self._clock = options.get("clock", time.time)

    @abstractmethod
    def opening(self, query: Mapping[str, str]) -> _O:
        """Return what a query string asks for; raises InvalidField."""

    @abstractmethod
    def wanted(self, identity: Identity, opening: _O) -> Iterable[tuple[Action, str]]:
        """Return what a client has to be allowed for that, and the topics."""

    @abstractmethod
    async def begin(
        self, connection: ConnectionLike, identity: Identity, opening: _O
    ) -> Session[Any] | None:
        """Greet a client; return what serves it, or None where it has been closed.

        May raise ConnectionClosed.
        """

    async def handle(self, upgrade: UpgradeLike) -> None:
        """Serve one client until its connection ends: the handler to give to a router.

        Cancelled, it leaves every topic at once and leaves the closing to the gateway.
        """
        identity = await upgrade.identify(self._authenticate)
        if isinstance(identity, Refusal):
            await refuse(upgrade, identity)
            return
        try:
            opening = self.opening(upgrade.query)
        except InvalidField as error:
            problem = Refusal(400, "invalid_field", f"the query parameter {error}")
            await refuse(upgrade, problem)
            return
        refusal = await first_refusal(self.authorize, identity, *self.wanted(identity, opening))
        if refusal is not None:
            await refuse(upgrade, refusal)
            return
        connection = await upgrade.accept()
        try:
            session = await self.begin(connection, identity, opening)
            if session is not None:
                await session.run()
        except ConnectionClosed:
            pass  # in the middle of a reply: an end like any other
        finally:
            await self.hub.leave_all(connection)
