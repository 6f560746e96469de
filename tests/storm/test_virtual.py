"""Storms in virtual time: whatever clients and the network do, the gateway's guarantees hold."""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, note, settings

from tests.properties.scheduling import schedule
from tests.storm.kept import QUICK
from tests.storm.virtual_storms import Case, cases
from tests.transport.fakes import nothing
from trio_gateway import Connection, Gateway, Upgrade, serve_websocket
from trio_gateway.apps.assembly import Application
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.reception import Reception
from trio_gateway.storm import Bounds, Program, generate, loads, run_storm
from trio_gateway.storm.transcript import tell
from trio_gateway.storm.virtual import VirtualNetwork, VirtualRun, run_virtual
from trio_gateway.testing import Conditions, VirtualListener, VirtualNet


def replay_file(program: Program) -> Path:
    """Write a storm as ``storm --replay`` reads it, to run again on real sockets."""
    path = Path(tempfile.gettempdir()) / f"virtual-storm-{os.getpid()}.json"
    path.write_text(program.dumps(), encoding="ascii")
    return path


def check(case: Case) -> None:
    """Run a case; AssertionError tells it, and where the file to replay is."""
    run = case.run()
    if not run.recording.clean:
        note("\n".join([*tell(case.program), *run.transcript]))
        note(f"python -m trio_gateway storm URL --replay {replay_file(case.program)}")
    assert [] == [str(finding) for finding in run.recording.findings]


@given(cases())
def test_any_storm_keeps_the_guarantees(case: Case) -> None:
    """One 101 a socket, well-formed answers in time, nobody else hurt, nothing kept, no error."""
    check(case)


@settings(max_examples=max(1, settings().max_examples // 10))
@given(cases())
def test_a_run_is_a_function_of_its_case(case: Case) -> None:
    """The same storm gives the same transcript, to the last byte and moment."""
    assert case.run().transcript == case.run().transcript


async def echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


def gateway(listener: VirtualListener) -> Gateway:
    return Gateway(echo, [listener])


def blow(program: Program, make: Any = gateway, **world: Any) -> VirtualRun:
    schedule(program.seed)
    return trio.run(
        partial(run_virtual, program, make, **world),
        clock=trio.testing.MockClock(autojump_threshold=0),
    )


def test_a_storm_of_all_faults_is_clean_and_the_same_again() -> None:
    """Sixty clients at once, over a line with latency, jitter and loss; twice."""
    program = generate(1, clients=60, duration=3)
    line = Conditions(latency=0.01, jitter=0.02, loss=0.01, segment=1460)
    first, again = blow(program, conditions=line), blow(program, conditions=line)
    assert [] == [str(finding) for finding in first.recording.findings]
    assert first.transcript == again.transcript
    assert len(first.transcript) > 300


@pytest.mark.long
@pytest.mark.parametrize("seed", range(50))
def test_many_storms_of_all_faults_are_clean(seed: int) -> None:
    """The same with five hundred clients, a seed after the other, few descriptors at times."""
    line = Conditions(latency=0.005, jitter=0.02, loss=0.01, segment=1460) if seed % 2 else None
    run = blow(
        generate(seed, clients=500, duration=5),
        conditions=line,
        max_descriptors=100 if seed % 3 == 0 else float("inf"),
    )
    assert [] == [str(finding) for finding in run.recording.findings]


async def test_the_whole_runner_goes_over_a_virtual_network(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """``run_storm()`` surveys, warms up, samples and judges there too."""
    net = VirtualNet(conditions=Conditions(latency=0.001))
    listener = net.listen()
    await nursery.start(gateway(listener).run)
    network = VirtualNetwork(net, listener)
    recording = await run_storm(
        network.target, generate(2, clients=10, duration=1), network=network, bounds=QUICK
    )
    assert [] == [str(finding) for finding in recording.findings]
    assert recording.controls()


@pytest.mark.parametrize("line", [Conditions(), Conditions(latency=0.002, jitter=0.01)])
async def test_the_applications_stand_a_virtual_storm(
    line: Conditions, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Chat and notifications too, with control connections that chat, and ``/metrics`` asked."""
    net = VirtualNet(conditions=line)
    listener = net.listen()
    await nursery.start(Application(MemoryBroker()).gateway([listener]).run)
    network = VirtualNetwork(net, listener)
    recording = await run_storm(
        network.target,
        generate(5, clients=20, duration=1),
        network=network,
        bounds=Bounds(controls=1),
    )
    assert [] == [str(finding) for finding in recording.findings]
    assert "hub_subscriptions" in recording.baseline


# What must be found.


async def answers_behind_the_101(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    upgrade.link.outbox.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    async for _ in connection:
        pass


def rules(run: VirtualRun) -> set[str]:
    return {finding.rule for finding in run.recording.findings}


async def test_what_fails_in_virtual_time_fails_on_real_sockets(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    """A finding's program, written to a file and read again, finds the same in a real server."""
    program = generate(3, clients=10, duration=0.1, faults=("well-behaved",))
    path = tmp_path / "storm.json"
    path.write_text(program.dumps(), encoding="ascii")

    def make(listener: VirtualListener) -> Gateway:
        return Gateway(answers_behind_the_101, [listener])

    def in_virtual_time() -> VirtualRun:
        return blow(program, make)

    assert "http-after-101" in rules(await trio.to_thread.run_sync(in_virtual_time))
    server: Gateway = await nursery.start(
        partial(serve_websocket, answers_behind_the_101, "127.0.0.1", 0, None)
    )
    again = loads(path.read_text(encoding="ascii"))
    recording = await run_storm(f"ws://127.0.0.1:{server.port}/", again, bounds=QUICK)
    assert "http-after-101" in {finding.rule for finding in recording.findings}
    nursery.cancel_scope.cancel()


def test_an_error_of_the_gateways_own_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it logs about itself is a finding, though the client may notice nothing."""

    def feed(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Connection, "feed", feed)
    assert "exception" in rules(blow(generate(4, clients=3, faults=("well-behaved",))))


def test_what_is_kept_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that still counts a socket when all clients are gone has leaked it."""
    monkeypatch.setattr(Reception, "ended", nothing)
    assert "descriptors" in rules(blow(generate(4, clients=3, faults=("connect-and-vanish",))))
