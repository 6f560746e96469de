"""What an operator's questions come to in one process.

In: questions that ``admin`` has checked. Out: JSON's values; connections of this process that are
closed. The rule: what is told is read from what the gateway holds anyway, so a connection that
nobody asks about costs nothing for it.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from trio_gateway.connection.connection import Connection
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.http.ensemble import Ensemble
from trio_gateway.http.roll import read_page
from trio_gateway.http.totals import to_raw


class Operated(Protocol):
    """What the API needs of a gateway."""

    @property
    def connections(self) -> Mapping[Connection, Upgrade]:
        """Those that are open, in the order of opening."""
        ...

    def age_of(self, upgrade: Upgrade) -> float:
        """Return the seconds since an upgrade was asked for."""
        ...

    def disconnect_user(self, user: str, code: int, reason: str | None = None) -> int:
        """Close a user's connections; return how many there were."""
        ...


class Staff:
    """Answers for this process.

    Arguments:
        gateway: returns the gateway, or None before there is one.
        statistics: returns attrs instances by name.
        ensemble: is taught the questions.

    Attributes:
        disconnected: connections closed so far.
    """

    def __init__(
        self,
        gateway: Callable[[], Operated | None],
        statistics: Callable[[], Mapping[str, Any]],
        ensemble: Ensemble,
    ) -> None:
        self.disconnected = 0
        self._name = secrets.token_hex(4)  # a process id may come again
        self._gateway = gateway
        self._statistics = statistics
        ensemble.teach("roll", self._roll)
        ensemble.teach("statistics", lambda _about: to_raw(self._statistics()))
        ensemble.teach("close", self._close)
        ensemble.teach("disconnect", self._disconnect)

    def _roll(self, about: Mapping[str, Any]) -> dict[str, Any]:
        gateway = self._gateway()
        return read_page(
            self._name,
            {} if gateway is None else gateway.connections,
            (lambda _: 0.0) if gateway is None else gateway.age_of,
            after=about["cursor"].get(self._name, -1),
            limit=about["limit"],
            wanted=about["wanted"],
        )

    def _close(self, about: Mapping[str, Any]) -> int:
        gateway = self._gateway()
        for connection in {} if gateway is None else gateway.connections:
            if connection.id == about["id"]:
                connection.disconnect(about["code"], about["reason"])
                self.disconnected += 1
                return 1
        return 0

    def _disconnect(self, about: Mapping[str, Any]) -> int:
        gateway = self._gateway()
        if gateway is None:
            return 0
        count = gateway.disconnect_user(about["user"], about["code"], about["reason"])
        self.disconnected += count
        return count
