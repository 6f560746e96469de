"""The storm finds each server that must fail, and leaves one alone that is right."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio_websocket

from tests.storm.canaries import wrong
from tests.storm.canaries.base import Canary
from tests.storm.kept import QUICK, Kept
from trio_gateway.storm import Shrunk, Survey, generate, run_storm
from trio_gateway.storm.examine import Examiner
from trio_gateway.storm.sockets import resolve
from trio_gateway.storm.target import Target

MAX_TRIES = 60

CASES = {
    "upgrades twice": (wrong.UpgradesTwice, "two-routes-at-once", {"second-101"}),
    "HTTP behind the 101": (
        wrong.AnswersBehindThe101,
        "two-upgrades-in-one-segment",
        {"http-after-101"},
    ),
    "leaks slots": (wrong.LeaksSlots, "malformed-fields", {"not-accepting"}),
    "goes deaf": (wrong.GoesDeaf, "descriptor-exhaustion", {"deaf"}),
    "dies of a byte": (wrong.DiesOfABigByte, "non-ascii-headers", {"dead"}),
    "waits for the slowest": (
        wrong.WaitsForTheSlowest,
        "never-reader",
        {"control-lost", "outcome"},
    ),
}


async def find_and_shrink(
    kept: Kept, rules: set[str], *, faults: tuple[str, ...], clients: int, duration: float
) -> Shrunk:
    """Storm a server that breaks one of the rules, and make that storm small."""
    await kept.restart()
    begun = time.monotonic()
    program = generate(1, clients=clients, duration=duration, faults=faults)
    recording = await run_storm(kept.url, program, bounds=QUICK, server=kept)
    found = [finding for finding in recording.findings if finding.rule in rules]
    assert found, [str(each) for each in recording.findings]
    seconds = time.monotonic() - begun
    target = Target.parse(kept.url)
    examiner = Examiner(
        target=target,
        network=await resolve(target.host, target.port, tls=False),
        server=kept,
        bounds=QUICK,
    )
    await kept.restart()
    shrunk = await examiner.shrink(program, recording, found[0], max_tries=MAX_TRIES, seconds=60)
    print(
        f"{found[0].rule} after {found[0].second:.1f} s of a storm of {seconds:.1f} s,"
        f" {len(program.scripts)} clients became {len(shrunk.program.scripts)},"
        f" {program.steps} steps {shrunk.program.steps}, {program.sent_bytes} bytes"
        f" {shrunk.program.sent_bytes}, in {shrunk.tries} tries and"
        f" {time.monotonic() - begun - seconds:.1f} s"
    )
    return shrunk


async def trio_websocket_echo(port: int, *, task_status: trio.TaskStatus[Any]) -> None:
    async def echo(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        try:
            while True:
                await connection.send_message(await connection.get_message())
        except trio_websocket.ConnectionClosed:
            pass

    await trio_websocket.serve_websocket(echo, "127.0.0.1", port, None, task_status=task_status)


@pytest.mark.parametrize("server, fault, rules", CASES.values(), ids=CASES.keys())
async def test_a_canary_is_found(
    nursery: trio.Nursery, server: Callable[[], Canary], fault: str, rules: set[str]
) -> None:
    """A small storm of the right fault breaks the rule that the server was made to break."""
    kept = Kept(nursery, server_of(server))
    await kept.restart()
    program = generate(1, clients=24, duration=0.2, faults=[fault])
    recording = await run_storm(
        kept.url,
        program,
        bounds=QUICK,
        known=Survey("any", "echo"),
        until=lambda finding: finding.rule in rules,
    )
    nursery.cancel_scope.cancel()
    assert rules & {finding.rule for finding in recording.findings}


def server_of(make: Callable[[], Canary]) -> Callable[..., Any]:
    async def live(port: int, *, task_status: trio.TaskStatus[Any]) -> None:
        await make().serve(port, task_status=task_status)

    return live


async def test_a_server_that_is_right_is_left_alone(nursery: trio.Nursery) -> None:
    """The canaries' own base breaks no rule under every fault at once."""
    kept = Kept(nursery, server_of(Canary))
    await kept.restart()
    program = generate(3, clients=80, duration=0.3)
    recording = await run_storm(kept.url, program, bounds=QUICK)
    nursery.cancel_scope.cancel()
    assert [] == [str(finding) for finding in recording.findings]
    assert 0 == kept.deaths


async def test_trio_websockets_server_dies_and_the_storm_gets_small(
    nursery: trio.Nursery,
) -> None:
    """A handful of steps of at most three clients is left."""
    kept = Kept(nursery, trio_websocket_echo)
    shrunk = await find_and_shrink(
        kept, {"dead"}, faults=("non-ascii-headers", "garbage"), clients=12, duration=0.1
    )
    nursery.cancel_scope.cancel()
    assert shrunk.reproduced
    assert 1 <= len(shrunk.program.scripts) <= 3
    assert 2 <= shrunk.program.steps <= 6


@pytest.mark.long
@pytest.mark.parametrize("server, fault, rules", CASES.values(), ids=CASES.keys())
async def test_the_full_mix_finds_it_too(
    nursery: trio.Nursery, server: Callable[[], Canary], fault: str, rules: set[str]
) -> None:
    """One storm of every fault is enough, and sixty more make it as small as three clients."""
    kept = Kept(nursery, server_of(server))
    with trio.fail_after(120):
        shrunk = await find_and_shrink(kept, rules, faults=(), clients=200, duration=2.0)
    nursery.cancel_scope.cancel()
    assert shrunk.reproduced
    assert len(shrunk.program.scripts) <= 3


@pytest.mark.long
async def test_the_full_mix_ends_trio_websockets_server(nursery: trio.Nursery) -> None:
    """It dies, and what it died of is a few steps of one client."""
    kept = Kept(nursery, trio_websocket_echo)
    shrunk = await find_and_shrink(kept, {"dead"}, faults=(), clients=200, duration=2.0)
    nursery.cancel_scope.cancel()
    assert shrunk.reproduced
    assert len(shrunk.program.scripts) <= 3
    assert shrunk.program.steps <= 8
