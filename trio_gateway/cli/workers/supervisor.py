"""The supervisor of ``--workers N``.

In: options, signals, workers that live and die. Out: as many workers as were asked for, who answer
an operator as one. The rules: it opens the listeners, so a worker's death refuses nobody; a dead
worker is replaced, later each time it dies young; a successor accepts before its predecessor is
sent away, unless they cannot share their store: then the predecessor lets go of it first, and who
connects in between waits in the kernel's queue.

SIGHUP replaces the workers, each a new process with the settings as they are now. SIGUSR2 does the
same and then replaces the supervisor's own program too, in the same process. What does not come up
changes nothing. SIGTERM and SIGINT drain all, a second one stops them.
"""

import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import structlog
import trio

from trio_gateway.cli.announcing import announce, raise_file_limit
from trio_gateway.cli.listening import Opened, from_systemd, open_listeners, taken_over
from trio_gateway.cli.notifying import Systemd
from trio_gateway.cli.options import ServeOptions, is_shared
from trio_gateway.cli.workers.carrying import carry
from trio_gateway.cli.workers.heritage import SIGNALS, Heritage
from trio_gateway.cli.workers.patience import Patience
from trio_gateway.cli.workers.worker import Worker, said
from trio_gateway.cli.workers.worker import spawn as spawn_process
from trio_gateway.errors import ConfigurationError

_log = structlog.stdlib.get_logger("trio_gateway.cli")
_WRONG_USE = 2
Spawn = Callable[[int, Opened, str | None], Awaitable[Worker]]


class Supervisor:
    """Keeps workers.

    Arguments:
        options: what was asked for.
        heritage: what the program before this one has left; None at a first start.
        strangers: environment variables that mean nothing, to be warned of.
        systemd: who is told how it goes.
        early: signals that came before.
        spawn: starts a worker; by default a process.
        patience: how long what may take.

    Attributes:
        heritage: after ``run()``, what the next program in this process is to take over, if any.
        status: after ``run()``, the exit status.
    """

    def __init__(
        self,
        options: ServeOptions,
        *,
        heritage: Heritage | None,
        strangers: list[str],
        systemd: Systemd,
        early: list[int],
        spawn: Spawn | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.heritage: Heritage | None = None
        self.status = 0
        self._inherited = heritage
        self._options = options
        self._shared = is_shared(options.store)
        self._strangers = strangers
        self._systemd = systemd
        self._early = early
        self._spawn = spawn or partial(spawn_process, workers=options.workers)
        self._patience = patience or Patience()
        self._opened: Opened | None = None
        self._token: str | None = None
        self._nursery: trio.Nursery | None = None
        self._current: dict[int, Worker] = {}
        self._alive: set[Worker] = set()
        self._changing = trio.Lock()
        self._decided = trio.Event()  # a first worker has come up, or never will
        self._serving = self._leaving = False
        self._deaths = self._restarts = 0
        self._problem: ConfigurationError | None = None

    async def run(self) -> None:
        """Keep workers until a signal, or until they cannot be kept.

        Raises:
            ConfigurationError: an address cannot be bound; nothing was served.
        """
        with trio.open_signal_receiver(*SIGNALS) as signals:
            if self._early:
                return
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._obey, signals)
                nursery.start_soon(self._systemd.keep_alive)
                nursery.start_soon(self._look_after)
                try:
                    await (self._begin() if self._inherited is None else self._go_on())
                except ConfigurationError as error:
                    self._problem = error
                finally:
                    for worker in self._alive:
                        worker.kill()
                nursery.cancel_scope.cancel()
        if self._problem is not None:
            raise self._problem

    async def _begin(self) -> None:
        options = self._options
        handed = from_systemd(os.environ, tls=options.tls_cert is not None)
        raise_file_limit()
        async with open_listeners(options, handed) as opened:
            self._opened = opened
            self._token = options.api_token or (secrets.token_urlsafe(24) if opened.local else None)
            if await self._first_start():
                store = self._current[1].store
                announce(opened.urls, None if options.api_token else self._token, store)
                if self._strangers:
                    _log.warning("environment variables without a meaning", names=self._strangers)
                await self._serve(opened)

    async def _go_on(self) -> None:
        """In the place of another program: with its sockets, its token and its workers."""
        assert self._inherited is not None
        with taken_over(self._inherited.bound()) as opened:
            self._opened = opened
            self._token = self._inherited.token
            await self._take_over(self._inherited.adopted())
            await self._serve(opened)

    async def _serve(self, opened: Opened) -> None:
        self._serving = True
        self._systemd.ready()
        _log.info("supervising", workers=len(self._current), pid=os.getpid(), urls=opened.urls)
        await trio.sleep_forever()

    # Coming up.

    async def _first_start(self) -> bool:
        """Start all workers, the first by itself: it tells what is wrong with the settings once."""
        assert self._nursery is not None
        self._current[1] = await self._start(1)
        self._nursery.start_soon(self._bring_up, self._current[1])
        await self._decided.wait()
        if self.status:
            return False
        async with self._changing, trio.open_nursery() as nursery:
            for number in range(2, self._options.workers + 1):
                self._current[number] = await self._start(number)
                nursery.start_soon(self._bring_up, self._current[number])
        return True

    async def _take_over(self, workers: list[Worker]) -> None:
        """Go on with the workers of the program before; as many as are asked for now."""
        assert self._nursery is not None
        for worker in workers:
            self._watch(worker)
            if worker.number <= self._options.workers:
                self._current[worker.number] = worker
            else:
                self._nursery.start_soon(self._send_away, worker)
        for number in range(1, self._options.workers + 1):
            if number not in self._current:
                self._current[number] = await self._start(number)
                self._nursery.start_soon(self._bring_up, self._current[number])

    async def _start(self, number: int) -> Worker:
        assert self._opened is not None
        worker = await self._spawn(number, self._opened, self._token)
        self._watch(worker)
        return worker

    async def _bring_up(self, worker: Worker) -> bool:
        """Wait until it accepts; one that doesn't is ended."""
        prepared = await worker.until(worker.prepared, within=self._patience.start)
        if prepared:
            await worker.channel.send("go")
            if await worker.until(worker.ready, within=self._patience.start):
                self._decided.set()
                return True
        worker.kill()
        return False

    # Dying.

    def _watch(self, worker: Worker) -> None:
        assert self._nursery is not None
        self._alive.add(worker)
        self._nursery.start_soon(self._see_to, worker)

    async def _see_to(self, worker: Worker) -> None:
        await worker.run(self._carry)
        self._alive.discard(worker)
        if self._leaving or self._current.get(worker.number) is not worker:
            return
        if worker.status == _WRONG_USE and not self._decided.is_set():
            self.status = _WRONG_USE  # it has said what is wrong
            self._decided.set()
            return
        young = trio.current_time() - worker.born < self._patience.young
        self._deaths = self._deaths + 1 if young else 0
        _log.error("a worker has ended", **said(worker))
        if self._deaths >= self._patience.deaths and not self._any_ready():
            self._give_up(worker)
            return
        await self._replace(worker)

    async def _replace(self, dead: Worker) -> None:
        while True:
            await trio.sleep(self._patience.pause(self._deaths))
            async with self._changing:
                if self._leaving or self._current.get(dead.number) is not dead:
                    return
                self._restarts += 1
                try:
                    worker = await self._start(dead.number)
                except OSError as error:
                    self._deaths += 1
                    _log.error("cannot start a worker; trying again", reason=str(error))
                    continue
                self._current[dead.number] = worker
                await self._bring_up(worker)
                return

    def _any_ready(self) -> bool:
        return any(worker.ready.is_set() for worker in self._alive)

    def _give_up(self, worker: Worker) -> None:
        assert self._nursery is not None
        _log.critical(
            f"giving up: {self._deaths} workers in a row ended within "
            f"{self._patience.young:g} seconds, and none is left",
            **said(worker),
        )
        self.status = 1
        self._nursery.cancel_scope.cancel()

    async def _look_after(self) -> None:
        """Kill workers whose event loop does not turn."""
        assert self._nursery is not None
        pause = self._patience.silence / 3
        while True:
            due = trio.current_time() + pause
            await trio.sleep_until(due)
            now = trio.current_time()
            for worker in list(self._alive):
                if now - due > pause or not worker.ready.is_set():
                    worker.heard = now  # it was this process that stood still
                elif now - worker.heard > self._patience.silence:
                    _log.error("a worker does not answer; it is killed", pid=worker.pid)
                    worker.kill()
                else:
                    self._nursery.start_soon(partial(worker.channel.send, "ping"))

    # Signals.

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        assert self._nursery is not None
        async for signum in signals:
            name = signal.Signals(signum).name
            if signum in {signal.SIGHUP, signal.SIGUSR2}:
                if self._serving and not self._leaving:
                    self._nursery.start_soon(self._renew, signum == signal.SIGUSR2)
            elif self._leaving or not self._serving:
                _log.info("stopping", signal=name)
                self._nursery.cancel_scope.cancel()
                return
            else:
                _log.info("draining", signal=name, grace=self._options.drain.grace)
                self._leaving = True
                self._nursery.start_soon(self._leave)

    async def _leave(self) -> None:
        assert self._nursery is not None
        assert self._opened is not None
        self._systemd.stopping()
        self._opened.close()
        async with trio.open_nursery() as nursery:
            for worker in list(self._alive):
                nursery.start_soon(self._send_away, worker)
        _log.info("stopped")
        self._nursery.cancel_scope.cancel()

    async def _send_away(self, worker: Worker) -> None:
        """Let it drain, and see it end."""
        await worker.channel.send("leave")
        await self._see_off(worker)

    async def _see_off(self, worker: Worker) -> None:
        patience = self._options.drain.grace + self._patience.end
        if not await worker.until(worker.gone, within=patience):
            _log.error("a worker does not end; it is killed", pid=worker.pid)
            worker.kill()
            await worker.gone.wait()

    # Replacing.

    async def _renew(self, program: bool) -> None:
        """Replace the workers, and then, if asked to, the program of this process."""
        assert self._nursery is not None
        assert self._opened is not None
        async with self._changing:
            if self._leaving:
                return
            _log.info("replacing the workers", workers=len(self._current))
            self._systemd.reloading()
            renewed = await (self._roll() if self._shared else self._pass_on())
            self._systemd.ready()
            if not renewed:
                _log.error("the new workers did not come up; the old ones go on")
                return
            _log.info("the workers are replaced", pids=[w.pid for w in self._current.values()])
            if program and not self._leaving:
                workers = [worker for worker in self._current.values() if worker in self._alive]
                self.heritage = Heritage.of(self._opened.bound, workers, self._token)
                self._opened.keep_files()
                self._alive.clear()
                self._nursery.cancel_scope.cancel()

    async def _roll(self) -> bool:
        """All new ones accept, then the old ones accept no more, then they drain one by one."""
        assert self._nursery is not None
        old, new = dict(self._current), dict[int, Worker]()
        try:
            for number in old:
                new[number] = await self._start(number)
        except OSError as error:
            _log.error("cannot start a worker", reason=str(error))
        async with trio.open_nursery() as nursery:
            for worker in new.values():
                nursery.start_soon(self._bring_up, worker)
        if len(new) < len(old) or not all(worker.ready.is_set() for worker in new.values()):
            for worker in new.values():
                worker.kill()
            return False
        self._current = new
        for worker in new.values():
            if worker.gone.is_set():  # nobody has missed it before
                self._nursery.start_soon(self._replace, worker)
        for worker in old.values():
            await worker.channel.send("deaf")
        for worker in old.values():
            await self._send_away(worker)
        return True

    async def _pass_on(self) -> bool:
        """The one worker lets go of the store when its successor has all but that."""
        ((number, old),) = self._current.items()
        try:
            new = await self._start(number)
        except OSError as error:
            _log.error("cannot start a worker", reason=str(error))
            return False
        if not await new.until(new.prepared, within=self._patience.start):
            new.kill()
            return False
        self._current[number] = new
        await old.channel.send("leave", at_once=True)
        if not await old.until(old.released, within=self._patience.end):
            old.kill()
            await old.gone.wait()
        await new.channel.send("go")
        await new.until(new.ready, within=self._patience.start)
        await self._see_off(old)
        return True

    # Questions.

    async def _carry(self, asker: Worker, number: int, what: str, about: str) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(
            partial(
                carry,
                asker,
                list(self._alive),
                number=number,
                what=what,
                about=about,
                restarts=self._restarts,
                within=self._patience.answer,
            )
        )
