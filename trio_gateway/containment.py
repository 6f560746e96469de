"""What an exception that leaves a handler means, and whose it is.

In: any exception. Out: the part that belongs to the handler, the part that has to pass. The rule:
cancellation and KeyboardInterrupt are Trio's and the user's business; everything else stays on the
connection where it happened.
"""

import math

import trio
from trio_websocket import ConnectionClosed

from trio_gateway.connection.connection import Connection
from trio_gateway.errors import UpgradeAbandoned


def split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Return the handler's own part of an exception, and the part that has to pass.

    A Cancelled passes only where somebody has cancelled this task: one that was kept beyond its
    scope and raised again would take the whole nursery with it.
    """
    cancelled = trio.current_effective_deadline() == -math.inf
    passing_types = (trio.Cancelled, KeyboardInterrupt) if cancelled else KeyboardInterrupt
    if isinstance(error, BaseExceptionGroup):
        passing, own = error.split(passing_types)
        return own, passing
    return (None, error) if isinstance(error, passing_types) else (error, None)


def is_end_of(connection: Connection | None, error: BaseException) -> bool:
    """Whether an exception only says that the handler's own connection is closed.

    Arguments:
        connection: None when the upgrade was never accepted.
        error: what left the handler.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_end_of(connection, inner) for inner in error.exceptions)
    if connection is None:
        return isinstance(error, UpgradeAbandoned)
    return isinstance(error, ConnectionClosed) and error.reason is connection.closed
