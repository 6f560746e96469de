"""Storms in virtual time: the same programs, the same oracle, a gateway without sockets.

In: a program, what the network is like, a gateway. Out: a ``Recording`` and a transcript. The
rules: a run is a function of what goes into it (and of the order of Trio's tasks, where that is not
seeded); what fails here is written as any storm is, and replayed on real sockets. ::

    async def test_storms(autojump_clock: trio.testing.MockClock) -> None:
        run = await run_virtual(generate(7, clients=20), lambda each: Gateway(handler, [each]))
        assert run.recording.clean, run.recording.findings

``run_storm()`` takes a ``VirtualNetwork`` too; ``run_virtual()`` leaves out what a small storm has
no use for (the survey, the warming up, the samples) and looks at what only the inside shows.
"""

import errno
import logging
from collections.abc import Callable
from typing import Any

import attrs
import trio

from trio_gateway.gateway import Gateway
from trio_gateway.storm.client import Client
from trio_gateway.storm.control import Control
from trio_gateway.storm.faults import Profile
from trio_gateway.storm.oracle import Bounds, Oracle
from trio_gateway.storm.program import Program, Script
from trio_gateway.storm.record import Finding, Record, Recording
from trio_gateway.storm.target import Target
from trio_gateway.storm.transcript import tell_record
from trio_gateway.storm.transport import Broken, Line, Network, Unreachable
from trio_gateway.testing.network import (
    Conditions,
    VirtualListener,
    VirtualNet,
    VirtualStream,
    VirtualStreamListener,
)

BOUNDS = Bounds(patience=30.0, settle=120.0, controls=1)
"""What a small storm is given: seconds cost nothing here."""

_TALK = 1.0
_LOOK = 1.0
_HOLDINGS = ("sockets", "handlers", "connections", "pending_handshakes", "pending_upgrades")
# A handler may fail, and a gateway out of descriptors says so: neither is a fault of the gateway's.
_EXPECTED_LOGS = ("handler of %s failed", "the HTTP handler", "cannot accept connections")


class VirtualNetwork:
    """The way to a listener of a ``VirtualNet``; what ``run_storm(network=…)`` takes.

    TLS is not spoken there: what is asked to be is plain.

    Arguments:
        net: the network.
        listener: who is attacked.
    """

    def __init__(self, net: VirtualNet, listener: VirtualStreamListener) -> None:
        self._net = net
        self._address = listener.address

    @property
    def target(self) -> Target:
        """Where a storm goes."""
        host, port = self._address
        return Target(host=host, port=port)

    async def connect(self, *, tls: bool, window: int | None) -> Line:
        conditions = self._net.with_client_buffer(window)
        try:
            stream = await self._net.connect(self._address, conditions=conditions)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, str(error))
            refused = error.errno == errno.ECONNREFUSED
            raise Unreachable(name, refused=refused) from None
        return VirtualLine(stream)


class VirtualLine:
    """One connection, at the client's end.

    Arguments:
        stream: the same.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: VirtualStream) -> None:
        self._stream = stream

    def send_now(self, data: bytes) -> int:
        try:
            return self._stream.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Broken(errno.errorcode.get(error.errno or 0, "?")) from None

    async def send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Broken(_name_of(error)) from None

    async def receive(self, max_bytes: int) -> bytes:
        try:
            return await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Broken(_name_of(error)) from None

    async def half_close(self) -> None:
        self._stream.shut_down()
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        self._stream.reset()

    def close(self) -> None:
        self._stream.close()


@attrs.frozen
class VirtualRun:
    """What came of a storm in virtual time.

    Attributes:
        recording: the findings, and the counts by fault.
        transcript: what every client saw, as it ended; the same for the same storm.
    """

    recording: Recording
    transcript: tuple[str, ...]


async def run_virtual(
    program: Program,
    make: Callable[[VirtualListener], Gateway],
    *,
    conditions: Conditions | None = None,
    max_descriptors: float = float("inf"),
    backlog: int = 128,
    bounds: Bounds = BOUNDS,
    profile: Profile = "gateway",
) -> VirtualRun:
    """Run a storm against a gateway, on the clock of this Trio run.

    Beside what the oracle finds on any server, it is a finding when the gateway logs an error that
    is its own, or holds anything once all clients are gone.

    Arguments:
        program: the storm; its seed is that of jitter and loss.
        make: makes the gateway, which answers a text with something that holds it.
        conditions: what every connection is like.
        max_descriptors: of the gateway.
        backlog: connections that may wait to be accepted.
        bounds: how late is too late.
        profile: what the server promises.
    """
    net = VirtualNet(program.seed, conditions=conditions, max_descriptors=max_descriptors)
    listener = net.listen(backlog=backlog)
    storm = _Storm(program, VirtualNetwork(net, listener), bounds, profile)
    with _Logs(storm):
        async with trio.open_nursery() as nursery:
            gateway: Gateway = await nursery.start(make(listener).run)
            await storm.run(gateway)
            nursery.cancel_scope.cancel()
    if net.descriptors:
        storm.lost("descriptors", f"{net.descriptors} sockets are open when the gateway is gone")
    storm.recording.seconds = trio.current_time() - storm.start
    return VirtualRun(storm.recording, tuple(storm.transcript))


class _Storm:
    """One run. Keeps the protocols of clients and of control connections."""

    def __init__(
        self, program: Program, network: VirtualNetwork, bounds: Bounds, profile: Profile
    ) -> None:
        self.network: Network = network
        self.target = network.target
        self.bounds = bounds
        self.start = 0.0
        self.recording = Recording(seed=program.seed, url=self.target.url, profile=profile)
        self.transcript: list[str] = []
        self._program = program
        self._oracle = Oracle(self.recording, profile, bounds)

    async def run(self, gateway: Gateway) -> None:
        """Play all clients beside a control connection, then see what is left."""
        self.start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(self.bounds.controls):
                control = Control(
                    number, "echo", "", self.network, self.target, self, interval=_TALK
                )
                await nursery.start(control.run)
            with trio.move_on_after(self._program.duration + self.bounds.patience):
                async with trio.open_nursery() as clients:
                    for script in self._program.scripts:
                        clients.start_soon(self._play, script)
            nursery.cancel_scope.cancel()
        await self._look_at(gateway)

    async def _play(self, script: Script) -> None:
        await trio.sleep(script.start)
        await Client(script, self, self._ended).run()

    def _ended(self, record: Record) -> None:
        self._oracle.judge(record)
        self.transcript.extend(tell_record(record))

    async def _look_at(self, gateway: Gateway) -> None:
        with trio.move_on_after(self.bounds.settle):
            while any(_holdings(gateway).values()):  # noqa: ASYNC110  # it tells nobody
                await trio.sleep(_LOOK)
        self.recording.after = _holdings(gateway)
        for finding in self._oracle.compare(dict.fromkeys(_HOLDINGS, 0.0), self.recording.after):
            self._oracle.find(finding)

    # What clients need.

    async def enter(self) -> None:
        self.recording.connects += 1
        await trio.lowlevel.checkpoint()

    def leave(self) -> None:
        pass

    def lacking(self) -> None:
        self.recording.lacking += 1

    def path(self, _script: Script) -> str:
        return self.target.path

    async def restart(self) -> None:
        await trio.lowlevel.checkpoint()

    # What control connections need.

    @property
    def excused(self) -> bool:
        return False

    def lag_since(self, _second: float) -> float:
        return 0.0  # no time passes while this process is at work

    def control(self, latency: float) -> None:
        self.transcript.append(f"control {latency:.6f}")

    def lost(self, rule: str, message: str) -> None:
        self._oracle.find(Finding(rule, message, trio.current_time() - self.start))


class _Logs(logging.Handler):
    """While entered: an error that the gateway logs is a finding, and goes nowhere else."""

    def __init__(self, storm: _Storm) -> None:
        super().__init__(logging.ERROR)
        self._storm = storm
        self._logger = logging.getLogger("trio_gateway")
        self._propagated = self._logger.propagate

    def emit(self, record: logging.LogRecord) -> None:
        if not record.msg.startswith(_EXPECTED_LOGS):
            why: Any = record.exc_info[1] if record.exc_info else None
            self._storm.lost("exception", f"{record.getMessage()}: {why!r}")

    def __enter__(self) -> None:
        self._logger.addHandler(self)
        self._logger.propagate = False

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated


def _holdings(gateway: Gateway) -> dict[str, float]:
    statistics = gateway.statistics()
    return {name: getattr(statistics, name) for name in _HOLDINGS}


def _name_of(error: Exception) -> str:
    cause = error.__cause__
    return errno.errorcode.get(cause.errno or 0, "?") if isinstance(cause, OSError) else str(error)
