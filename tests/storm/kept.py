"""A server in the test's own process that may die, and is started again on the same port."""

from collections.abc import Callable
from typing import Any

import trio

from trio_gateway.storm import Bounds

QUICK = Bounds(patience=0.8, answer=0.8, accept=0.8, control=0.8, settle=0.5, controls=2, probe=0.1)
"""For servers of this process: they answer within milliseconds or not at all."""


class Kept:
    """Runs one life of a server after the other; its death is not the test's.

    Arguments:
        nursery: where it runs.
        live: serves on a port, and tells its listeners through ``task_status``.
    """

    def __init__(self, nursery: trio.Nursery, live: Callable[..., Any]) -> None:
        self._nursery = nursery
        self._live = live
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._over.set()
        self.port = 0
        self.deaths = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    async def restart(self) -> None:
        self._scope.cancel()
        await self._over.wait()
        self._over = trio.Event()
        self.port = await self._nursery.start(self._run)

    async def _run(self, *, task_status: trio.TaskStatus[int]) -> None:
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    listeners = await nursery.start(self._live, self.port)
                    task_status.started(port_of(listeners))
        except Exception:  # whatever it is, it is the server's death
            self.deaths += 1
        self._over.set()


def port_of(listeners: Any) -> int:
    """Return the port of Trio's listeners, or of trio-websocket's server."""
    if isinstance(listeners, list):
        return int(listeners[0].socket.getsockname()[1])
    return int(listeners.port)
