"""The brokers against the public conformance machine, and broken ones that it must find out."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from trio_gateway.hub.broker import Broker, Page, Publication, Retention
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position
from trio_gateway.hub.sqlite import open_sqlite
from trio_gateway.testing.broker import BrokerMachine

_SETTINGS = settings(max_examples=40, stateful_step_count=30, deadline=None)


class MemoryMachine(BrokerMachine):
    @asynccontextmanager
    async def open(
        self, retention: Retention, clock: Callable[[], float]
    ) -> AsyncGenerator[Broker, None]:
        yield self.make(retention)

    def make(self, retention: Retention) -> Broker:
        return MemoryBroker(retention=retention)


class SqliteMachine(BrokerMachine):
    """Crashes as a killed process does: what comes after has the files as they lay there."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="trio-gateway-"))
        self.life = 0

    def path(self) -> Path:
        return self.folder / f"{self.life}.db"

    def open(
        self, retention: Retention, clock: Callable[[], float]
    ) -> AbstractAsyncContextManager[Broker]:
        return open_sqlite(self.path(), retention=retention, clock=clock)

    def crash(self) -> None:
        before = self.path()
        self.life += 1
        for suffix in ("", "-wal"):
            if (source := Path(f"{before}{suffix}")).exists():
                shutil.copy(source, f"{self.path()}{suffix}")

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class ForgetsKeys(MemoryBroker):
    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        return await super().publish(topic, payload)


class DeliversTwice(MemoryBroker):
    async def run(self, deliver: Callable[[Publication], None], **rest: Any) -> None:
        def twice(publication: Publication) -> None:
            deliver(publication)
            deliver(publication)

        await super().run(twice, **rest)


class RecoversAnything(MemoryBroker):
    async def history(self, topic: str, **rest: Any) -> Page:
        page = await super().history(topic, **rest)
        return Page(page.publications, page.position, True, page.more, page.first)


class ReusesEpochs(MemoryBroker):
    def _epoch(self, topic: str) -> str:
        return "always"


class MovesBack(MemoryBroker):
    def _cursor(self, topic: str, reader: str) -> int:
        return 0


class KeepsTooMuch(MemoryBroker):
    def __init__(self, *, retention: Retention) -> None:
        super().__init__(retention=Retention(max_publications=retention.max_publications + 1))


class DeafAfterUnsubscribe(MemoryBroker):
    async def unsubscribe(self, topic: str) -> None:
        self._rest(topic) if topic in self._histories else None


def run(machine: type[BrokerMachine], options: settings = _SETTINGS) -> None:
    run_state_machine_as_test(machine, settings=options)


def test_nothing_else_of_testing_needs_hypothesis() -> None:
    """It is loaded by the machine's own module alone."""
    program = "import sys; sys.modules['hypothesis'] = None; import trio_gateway.testing"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2]
    )
    assert 0 == done.returncode


def test_memory_conforms() -> None:
    """The broker in memory keeps the contract."""
    run(MemoryMachine)


def test_sqlite_conforms() -> None:
    """The broker in a file keeps the contract, over crashes too."""
    run(SqliteMachine)


@pytest.mark.parametrize(
    "broken",
    [
        ForgetsKeys,
        DeliversTwice,
        RecoversAnything,
        ReusesEpochs,
        MovesBack,
        KeepsTooMuch,
        DeafAfterUnsubscribe,
    ],
)
def test_a_broken_broker_is_found_out(broken: Callable[..., Broker]) -> None:
    """The machine fails where a promise is broken."""

    class Broken(MemoryMachine):
        def make(self, retention: Retention) -> Broker:
            return broken(retention=retention)

    hunt = settings(
        max_examples=400,
        stateful_step_count=40,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        print_blob=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    with pytest.raises(AssertionError):
        run(Broken, hunt)


def test_a_store_that_loses_what_it_acknowledged_is_found_out() -> None:
    """The machine fails where a broker says it is durable and isn't."""

    class Forgetful(MemoryMachine):
        durable = True

    with pytest.raises(AssertionError):
        run(Forgetful, settings(_SETTINGS, phases=[Phase.generate], database=None))
