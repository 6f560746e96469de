"""A pytest fixture: ``storm``, for the tests of any Trio server.

In: ``pytest_plugins = ["trio_gateway.storm.pytest_plugin"]`` in a ``conftest.py``. Out: the
fixture. The rule: no entry point registers it; a test run without a storm imports none. ::

    async def test_it_survives(nursery: trio.Nursery, storm: Storm) -> None:
        listeners = await nursery.start(my_server)
        await storm(listeners[0], seed=7, clients=100)
"""

from collections.abc import Collection
from typing import Any, Protocol

import pytest

from trio_gateway.storm.generate import generate
from trio_gateway.storm.program import Program
from trio_gateway.storm.progress import summary
from trio_gateway.storm.record import Recording
from trio_gateway.storm.run import run_storm


class Storm(Protocol):
    """The type of the fixture."""

    async def __call__(
        self,
        place: Any,
        program: Program | None = None,
        *,
        seed: int = 0,
        clients: int = 100,
        duration: float = 1.0,
        faults: Collection[str] = (),
        **options: Any,
    ) -> Recording:
        """Run a storm; what it finds fails the test, with the transcripts.

        Arguments:
            place: a URL on loopback, or a listener of this process.
            program: the storm; made of the next arguments if there is none.
            seed: what it is made from.
            clients: how many.
            duration: seconds in which they start.
            faults: names; all if there are none.
            options: keyword arguments of ``run_storm()``.

        Raises:
            AssertionError: something was found.
        """
        ...


@pytest.fixture
def storm() -> Storm:
    """Return a function that runs a storm and fails the test for what it finds."""

    async def run(
        place: Any,
        program: Program | None = None,
        *,
        seed: int = 0,
        clients: int = 100,
        duration: float = 1.0,
        faults: Collection[str] = (),
        **options: Any,
    ) -> Recording:
        if program is None:
            program = generate(seed, clients=clients, duration=duration, faults=faults)
        recording = await run_storm(place, program, **options)
        if not recording.clean:
            pytest.fail("\n".join(summary(recording)), pytrace=False)
        return recording

    return run
