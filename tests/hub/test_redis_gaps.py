"""Hubs on a real Redis that loses what it had: their subscribers stay and are told."""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.cluster.server import Server, redis_server
from tests.hub.fakes import Recorder, line
from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Retention
from trio_gateway.hub.hub import Greet, Hub, Joined, Rejoin, shared

redis = pytest.importorskip("trio_gateway.hub.redis", reason="the extra redis is not installed")

TOPIC = "chat:a"


def again(joined: Joined) -> list[bytes]:
    return [b"recovered\n" if joined.recovered else b"stale\n", *map(line, joined.publications)]


@asynccontextmanager
async def greeting(_: str) -> AsyncGenerator[Greet, None]:
    yield shared(again)


@asynccontextmanager
async def open_hub(
    server: Server, retention: Retention | None = None
) -> AsyncGenerator[tuple[Hub, Recorder], None]:
    """Run a hub with one subscriber."""
    quick = redis.RedisSettings(deadline=2.0, lease=3.0)
    async with redis.open_redis(server.url, settings=quick, retention=retention) as broker:
        hub, one = Hub(broker), Recorder()
        hub.encode_with("chat", line, rejoin=Rejoin(greeting))
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            await hub.subscribe(TOPIC, one, user="u")
            yield hub, one
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what comes from another process."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - of another process
            await trio.sleep(0.01)


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """Try until the store is back."""
    with trio.fail_after(20):
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await trio.sleep(random.uniform(0.02, 0.1))


async def test_an_emptied_store_disconnects_nobody() -> None:
    """FLUSHALL, at both nodes and several times: stale, and the new epoch from its beginning."""
    with redis_server() as server:
        async with open_hub(server) as (near, ann), open_hub(server) as (far, bob):
            await near.publish(TOPIC, b"a")
            await until(lambda: ["1 a"] == ann.lines == bob.lines)
            for round in range(3):
                ann.offers.clear()
                bob.offers.clear()
                server.ask("FLUSHALL")
                await (near, far)[round % 2].publish(TOPIC, b"b")
                await until(lambda: ["stale", "1 b"] == ann.lines == bob.lines)
                await near.publish(TOPIC, b"c")
                await until(lambda: ["stale", "1 b", "2 c"] == ann.lines == bob.lines)
            assert [] == ann.disconnected == bob.disconnected
            assert (3, 3, 3) == (
                *(near.statistics().gaps, near.statistics().rejoined),
                far.statistics().unrecovered,
            )


async def test_a_server_that_comes_back_without_its_data_disconnects_nobody() -> None:
    """Killed and started with nothing: as an emptied one."""
    with redis_server() as server:
        async with open_hub(server) as (near, ann), open_hub(server) as (_, bob):
            await near.publish(TOPIC, b"a")
            await until(lambda: ["1 a"] == ann.lines == bob.lines)
            server.kill()
            server.start()
            await insist(lambda: near.publish(TOPIC, b"b"))
            await until(lambda: ["1 a", "stale", "1 b"] == ann.lines == bob.lines)
            assert [] == ann.disconnected == bob.disconnected


async def test_a_node_that_slept_through_more_than_is_kept_is_told() -> None:
    """Cut off while the others go on: what is trimmed meanwhile makes it stale, not absent."""
    kept = Retention(max_publications=5)
    with redis_server() as server:
        async with (
            open_hub(server, retention=kept) as (near, ann),
            open_hub(server, retention=kept) as (_, bob),
        ):
            await near.publish(TOPIC, b"0")
            await until(lambda: ["1 0"] == ann.lines == bob.lines)
            await near.broker.unsubscribe(TOPIC)
            for number in range(1, 20):
                await near.publish(TOPIC, b"%d" % number)
            await near.broker.subscribe(TOPIC)
            await near.publish(TOPIC, b"20")
            await until(lambda: ann.lines[-1] == bob.lines[-1] == "21 20")
            assert [*(f"{n + 1} {n}" for n in range(21))] == bob.lines
            assert ["1 0", "stale", *(f"{n + 1} {n}" for n in range(16, 21))] == ann.lines
            assert [] == ann.disconnected
