"""The gateway: the one nursery, and who does what in it.

In: listeners, a router, settings. Out: a task for each upgrade that is to be handled. The rules:
one gateway serves a listener, and is started once; whatever a client or a handler does stays on
its connection; a drain ends everything within its grace period.
"""

import logging
import math
import random
import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import trio
from trio_websocket import Endpoint, WebSocketServer

from trio_gateway.callsite import call_site
from trio_gateway.connection.compression import Deflaters
from trio_gateway.connection.connection import Connection
from trio_gateway.containment import split
from trio_gateway.errors import AlreadyInitialized, AppStartupFailed, CloseCode
from trio_gateway.handshake.admission import Admission
from trio_gateway.handshake.authentication import Authenticate, default_origins
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.http.asgi.application import Application, AsgiApp, as_http
from trio_gateway.http.asgi.lifespan import Lifespan
from trio_gateway.http.messages import HttpHandler
from trio_gateway.hub.hub import Hub
from trio_gateway.metrics import Statistics
from trio_gateway.reception import Reception
from trio_gateway.routing import Handler, Router, as_router
from trio_gateway.settings import Compression, Drain, Heartbeat, Limits, Proxies, Timeouts
from trio_gateway.transport.link import LinkSetup
from trio_gateway.transport.listeners import (
    AnyListener,
    accept_streams,
    endpoint_of,
    poller_for,
    pumped_socket,
    sole_use,
)
from trio_gateway.transport.pump import ListeningSocket, Pump, SocketLink
from trio_gateway.transport.sockets import Socket
from trio_gateway.transport.streams import StreamLink
from trio_gateway.transport.timers import Timers

_log = logging.getLogger("trio_gateway")

_NOT_TLS = Refusal(400, "plain_http_on_tls_port", "TLS is spoken on this port; use https or wss")
_DRAIN_TICK = 0.05
_AT_ONCE = 100  # connections told between two turns of the scheduler


class Gateway(WebSocketServer):
    """Serves WebSocket, and plain HTTP beside it, on one or more listeners.

    It is a ``trio_websocket.WebSocketServer`` in its names. Most applications call
    ``serve_websocket()``, which opens the listeners too.

    Arguments:
        handler: a ``Router``, or one handler for every path.
        listeners: at least one Trio listener; closed when the gateway ends.
        handler_nursery: where handlers run; connections then outlive a cancelled ``run()``.
        message_queue_size: messages waiting for a handler before reading pauses.
        max_message_size: the largest message, in bytes.
        receive_buffer_size: bytes read at once; None for a sensible number.
        connect_timeout: seconds for a client to finish its request.
        disconnect_timeout: seconds for a client to answer a Close frame.
        limits: all other bounds; the arguments above take precedence.
        timeouts: all other time limits; the arguments above take precedence.
        heartbeat: how dead peers are found.
        drain: how the gateway goes away.
        compression: compress messages for clients that offer permessage-deflate; None declines.
        authenticate: says who an upgrade is for, before the handler, which finds the answer in
            ``upgrade.identity``; a refusal is answered and the handler never runs.
        allowed_origins: where pages may come from (see ``trio_gateway.handshake.origins``). None
            for anywhere; with ``authenticate``, for pages of the same host, unless that reads
            nothing that a browser sends unasked.
        proxies: who may speak for others, and how; None for nobody.
        http: answers plain HTTP requests: a handler, or an ASGI application; without it they get
            404, or 426 on a WebSocket path.
        hub: run beside the handlers for as long as they run.
    """

    # The base class's __init__ is not called: it keeps what its own run() needs.
    def __init__(
        self,
        handler: Handler | Router,
        listeners: Sequence[AnyListener],
        *,
        handler_nursery: trio.Nursery | None = None,
        message_queue_size: int | None = None,
        max_message_size: int | None = None,
        receive_buffer_size: int | None = None,
        connect_timeout: float | None = None,
        disconnect_timeout: float | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        heartbeat: Heartbeat | None = None,
        drain: Drain | None = None,
        compression: Compression | None = None,
        authenticate: Authenticate | None = None,
        allowed_origins: Collection[str] | None = None,
        proxies: Proxies | None = None,
        http: HttpHandler | Application | AsgiApp | None = None,
        hub: Hub | None = None,
    ) -> None:
        if len(listeners) == 0:
            raise ValueError("Listeners must contain at least one item.")
        if receive_buffer_size is not None and receive_buffer_size < 1:
            raise ValueError(f"receive_buffer_size is at least 1, not {receive_buffer_size}")
        self._trio_listeners = tuple(listeners)
        self._endpoints = [endpoint_of(listener) for listener in listeners]
        self._handler_nursery = handler_nursery
        limits = attrs.evolve(
            limits or Limits(),
            **_given(
                max_queued_messages=_queue_size(message_queue_size),
                max_message_bytes=_finite(max_message_size),
            ),
        )
        if allowed_origins is None and authenticate is not None:
            allowed_origins = default_origins(authenticate)
        timeouts = attrs.evolve(
            timeouts or Timeouts(),
            **_given(handshake_timeout=connect_timeout, closing_timeout=disconnect_timeout),
        )
        answering = as_http(http)
        self._lifespan: Lifespan | None = None
        if isinstance(answering, AsgiApp):
            self._lifespan = Lifespan(answering, timeouts.closing_timeout)
        self._drain = drain or Drain()
        self._hub = hub
        self._timers = Timers()
        self._pump: Pump | None = None
        self._listening: list[ListeningSocket] = []
        self._accepting: list[trio.CancelScope] = []
        self._quiet = trio.Event()
        self._stopped = trio.Event()
        self._running = False
        self._initialized_at: str | None = None
        self._started_at: str | None = None
        self._reception = Reception(
            router=as_router(handler),
            http=answering,
            admission=Admission(limits, allowed_origins),
            limits=limits,
            timeouts=timeouts,
            heartbeat=heartbeat or Heartbeat(),
            deflaters=None if compression is None else Deflaters(compression),
            authenticate=authenticate,
            changed=self._look_whether_quiet,
            proxies=proxies,
        )
        self._setup = LinkSetup(
            timers=self._timers,
            timeouts=timeouts,
            max_outbox_bytes=limits.max_outbox_bytes,
            max_read=receive_buffer_size,
            not_tls=_NOT_TLS.render(),
            ended=self._reception.ended,
            about=self._reception.about,
            proxy_protocol=proxies is not None and proxies.protocol,
        )

    # For the application.

    @property
    def port(self) -> int:
        """The port of the only listener.

        Raises:
            RuntimeError: there are several listeners, or the one has no port.
        """
        if len(self._endpoints) > 1:
            raise RuntimeError("Cannot get port because this server has more than 1 listener.")
        only = self._endpoints[0]
        if isinstance(only, Endpoint):
            return only.port
        raise RuntimeError(f"This socket does not have a port: {only}")

    @property
    def listeners(self) -> list[Endpoint | str]:
        """Where the gateway listens; text where there is no port."""
        return list(self._endpoints)

    @property
    def draining(self) -> bool:
        """Whether the gateway is going away."""
        return self._reception.draining

    @property
    def ready(self) -> bool:
        """Whether new connections are welcome."""
        return self._running and not self._reception.draining

    @property
    def connections(self) -> Mapping[Connection, Upgrade]:
        """The open connections in the order of opening, each with its upgrade; a live view."""
        return MappingProxyType(self._reception.connections)

    def age_of(self, upgrade: Upgrade) -> float:
        """Return the seconds since an upgrade of this gateway was asked for."""
        return self._reception.clock() - upgrade.began

    def disconnect_user(self, user: str, code: int, reason: str | None = None) -> int:
        """Begin to close a user's connections to this gateway, without waiting.

        Arguments:
            user: whom ``upgrade.identity`` names.
            code: of the Close frame.
            reason: for people; cut to 123 bytes of UTF-8.

        Returns:
            How many connections there were.

        Raises:
            ValueError: the code or the reason cannot be sent.
        """
        theirs = [
            connection
            for connection, upgrade in self._reception.connections.items()
            if upgrade.identity is not None and upgrade.identity.user == user
        ]
        for connection in theirs:
            connection.disconnect(code, reason)
        return len(theirs)

    def statistics(self) -> Statistics:
        """Return what the gateway holds and has counted."""
        return self._reception.statistics(lag=self._timers.lag.snapshot())

    def initialize(self) -> None:
        """Mark the gateway as set up; ``run()`` does it too if nobody has.

        Raises:
            AlreadyInitialized: it was done before; the message names where.
        """
        if self._initialized_at is not None:
            raise AlreadyInitialized(self._initialized_at)
        self._initialized_at = call_site()

    async def run(  # type: ignore[override]  # returns after a drain, the base class never does
        self, *, task_status: trio.TaskStatus["Gateway"] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until drained or cancelled.

        Arguments:
            task_status: gives the gateway once it accepts connections.

        Raises:
            AlreadyInitialized: the gateway has been run before.
            ListenerInUse: another gateway serves one of the listeners.
            AppStartupFailed: the ASGI application did not start; nobody was served.
        """
        if self._started_at is not None:
            raise AlreadyInitialized(self._started_at)
        self._started_at = call_site()
        if self._initialized_at is None:
            self._initialized_at = self._started_at
        if self._reception.draining:
            task_status.started(self)
            return
        # Another gateway's listeners are not closed: it goes on.
        with sole_use(self._trio_listeners, self._started_at):
            try:
                async with trio.open_nursery() as nursery:
                    await (self._handler_nursery or nursery).start(self._serve)
                    if self._startup_failure is None:
                        self._listen(nursery)
                        self._running = True
                        task_status.started(self)
                        await self._stopped.wait()
                    nursery.cancel_scope.cancel()
            finally:
                self._stop_accepting()
                self._running = False
                self._look_whether_quiet()
                with trio.CancelScope(shield=True):
                    await self._close_listeners()
        if self._startup_failure is not None:
            raise self._startup_failure

    @property
    def _startup_failure(self) -> AppStartupFailed | None:
        return None if self._lifespan is None else self._lifespan.failure

    async def stop_accepting(self) -> None:
        """Accept no more and close the listeners; whoever is here stays. Idempotent.

        For a successor on the same sockets, who takes those that have not been accepted.
        """
        self._stop_accepting()
        with trio.CancelScope(shield=True):
            await self._close_listeners()

    async def drain(
        self,
        grace: float | None = None,
        *,
        at_once: bool = False,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Go away: accept no more, tell every client when to come back, then end.

        Sockets whose request is not answered get 503, connections are closed with 1012 and the
        reason ``retry MS``, spread over the grace period where they are many. Returns when
        everything has ended, at the latest after the grace period; a second call waits with the
        first. If this is cancelled, what has not been told yet is not told.

        Arguments:
            grace: seconds; None for ``Drain.grace``.
            at_once: tell everybody now, and spread their return instead, since a successor waits.
            task_status: started when everybody has been told.
        """
        if self._reception.draining:
            await self._stopped.wait()
            task_status.started()
            return
        self._stop_accepting()
        self._reception.turn_away()
        grace = self._drain.grace if grace is None else grace
        try:
            # Who comes now is refused at once, and does not wait in the backlog for the end.
            with trio.CancelScope(shield=True):
                await self._close_listeners()
            deadline = trio.current_time() + grace
            with trio.move_on_at(deadline):
                await self._send_all_away(grace, at_once)
            task_status.started()
            with trio.move_on_at(deadline):
                self._look_whether_quiet()
                await self._quiet.wait()
        finally:
            self._stopped.set()

    # The one nursery.

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The parent of all that serves; ends when nothing is left to serve."""
        try:
            async with trio.open_nursery() as nursery:
                self._reception.nursery = nursery
                nursery.start_soon(self._timers.run)
                poller = poller_for(self._trio_listeners)
                if poller is not None:
                    self._pump = Pump(poller)
                    nursery.start_soon(self._pump.run)
                if self._hub is not None:
                    await nursery.start(self._hub.run)
                if self._lifespan is not None:
                    await nursery.start(self._lifespan.run)
                task_status.started()
                if self._startup_failure is None:
                    await self._stopped.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._stop_accepting()
            self._reception.abort()
            if self._pump is not None:
                self._pump.close()

    def _listen(self, nursery: trio.Nursery) -> None:
        pump, listeners = self._pump, self._trio_listeners
        for listener in listeners:
            sock = None if pump is None else pumped_socket(listener, listeners)
            if pump is not None and sock is not None:
                self._listening.append(
                    ListeningSocket(
                        sock, pump, self._timers, self._socket_accepted, self._gives_way
                    )
                )
            else:
                scope = trio.CancelScope()
                self._accepting.append(scope)
                nursery.start_soon(self._accept_streams, listener, scope)

    async def _accept_streams(self, listener: AnyListener, scope: trio.CancelScope) -> None:
        with scope:
            await accept_streams(
                listener, self.serve_stream, self._reception.nursery, self._gives_way
            )

    async def _close_listeners(self) -> None:
        for listener in self._trio_listeners:
            await listener.aclose()

    def _stop_accepting(self) -> None:
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        for scope in self._accepting:
            scope.cancel()

    # Sockets.

    def _gives_way(self) -> bool:
        return self._reception.admission.gives_way

    def _socket_accepted(self, sock: Socket, peer: Any, local: Any) -> None:
        assert self._pump is not None
        self._reception.begin(SocketLink(sock, self._pump, self._setup, peer=peer, local=local))

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        """Serve one accepted stream until its link ends."""
        link = StreamLink(stream, self._setup)
        self._reception.begin(link)
        try:
            await link.run()
        except BaseException as error:
            own, passing = split(error)
            if own is not None:
                _log.error("stream %s failed", link.remote, exc_info=own)
            if passing is not None:
                raise passing from None

    def _look_whether_quiet(self) -> None:
        if not self.ready and self._reception.empty:
            self._quiet.set()
            self._stopped.set()

    # Drain.

    async def _send_all_away(self, grace: float, at_once: bool) -> None:
        """Close connections with 1012, a few every tick."""
        leaving = list(self._reception.connections)
        random.shuffle(leaving)
        at_least, at_most = self._drain.min_retry, self._drain.max_retry
        spread = len(leaving) / self._drain.closes_per_second
        # All are told within three quarters of the grace period: closing takes time too.
        seconds = min(0.75 * grace, spread)
        each_tick, tick = len(leaving), _DRAIN_TICK
        if at_once:
            each_tick, tick = _AT_ONCE, 0
            at_most = max(at_most, at_least + spread)
        elif seconds:
            each_tick = max(1, math.ceil(len(leaving) * _DRAIN_TICK / seconds))
        while leaving:
            for connection in leaving[:each_tick]:
                retry = random.uniform(at_least, at_most)
                connection.disconnect(CloseCode.SERVICE_RESTART, f"retry {round(retry * 1000)}")
            del leaving[:each_tick]
            if leaving:
                await trio.sleep(tick)


def _finite(count: int | None) -> int | None:
    """Return a count; ``math.inf`` is how trio-websocket's documentation turns a limit off."""
    return sys.maxsize if count == math.inf else count


def _queue_size(messages: int | None) -> int | None:
    """Return it as a bound of what waits: trio-websocket's 0 lets one message wait too."""
    return 1 if messages == 0 else _finite(messages)


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
