"""The end of a token: a connection outlives its identity by nothing.

In: a connection, and when its identity expires. Out: one close with 4401. The rule: waiting costs a
place in the timer wheel, no task, and is over when the socket is.
"""

import time
from collections.abc import Callable

from trio_gateway.connection.connection import Connection
from trio_gateway.errors import CloseCode
from trio_gateway.transport.link import Link
from trio_gateway.transport.timers import Timers


class Expiry:
    """A deadline beside those of the link; held by it."""

    __slots__ = ("_connection", "_timers", "timer_tick")

    def __init__(self, connection: Connection, timers: Timers) -> None:
        self._connection = connection
        self._timers = timers
        self.timer_tick = 0

    @classmethod
    def watch(
        cls,
        link: Link,
        connection: Connection,
        expires: float,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Close ``connection`` with 4401 at ``expires``, as the clock goes now.

        Arguments:
            link: its socket.
            connection: open.
            expires: seconds since 1970; a time that has passed closes it in a moment.
            clock: seconds since 1970.
        """
        expiry = cls(connection, link.timers)
        link.timers.arm(expiry, max(0.0, expires - clock()))
        link.hold(expiry)

    def expire(self) -> None:
        """The wheel's call."""
        self._connection.disconnect(CloseCode.TOKEN_EXPIRED, "token expired")

    def close(self) -> None:
        """The socket is gone."""
        self._timers.disarm(self)
