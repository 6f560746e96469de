"""Whatever clients send and handlers do, at once and in any order: the gateway's guarantees hold.

A program is run in one ``trio.run()`` on virtual time; then what each client received is read by
h11 and by the letter of RFC 6455, and compared with what its handler did.
"""

import pytest
import trio
from hypothesis import given, settings

from tests.properties.judge import check
from tests.properties.named import NAMED, one
from tests.properties.programs import Program, programs
from tests.properties.scheduling import schedule
from tests.properties.world import World


@settings(max_examples=3 * settings().max_examples)
@given(programs)
def test_any_program_keeps_the_guarantees(program: Program) -> None:
    """One 101 a socket, no HTTP behind it, every upgrade answered, nothing left, nobody hurt."""
    check(program)


@pytest.mark.parametrize("program", NAMED.values(), ids=NAMED.keys())
def test_named_programs_keep_the_guarantees(program: Program) -> None:
    """So do those that break servers."""
    check(program)


# The order of tasks is the program's, and nothing else is left to chance.


def test_a_run_is_a_function_of_its_program() -> None:
    """The same program gives every byte at the same time again."""
    clients = tuple(client for program in NAMED.values() for client in program.clients)
    for order in range(3):
        program = Program(clients[order::3], order=order, drain=1.0 if order else None)
        assert World(program).run() == World(program).run()


def test_the_order_of_tasks_is_the_programs() -> None:
    """Of two tasks that decide at once, either may win, and it is the same one every time."""

    def winner(order: int) -> int:
        (record,) = World(Program(one("upgrade", deeds="race").clients, order=order)).run()
        return record.accepts

    winners = [winner(order) for order in range(12)]
    assert {0, 1} == set(winners)
    assert winners == [winner(order) for order in range(12)]


def test_every_order_of_tasks_is_possible() -> None:
    """Three tasks run in each of their six orders, sooner or later."""

    async def run() -> str:
        ran = ""

        async def task(name: str) -> None:
            nonlocal ran
            await trio.lowlevel.checkpoint()
            ran += name

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(task, name)
        return ran

    seen = set[str]()
    for order in range(60):
        schedule(order)
        seen.add(trio.run(run))
    assert 6 == len(seen)
