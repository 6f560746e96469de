"""A storm, run: the program's clients, the control connections, the clock.

In: a target and a program. Out: a ``Recording``. The rules: bounded in sockets, rate and time; what
it opened is closed when it returns; a server that dies ends the storm.
"""

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from trio_gateway.storm.apart import Order, control_apart
from trio_gateway.storm.client import Client
from trio_gateway.storm.control import Control
from trio_gateway.storm.draw import Draw
from trio_gateway.storm.faults import WELL_BEHAVED, Profile
from trio_gateway.storm.gauges import Gauge, of_metrics, read_all
from trio_gateway.storm.meter import Meter
from trio_gateway.storm.oracle import Bounds, Oracle
from trio_gateway.storm.pace import Pace
from trio_gateway.storm.probe import NoUpgrade, Survey, accept_once, crowd, survey
from trio_gateway.storm.program import Program, Script
from trio_gateway.storm.record import Finding, Record, Recording
from trio_gateway.storm.server import Restartable
from trio_gateway.storm.sockets import open_files_allowed, resolve
from trio_gateway.storm.target import Target
from trio_gateway.storm.transcript import tell_record
from trio_gateway.storm.transport import Network, Unreachable

_SAMPLE = 0.25
_SPARE_FILES = 100
_ALIVE = 3
_LATE = 0.3
_SUSPECTS = 60
_STARTS_PER_TURN = 16

Watch = Callable[[Recording], None]


async def run_storm(
    place: Any,
    program: Program,
    *,
    network: Network | None = None,
    bounds: Bounds | None = None,
    profile: Profile | None = None,
    gauges: Sequence[Gauge] = (),
    server: Restartable | None = None,
    known: Survey | None = None,
    watch: Watch | None = None,
    until: Callable[[Finding], bool] | None = None,
    apart: bool = False,
) -> Recording:
    """Run a storm against a server, and say what it found.

    Arguments:
        place: a URL on loopback, a ``Target``, or a listener of this process.
        program: the storm.
        network: the way there; real sockets by themselves.
        bounds: how much, how long, how late.
        profile: what the server promises; found out by itself.
        gauges: what else tells of the server's resources.
        server: for programs that have it restarted.
        known: who is there, from an earlier survey; found out by itself.
        watch: called with the recording, a few times a second.
        until: says of a finding whether the storm ends with it.
        apart: give the control connections a process of their own, in whose latencies this one's
            lag has no part; on real sockets only.

    Returns:
        What was seen over time, and the findings.

    Raises:
        BadTarget: a storm cannot go there.
        Unreachable, NoUpgrade, trio.TooSlowError: there is no WebSocket to begin with.
    """
    target = Target.of(place)
    if network is None:
        network = await resolve(target.host, target.port, tls=target.secure)
    who = known or await survey(network, target)
    if profile is not None:
        who = attrs.evolve(who, profile=profile)
    if who.kind == "chat":
        target = attrs.evolve(target, other="/notifications/ws?user=storm-other")
        gauges = (*gauges, of_metrics(network, target))
    storm = Storm(
        program,
        target,
        network,
        bounds=bounds or Bounds(),
        who=who,
        gauges=gauges,
        server=server,
        watch=watch,
        until=until,
        apart=apart,
    )
    return await storm.run()


class Storm:
    """One run; made by ``run_storm()``. Keeps the protocols of clients and control connections."""

    def __init__(
        self,
        program: Program,
        target: Target,
        network: Network,
        *,
        bounds: Bounds,
        who: Survey,
        gauges: Sequence[Gauge],
        server: Restartable | None,
        watch: Watch | None,
        until: Callable[[Finding], bool] | None,
        apart: bool,
    ) -> None:
        self.target, self.network, self.bounds = target, network, bounds
        self.start = 0.0
        self.recording = Recording(
            seed=program.seed, url=target.url, profile=who.profile, started=time.time()
        )
        self._program, self._who, self._gauges = program, who, gauges
        self._server, self._watch, self._until, self._apart = server, watch, until, apart
        self._oracle = Oracle(self.recording, who.profile, bounds)
        self._restarting = trio.Lock()
        self._was_restarted = False
        self._meter = Meter()
        self._clients = trio.CancelScope()
        self._room = 0
        self._alarm = trio.Event()
        self._recent: deque[int] = deque(maxlen=_SUSPECTS)
        self._playing: dict[int, None] = {}
        self._last: Record | None = None

    async def run(self) -> Recording:
        """Run it all."""
        await self._warm_up()
        self.recording.baseline = await read_all(self._gauges)
        room = open_files_allowed() - _SPARE_FILES
        self.start = trio.current_time()
        self._pace = Pace(self._program.rate, int(max(1, min(self.bounds.max_open, room))))
        async with self._controlled():
            await self._blow()
        self.recording.seconds = self._now
        if self._enough():
            return self.recording
        if not self._oracle.dead:
            await self._check_alive()
        if not self._oracle.dead and not self._was_restarted:
            await self._check_gauges()
        self._sample(0.0, self.recording.after)
        return self.recording

    @property
    def _now(self) -> float:
        return trio.current_time() - self.start

    async def _warm_up(self) -> None:
        """Let the server make what it makes once and keeps; see how many it takes at once."""
        self._room, _ = await crowd(self.network, self.target, self.bounds.accept)

    @asynccontextmanager
    async def _controlled(self) -> AsyncGenerator[None]:
        """Have control connections, probes and samples beside the storm."""
        tag = f"{Draw(time.time_ns()).number(0, 2**32):x}"
        async with trio.open_nursery() as nursery:
            kind = self._who.kind
            if self._apart:
                order = Order(target=self.target, kind=kind, tag=tag, bounds=self.bounds)
                await nursery.start(control_apart, order, self)
            else:
                for number in range(self.bounds.controls):
                    each = Control(number, kind, tag, self.network, self.target, self)
                    await nursery.start(each.run)
            nursery.start_soon(self._sampling)
            nursery.start_soon(self._probing)
            yield
            nursery.cancel_scope.cancel()

    async def _blow(self) -> None:
        """Play every script; nobody plays longer than ``patience`` after the last start."""
        scripts = sorted(self._program.scripts, key=lambda script: script.start)
        self.start = trio.current_time()
        last = scripts[-1].start if scripts else 0.0
        with self._clients:
            async with trio.open_nursery() as nursery:
                for number, script in enumerate(scripts):
                    ahead = self.start + script.start - trio.current_time()
                    if ahead > 0.001:
                        await trio.sleep(ahead)
                    elif number % _STARTS_PER_TURN == 0:
                        # Those who have begun come first: more starts than this process can play
                        # would make it late, and the server look late.
                        await trio.lowlevel.checkpoint()
                    nursery.start_soon(self._play, script)
                late = max(self._now, last) + self.bounds.patience
                nursery.cancel_scope.deadline = self.start + late

    async def _play(self, script: Script) -> None:
        self._playing[script.client] = None
        try:
            await Client(script, self, self._ended).run()
        finally:
            del self._playing[script.client]

    # What clients need: see ``client.Stage``.

    async def enter(self) -> None:
        await self._pace.enter()
        self.recording.connects += 1

    def leave(self) -> None:
        self._pace.leave()

    def lacking(self) -> None:
        self.recording.lacking += 1

    def path(self, script: Script) -> str:
        if self._who.kind != "chat":
            return self.target.path
        # What those who read nothing are sent is nobody else's load.
        room = f"storm-{script.client % 16}" if script.polite else f"rude-{script.client % 8}"
        return self.target.with_query(f"user=storm-{script.client}&room={room}")

    async def restart(self) -> None:
        if self._server is None or self._restarting.locked():
            return
        async with self._restarting:
            self._was_restarted = self._oracle.forgiving = True
            await self._server.restart()
            await trio.sleep(1.0)
            self._oracle.forgiving = False

    def _ended(self, record: Record) -> None:
        reader = record.reader
        if record.end == "unreachable":
            self._alarm.set()
        else:
            self._recent.append(record.client)
            self._last = record
        self._meter.ended(record)
        if record.fault == WELL_BEHAVED and record.answered is not None and reader.upgraded:
            self._meter.accept(record.answered - record.opened)
        before = len(self.recording.findings)
        self._oracle.judge(record)
        for finding in self.recording.findings[before:]:
            self.recording.suspects.setdefault(finding.rule, (record.client,))
        if self._enough():
            self._clients.cancel()

    # What control connections need: see ``control.Watcher``.

    @property
    def excused(self) -> bool:
        return self._oracle.dead or self._oracle.forgiving

    def control(self, latency: float) -> None:
        self._meter.control(latency)

    def lag_since(self, second: float) -> float:
        return self._oracle.lag_since(second - self.start)

    def lost(self, rule: str, message: str) -> None:
        if rule == "control-lost" and self.excused:
            return
        self._oracle.find(Finding(rule, message, self._now))
        self._suspect(rule)
        if self._enough():
            self._clients.cancel()

    def _enough(self) -> bool:
        until = self._until
        return until is not None and any(until(finding) for finding in self.recording.findings)

    def _suspect(self, rule: str) -> None:
        """Note who was there: who ended last, then who is there the longest."""
        there = dict.fromkeys((*reversed(self._recent), *self._playing))
        self.recording.suspects.setdefault(rule, tuple(there))

    # Beside the storm.

    async def _sampling(self) -> None:
        while True:
            due = trio.current_time() + _SAMPLE
            await trio.sleep_until(due)
            lag = trio.current_time() - due
            self._sample(lag, await read_all(self._gauges, _SAMPLE))
            if self._watch is not None:
                self._watch(self.recording)

    def _sample(self, lag: float, gauges: dict[str, float]) -> None:
        connects = self.recording.connects
        self.recording.samples.append(
            self._meter.sample(
                self._now, open_now=self._pace.open, connects=connects, lag=lag, gauges=gauges
            )
        )

    async def _probing(self) -> None:
        """See whether the server is there; a dead one ends the storm."""
        refused = 0
        while True:
            with trio.move_on_after(0.02 if refused else self.bounds.probe):
                await self._alarm.wait()
            self._alarm = trio.Event()
            if self._oracle.forgiving:
                refused = 0
                continue
            begun = trio.current_time()
            try:
                self._meter.accept(await accept_once(self.network, self.target, self.bounds.accept))
                refused = 0
            except Unreachable as error:
                refused += error.refused
            except NoUpgrade:
                refused = 0  # it lives, and says no; whether for long is asked when all is over
            except trio.TooSlowError:
                if not self._oracle.forgiving and not self.lag_since(begun) > _LATE:
                    self.lost("deaf", f"no upgrade within {self.bounds.accept:g} s")
            if refused >= _ALIVE and not self._oracle.forgiving:
                self._die("nobody listens any more")

    def _die(self, message: str) -> None:
        self._oracle.dead = True
        symptoms = ("control-lost", "unreachable", "outcome", "deaf")
        kept = [each for each in self.recording.findings if each.rule not in symptoms]
        transcript = () if self._last is None else ("the last to end:", *tell_record(self._last))
        dead = Finding("dead", message, self._now, transcript=transcript)
        self.recording.findings[:] = [dead, *kept]
        self._suspect("dead")
        self._clients.cancel()

    # Afterwards.

    async def _check_alive(self) -> None:
        """As many good clients as before must be accepted, once what was shed could go."""
        room, why = 0, "no upgrade in time"
        with trio.move_on_after(self.bounds.accept):
            while True:
                room, wrong = await crowd(self.network, self.target, self.bounds.accept)
                if isinstance(wrong, Unreachable) and wrong.refused:
                    self._die("nobody listens any more")
                    return
                if room >= self._room:
                    return
                why = str(wrong) or why
                await trio.sleep(0.1)
        if any(finding.rule == "deaf" for finding in self.recording.findings):
            return
        message = f"{room} of {self._room} good clients are accepted at once"
        self.lost("not-accepting", f"{message} {self.bounds.accept:g} s after the storm: {why}")

    async def _check_gauges(self) -> None:
        """What is held must return to the baseline within the bound."""
        found: list[Finding] = []
        with trio.move_on_after(self.bounds.settle):
            while True:
                self.recording.after = await read_all(self._gauges)
                found = self._oracle.compare(self.recording.baseline, self.recording.after)
                if not found:
                    return
                await trio.sleep(0.2)
        for finding in found:
            self._oracle.find(finding)
            self._suspect(finding.rule)


def stormy(place: Any, program: Program, **options: Any) -> Recording:
    """Run a storm from a program that has no Trio of its own; as ``trio.run(run_storm, …)``."""
    return trio.run(partial(run_storm, place, program, **options))
