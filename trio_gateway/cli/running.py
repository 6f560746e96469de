"""One gateway from its listeners to its end, with or without somebody above it.

In: options, signals, a supervisor's word. Out: a gateway that serves; for a gateway by itself, what
it leaves to the program that takes its place. The rules: the first SIGTERM or SIGINT drains, the
second stops at once; SIGHUP reads the certificate again; SIGUSR2 hands over to the program as it is
on the disk now, and changes nothing if that does not come up.

**Handing over**, so that no connect is refused and nothing that was acknowledged is lost: the
successor loads everything and says that it is prepared; the predecessor accepts no more (who comes
now waits in the kernel's queue), tells every client when to come back, closes its store; the
successor opens the store and accepts.
"""

import gc
import os
import secrets
import signal
from collections.abc import AsyncIterator
from typing import Any

import structlog
import trio

from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.apps.identity import Authenticate
from trio_gateway.cli.announcing import announce, raise_file_limit
from trio_gateway.cli.certificates import Certificate
from trio_gateway.cli.listening import Opened, from_systemd, from_told, open_listeners
from trio_gateway.cli.notifying import Systemd
from trio_gateway.cli.options import ServeOptions, share_out
from trio_gateway.cli.stores import Store, open_store
from trio_gateway.cli.workers.heritage import SIGNALS, Heritage
from trio_gateway.cli.workers.line import Line
from trio_gateway.cli.workers.worker import Worker, said, spawn
from trio_gateway.errors import ConfigurationError
from trio_gateway.gateway import Gateway

START_TIMEOUT = 60.0
END_TIMEOUT = 5.0
_SETTLE = 0.2
_SETTLE_TICK = 0.01
_LAST_BREATH = 1.0
_log = structlog.stdlib.get_logger("trio_gateway.cli")


class Running:
    """One gateway.

    Arguments:
        options: what was asked for.
        authenticate: who an upgrade is for.
        strangers: environment variables that mean nothing, to be warned of.
        systemd: who is told how it goes.
        line: to the process that started this one as a worker; None for none.
        early: signals that came before.

    Attributes:
        heritage: after ``run()``, what the next program in this process is to take over.
    """

    def __init__(
        self,
        options: ServeOptions,
        authenticate: Authenticate,
        *,
        strangers: list[str],
        systemd: Systemd,
        line: Line | None,
        early: list[int],
    ) -> None:
        self.heritage: Heritage | None = None
        self._options = options
        self._authenticate = authenticate
        self._strangers = strangers
        self._systemd = systemd
        self._line = line
        self._early = early
        self._opened: Opened | None = None
        self._gateway: Gateway | None = None
        self._token: str | None = None
        self._limits = options.limits
        self._problem: ConfigurationError | None = None
        self._leaving = self._quitting = False
        self._let_go = trio.Event()
        self._released = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._successor: Worker | None = None
        self._handing: trio.CancelScope | None = None

    async def run(self) -> None:
        """Serve; raises ConfigurationError, not in a group."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            if self._early:
                return
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._obey, signals)
                nursery.start_soon(self._systemd.keep_alive)
                try:
                    await (self._stand_alone() if self._line is None else self._work(self._line))
                except ConfigurationError as error:
                    self._problem = error
                nursery.cancel_scope.cancel()
        if self._problem is not None:
            raise self._problem

    # The two ways to serve.

    async def _stand_alone(self) -> None:
        options = self._options
        handed = from_systemd(os.environ, tls=options.tls_cert is not None)
        async with open_listeners(options, handed) as opened:
            self._token = options.api_token or (secrets.token_urlsafe(24) if opened.local else None)
            await self._serve(opened)
            if self._successor is not None:
                await self._leave_behind(opened, self._successor)

    async def _work(self, line: Line) -> None:
        assert self._nursery is not None
        charge = await line.channel.receive()
        if charge is None or charge["kind"] != "charge":
            return
        self._nursery.start_soon(line.run, self._follow)
        self._token = charge["token"]
        self._limits = share_out(self._limits, charge.get("number", 1), charge.get("workers", 1))
        opened = Opened(from_told(charge["listeners"], own=False), Certificate.of(self._options))
        try:
            await line.channel.send("prepared")
            await line.may_go.wait()
            await self._serve(opened)
        finally:
            opened.close()

    async def _serve(self, opened: Opened) -> None:
        """Serve until the gateway has ended; the store may be let go before that."""
        self._opened = opened
        async with trio.open_nursery() as gateways:
            try:
                async with open_store(self._options) as store:
                    gateway = self._make(opened, store)
                    await gateways.start(self._run, gateway)
                    self._gateway = gateway
                    await self._say_ready(opened, store[1])
                    await self._let_go.wait()
            except ConfigurationError as error:
                self._problem = error
                gateways.cancel_scope.cancel()
            self._released.set()
            if self._line is not None:
                await self._line.channel.send("released")
        if self._gateway is not None:
            _log.info("stopped", upgrades=self._gateway.statistics().upgrades_accepted)

    async def _run(self, gateway: Gateway, *, task_status: trio.TaskStatus[Gateway]) -> None:
        try:
            await gateway.run(task_status=task_status)
        finally:
            self._let_go.set()

    def _make(self, opened: Opened, store: Store) -> Gateway:
        options = self._options
        settings = ApplicationSettings(
            api_token=self._token,
            strict_paths=options.strict_paths,
            page=options.page,
            tokens=options.tokens is not None,
            heartbeat=options.heartbeat,
            rates=options.rates,
            hub=options.hub,
        )
        application = Application(store[0], settings, authenticate=self._authenticate)
        if self._line is not None:
            self._line.join(application.ensemble)
        return application.gateway(
            opened.listeners(),
            limits=self._limits,
            timeouts=options.timeouts,
            drain=options.drain,
            allowed_origins=options.allowed_origins,
            proxies=options.proxies,
        )

    async def _say_ready(self, opened: Opened, store: str) -> None:
        limits = raise_file_limit()
        # What is there now stays: a full collection would stop all clients for 40 ms to look at it.
        gc.collect()
        gc.freeze()
        if self._line is not None:
            await self._line.channel.send("ready", store=store)
        else:
            announce(opened.urls, None if self._options.api_token else self._token, store)
        _log.info(
            "serving",
            urls=opened.urls,
            pid=os.getpid(),
            store=store,
            auth="none" if self._options.tokens is None else "jwt",
            api="on" if self._token else "off: give it a token",
            **limits,
        )
        if self._strangers:
            _log.warning("environment variables without a meaning", names=self._strangers)
        self._systemd.ready()

    # What is told to it.

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        assert self._nursery is not None
        async for signum in signals:
            name = signal.Signals(signum).name
            if signum == signal.SIGHUP:
                self._reload()
            elif signum == signal.SIGUSR2:
                if self._line is None and self._gateway is not None and not self._leaving:
                    self._leaving = True
                    self._nursery.start_soon(self._hand_over)
            elif self._handing is not None:
                _log.info("stopping instead of handing over", signal=name)
                self._handing.cancel()
                self._handing = None
                self._nursery.start_soon(self._leave, False)
            elif self._successor is not None and not self._quitting:
                _log.info("draining what was handed over to", signal=name)
                self._quitting = True
                self._nursery.start_soon(self._successor.channel.send, "leave")
            elif self._leaving or self._gateway is None:
                _log.info("stopping", signal=name)
                self._stop()
                return
            else:
                self._leaving = True
                _log.info("draining", signal=name, grace=self._options.drain.grace)
                self._nursery.start_soon(self._leave, False)

    async def _follow(self, kind: str, message: dict[str, Any]) -> None:
        assert self._nursery is not None
        if kind == "stop" or self._gateway is None:
            self._stop()
        elif kind == "deaf":
            self._nursery.start_soon(self._settle)
        elif not self._leaving:
            self._leaving = True
            self._nursery.start_soon(self._leave, bool(message.get("at_once")))

    def _stop(self) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()

    def _reload(self) -> None:
        if self._opened is None or self._opened.certificate is None:
            return
        self._systemd.reloading()
        self._opened.certificate.reload()
        if self._gateway is not None:
            self._systemd.ready()

    async def _leave(self, at_once: bool) -> None:
        """Drain, listening no more; with ``at_once`` let go of the store when all are told."""
        assert self._gateway is not None
        assert self._opened is not None
        assert self._nursery is not None
        if self._line is None:
            self._systemd.stopping()
        self._opened.close()
        if at_once:
            await self._send_away()
        else:
            await self._gateway.drain()

    async def _settle(self) -> None:
        """Accept no more; whoever has come may finish the request."""
        assert self._gateway is not None
        assert self._opened is not None
        if self._line is not None:
            self._opened.close()
        await self._gateway.stop_accepting()
        with trio.move_on_after(_SETTLE):
            while True:
                now = self._gateway.statistics()
                if not now.pending_handshakes and not now.pending_upgrades:
                    return
                await trio.sleep(_SETTLE_TICK)

    async def _send_away(self) -> None:
        """For a successor that waits: tell everybody at once, then let go of the store."""
        assert self._gateway is not None
        await self._settle()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._drain_at_once)
            self._let_go.set()

    async def _drain_at_once(self, *, task_status: trio.TaskStatus[None]) -> None:
        assert self._gateway is not None
        await self._gateway.drain(at_once=True, task_status=task_status)

    # Handing over.

    async def _hand_over(self) -> None:
        """Start the successor, and give it the place once it is prepared."""
        assert self._opened is not None
        assert self._nursery is not None
        _log.info("handing over")
        self._systemd.reloading()
        with trio.CancelScope() as scope:
            self._handing = scope
            worker: Worker | None = None
            with trio.CancelScope(shield=True):  # a process that is not known is not ended
                try:
                    worker = await spawn(1, self._opened, self._token)
                except OSError as error:
                    self._keep_on(reason=str(error))
            if worker is None:
                return
            self._nursery.start_soon(worker.run)
            prepared = False
            try:
                prepared = await worker.until(worker.prepared, within=START_TIMEOUT)
            finally:
                if not prepared or scope.cancel_called:
                    worker.kill()
                    with trio.move_on_after(_LAST_BREATH, shield=True):
                        await worker.gone.wait()  # it has our sockets
            if scope.cancel_called:
                return
            if not prepared:
                self._keep_on(**said(worker))
                return
            # From here on there is no way back.
            self._handing = None
            self._successor = worker
            self._nursery.start_soon(self._send_away)
            await self._released.wait()
            await worker.channel.send("go")

    def _keep_on(self, **why: Any) -> None:
        _log.error("the successor did not come up; this process goes on", **why)
        self._handing = None
        self._leaving = False
        self._systemd.ready()

    async def _leave_behind(self, opened: Opened, worker: Worker) -> None:
        """The gateway has ended: what the next program in this process takes over."""
        await worker.until(worker.ready, within=START_TIMEOUT)
        if self._quitting:
            await worker.until(worker.gone, within=self._options.drain.grace + END_TIMEOUT)
            worker.kill()
            return
        _log.info("handed over", successor=worker.pid)
        self.heritage = Heritage.of(opened.bound, [worker], self._token)
        opened.keep_files()
