"""An ASGI application's life: startup before the first socket, shutdown after the last.

In: an application, a task of the gateway's nursery. Out: one call of the application with a
``lifespan`` scope. The rules: nobody is served before the startup is complete; a startup that fails
ends the gateway with one clear error; an application that knows no lifespan is served without; what
was started is shut down, even when the gateway is cancelled, within a bounded time.
"""

import logging

import trio

from trio_gateway.containment import split
from trio_gateway.errors import AppStartupFailed
from trio_gateway.http.asgi.application import AsgiApp, Message

_log = logging.getLogger("trio_gateway")


class Lifespan:
    """The one life of one application.

    Arguments:
        app: the application.
        shutdown_timeout: seconds for its shutdown.

    Attributes:
        failure: why it has not started; None while nothing is wrong.
    """

    def __init__(self, app: AsgiApp, shutdown_timeout: float) -> None:
        self._app = app
        self._timeout = shutdown_timeout
        self._asked = False
        self._unknown = False
        self._started = trio.Event()
        self._shutdown_due = trio.Event()
        self._ended = trio.Event()
        self.failure: AppStartupFailed | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the application; cancelled, shut it down.

        Arguments:
            task_status: started when it has started, or failed to.
        """
        if not self._app.lifespan:
            task_status.started()
            return
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._live, scope)
            await self._started.wait()
            if self.failure is not None or self._ended.is_set():
                scope.cancel()
                task_status.started()
                return
            scope.shield = True  # what it holds is given back by its shutdown
            try:
                task_status.started()
                await self._ended.wait()
            finally:
                self._shutdown_due.set()
                with trio.move_on_after(self._timeout, shield=True) as waiting:
                    await self._ended.wait()
                if waiting.cancelled_caught:
                    _log.error("the ASGI application's shutdown took too long and was cancelled")
                scope.cancel()

    async def _live(self, scope: trio.CancelScope) -> None:
        told = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        try:
            with scope:
                await self._app.app({**told, "state": self._app.state}, self._receive, self._send)
        except BaseException as error:
            own, passing = split(error)
            if own is not None:
                self._failed(own)
            if passing is not None:
                raise passing from None
        finally:
            self._ended.set()
            self._started.set()

    def _failed(self, error: BaseException) -> None:
        """Tell a startup that failed from an application that knows none."""
        if self._started.is_set():
            if self.failure is None:
                _log.error("the ASGI application's lifespan failed", exc_info=error)
        elif self._asked and not self._unknown:
            self.failure = AppStartupFailed(f"{type(error).__name__}: {error}")
            self.failure.__cause__ = error
        else:
            _log.debug("the ASGI application knows no lifespan", exc_info=error)

    async def _receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._shutdown_due.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._started.set()
        elif kind == "lifespan.startup.failed":
            self.failure = AppStartupFailed(str(message.get("message", "")))
            self._started.set()
        elif kind == "lifespan.shutdown.failed":
            _log.error("the ASGI application's shutdown failed: %s", message.get("message", ""))
        elif kind != "lifespan.shutdown.complete":
            self._unknown = True
            raise ValueError(f"a lifespan has no message {kind!r}")
