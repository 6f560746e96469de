"""``--workers N``: processes that share a listener and a store, and the supervisor above them."""

import json
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.chatting import Chat
from tests.cli.process import Running, children, gateway, is_running, run
from tests.cluster.server import Server, redis_server
from trio_gateway.client.target import Target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with redis_server() as server:
        yield server


@asynccontextmanager
async def workers(
    redis: Server, count: int, *arguments: str, patience: float = 60
) -> AsyncGenerator[Running, None]:
    """Start a supervisor and wait for all its workers."""
    store = ("--store", redis.url, "--workers", str(count), "--messages-per-second", "0")
    async with gateway(*store, *arguments, patience=patience) as running:
        await running.err.until("supervising")
        yield running


async def status(running: Running, path: str = "/readyz", token: str | None = None) -> int:
    return (await Target.parse(running.url).request("GET", path, token=token)).status


async def upgrade(running: Running, user: str) -> tuple[trio.abc.Stream, bytes]:
    """Ask for an upgrade; return the stream and what came first."""
    stream = await trio.open_tcp_stream("127.0.0.1", running.port)
    await stream.send_all(
        f"GET /?user={user} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode()
    )
    return stream, await stream.receive_some()


async def upgraded(running: Running, user: str) -> trio.abc.Stream:
    """Return a connection that has been opened and is not read."""
    stream, head = await upgrade(running, user)
    assert b" 101 " in head
    return stream


async def ask(
    running: Running, path: str, token: str, method: str = "GET"
) -> tuple[int, dict[str, Any]]:
    answer = await Target.parse(running.url).request(method, path, token=token)
    return answer.status, json.loads(answer.body)


async def turn_pages(running: Running, token: str) -> list[dict[str, Any]]:
    """Return all connections, asked for three at a time, each time of whoever takes the request."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        path = f"/api/connections?limit=3&cursor={cursor}"
        status, page = await ask(running, path, token)
        assert (200, None) == (status, page.get("incomplete"))
        found += page["connections"]
        if page["cursor"] is None:
            return found
        cursor = page["cursor"]


async def test_they_serve_one_address_with_one_token(redis: Server) -> None:
    """One start line, one token for all, and SIGTERM ends them all with status 0."""
    async with workers(redis, 2) as running:
        token = await running.token()
        pids = children(running.process.pid)
        assert 2 == len(pids)
        for _ in range(10):
            assert 200 == await status(running, "/api/rooms/r/members", token)
        assert await running.terminate() == 0
        assert not any(map(is_running, pids))


async def test_metrics_are_everybodys(redis: Server) -> None:
    """Whoever is asked tells the sum, and how many there are."""
    async with workers(redis, 2) as running:
        chat = Chat(running.url, 10)
        async with chat.going_on():
            for _ in range(5):
                answer = await Target.parse(running.url).request("GET", "/metrics")
                text = answer.body.decode()
                assert "trio_gateway_connections 10\n" in text
                assert "trio_gateway_workers 2\n" in text
                families = re.findall("^# TYPE (.*)", text, re.MULTILINE)
                assert len(families) == len(set(families))
        chat.check()


async def test_an_operator_sees_one_gateway(redis: Server) -> None:
    """Whoever is asked lists, counts and closes for all of them."""
    async with workers(redis, 2) as running, AsyncExitStack() as stack:
        token = await running.token()
        pids = children(running.process.pid)
        users = [f"u{number % 3}" for number in range(12)]
        for user in users:
            await stack.enter_async_context(await upgraded(running, user))
        found = await turn_pages(running, token)
        assert users == [each["user"] for each in found]
        status, told = await ask(running, "/api/statistics", token)
        assert (200, set(map(str, pids))) == (status, set(told["workers"]))
        assert 12 == told["gateway"]["connections"]
        assert 12 == sum(each["gateway"]["connections"] for each in told["workers"].values())
        for each in found[::3]:
            path = f"/api/connections/{each['id']}"
            assert 200 == (await ask(running, path, token, "DELETE"))[0]
        status, told = await ask(running, "/api/connections/none", token, "DELETE")
        assert (404, "no_such_connection") == (status, told["error"])
        status, told = await ask(running, "/api/users/u2/disconnect", token, "POST")
        assert (200, 4) == (status, told["disconnected"])


async def test_the_most_connections_are_of_all_workers(redis: Server) -> None:
    """Each admits its share; who tries again comes to one that has room."""
    async with workers(redis, 2, "--max-connections", "3") as running, AsyncExitStack() as stack:
        statuses: list[bytes] = []
        for _ in range(60):
            stream, head = await upgrade(running, "ann")
            await stack.enter_async_context(stream)
            statuses.append(head.split()[1])
        assert (3, 57) == (statuses.count(b"101"), statuses.count(b"503"))


async def test_a_worker_that_hangs_is_named(redis: Server) -> None:
    """What the other knows is told; what the one that hangs may hold is a 503 and no 404."""
    async with workers(redis, 2) as running:
        token = await running.token()
        hung = children(running.process.pid)[0]
        os.kill(hung, signal.SIGSTOP)
        try:
            status, page = await ask(running, "/api/connections", token)
            assert (200, [hung]) == (status, page["incomplete"])
            status, told = await ask(running, "/api/connections/none", token, "DELETE")
            assert (503, "incomplete") == (status, told["error"])
            assert str(hung) in told["message"]
        finally:
            os.kill(hung, signal.SIGCONT)
        assert [] == await turn_pages(running, token)


async def test_a_killed_worker_is_replaced(redis: Server) -> None:
    """The others serve on, nobody is refused, and nothing that was said is lost."""
    async with workers(redis, 2) as running:
        chat = Chat(running.url, 20)
        async with chat.going_on():
            await chat.say_for(0.5)
            before = children(running.process.pid)
            os.kill(before[0], signal.SIGKILL)
            await running.err.until("a worker has ended.*SIGKILL")
            await running.err.until("serving")
            assert 1 == len(set(before) & set(children(running.process.pid)))
            await chat.say_for(0.5)
        chat.check()
        answer = await Target.parse(running.url).request("GET", "/metrics")
        assert b"trio_gateway_worker_restarts_total 1\n" in answer.body


async def look_on(running: Running, token: str) -> None:
    """See that old and new workers are one gateway to an operator all the while."""
    while True:
        status, page = await ask(running, "/api/connections?limit=1000", token)
        assert (200, None) == (status, page.get("incomplete"))
        assert len(page["connections"]) == page["open"]
        await trio.sleep(0.1)


@pytest.mark.parametrize("clients", [60, pytest.param(500, marks=pytest.mark.long)])
@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR2])
async def test_a_rolling_restart(redis: Server, signum: signal.Signals, clients: int) -> None:
    """No connect is refused, no message lost or doubled; each client moves once."""
    async with workers(redis, 2, "--grace", "5", patience=300) as running:
        chat = Chat(running.url, clients)
        before = children(running.process.pid)
        token = await running.token()
        async with chat.going_on(), trio.open_nursery() as nursery:
            await chat.say_for(1)
            nursery.start_soon(look_on, running, token)
            running.process.send_signal(signum)
            await running.err.until("the workers are replaced")
            nursery.cancel_scope.cancel()
            if signum == signal.SIGUSR2:
                await running.err.until("supervising")
            assert set(before).isdisjoint(children(running.process.pid))
            await chat.say_for(1)
        chat.check()
        assert clients == chat.count_breaks()
        assert await running.terminate() == 0


async def test_workers_follow_their_supervisor(redis: Server) -> None:
    """Killed, it leaves nobody behind: they drain, and the port is free."""
    async with workers(redis, 2, "--grace", "1") as running:
        pids = children(running.process.pid)
        running.process.kill()
        with trio.fail_after(20):
            while any(map(is_running, pids)):  # noqa: ASYNC110 - no event of ours
                await trio.sleep(0.05)


async def test_new_settings_that_are_wrong(redis: Server, tmp_path: Path) -> None:
    """The old workers go on, and one line says why."""
    config = tmp_path / "gateway.toml"
    config.write_text("")
    async with workers(redis, 2, "--config", str(config)) as running:
        before = children(running.process.pid)
        config.write_text("prot = 1")
        running.process.send_signal(signal.SIGHUP)
        await running.err.until("unknown key 'prot'")
        await running.err.until("the old ones go on")
        assert before == children(running.process.pid)
        assert 200 == await status(running)


async def test_a_second_signal_stops_them(redis: Server) -> None:
    """A drain that a deaf client holds up is ended, with status 0."""
    async with workers(redis, 2, "--grace", "1000") as running, await upgraded(running, "ann"):
        running.process.send_signal(signal.SIGTERM)
        await running.err.until("draining")
        assert await running.terminate() == 0


@pytest.mark.parametrize("store", ["memory", "sqlite:x.db"])
async def test_a_store_of_one_process(store: str) -> None:
    """It is refused in one line, with status 2."""
    ended = await run("--workers", "2", "--store", store)
    assert (2, 1) == (ended.status, len(ended.err))
    assert "--workers: more than one needs a store that they share" in ended.err[0]


async def test_wrong_settings_are_told_once(redis: Server) -> None:
    """What only a worker finds out ends the supervisor too: one line, status 2."""
    ended = await run(
        *("--workers", "3", "--store", redis.url, "--port", "0"),
        *("--auth", "jwt", "--jwt-key", "/no/such/key"),
    )
    assert (2, 1) == (ended.status, len(ended.err))
    assert "/no/such/key" in ended.err[0]
