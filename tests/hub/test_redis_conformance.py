"""The broker in Redis against the public conformance machine, with a real server."""

import secrets
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager

import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, run_state_machine_as_test

from tests.cluster.server import EACH, Server, redis_server
from trio_gateway.hub.broker import Broker, Retention
from trio_gateway.testing.broker import BrokerMachine

redis = pytest.importorskip("trio_gateway.hub.redis", reason="the extra redis is not installed")


@pytest.fixture(scope="module", params=EACH)
def server(request: pytest.FixtureRequest) -> Generator[Server, None, None]:
    with redis_server(program=request.param) as running:
        yield running


def machine(server: Server, **options: object) -> type[BrokerMachine]:
    class RedisMachine(BrokerMachine):
        """Its nodes end and begin anew; what they stored stays."""

        durable = True

        def __init__(self) -> None:
            super().__init__()
            self.prefix = secrets.token_hex(4)

        def open(
            self, retention: Retention, clock: Callable[[], float]
        ) -> AbstractAsyncContextManager[Broker]:
            found: AbstractAsyncContextManager[Broker] = redis.open_redis(
                server.url,
                retention=retention,
                clock=clock,
                # The machine's clock leaps, which says nothing about the server.
                settings=redis.RedisSettings(prefix=self.prefix, deadline=1e9, **options),
            )
            return found

    return RedisMachine


_SETTINGS = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_it_conforms(server: Server) -> None:
    """The broker in Redis keeps the contract, over the ends of its nodes too."""
    run_state_machine_as_test(machine(server), settings=_SETTINGS)


def test_it_conforms_with_payloads_too_large_for_the_wake_up(server: Server) -> None:
    """A wake-up that says only where to read loses nothing that is kept until it is read."""

    class Roomy(machine(server, inline_bytes=2)):  # type: ignore[misc]  # a class made to order
        @initialize()
        def begin(self) -> None:
            super().begin(count=1_000, size=10_000, age=10_000)

    run_state_machine_as_test(Roomy, settings=settings(_SETTINGS, max_examples=10))
