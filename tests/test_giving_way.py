"""A gateway that gives way to another on the same sockets."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from trio_gateway import Drain, Gateway, Upgrade
from trio_gateway.testing import MemoryListener, OpenGateway, open_gateway


async def echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


async def reason_of(client: WebSocketConnection) -> tuple[int, float]:
    """Wait for the end; return the code and the seconds until the return."""
    with pytest.raises(ConnectionClosed):
        await client.get_message()
    assert client.closed is not None
    word, _, milliseconds = (client.closed.reason or "").partition(" ")
    assert "retry" == word
    return int(client.closed.code), int(milliseconds) / 1000


@attrs.define
class Told:
    """What clients were told, in order."""

    times: list[float] = attrs.Factory(list)
    returns: list[float] = attrs.Factory(list)

    async def wait(self, client: WebSocketConnection) -> None:
        code, seconds = await reason_of(client)
        assert 1012 == code
        self.times.append(trio.current_time())
        self.returns.append(seconds)


@asynccontextmanager
async def talking(server: OpenGateway, clients: int) -> AsyncGenerator[Told, None]:
    told = Told()
    async with trio.open_nursery() as nursery:
        for _ in range(clients):

            async def talk(*, task_status: trio.TaskStatus[None]) -> None:
                async with server.open_websocket("/") as client:
                    task_status.started()
                    await told.wait(client)

            await nursery.start(talk)
        yield told


@pytest.mark.parametrize("clients", [3, 200])
async def test_all_are_told_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, clients: int
) -> None:
    """In no time; their return is spread instead, as far as the closes would have been."""
    drain = Drain(grace=30, closes_per_second=10, min_retry=1, max_retry=2)
    async with open_gateway(echo, drain=drain) as server, talking(server, clients) as told:
        began = trio.current_time()
        await nursery.start(partial(server.gateway.drain, at_once=True))
        assert began == trio.current_time()
    assert [began] * clients == told.times
    assert 1 <= min(told.returns)
    assert max(told.returns) <= max(2, 1 + clients / 10)
    assert clients < 100 or max(told.returns) > 15


async def test_a_grace_period_that_is_too_short(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """``drain()`` says that all are told even when it has to give up."""
    async with open_gateway(echo, drain=Drain(grace=0.001)) as server:
        stream = await server.connect()
        await nursery.start(server.gateway.drain)
        await stream.aclose()


async def test_accepting_no_more(nursery: trio.Nursery) -> None:
    """Who is here goes on, who comes waits for the next gateway, which is told of no conflict."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    copy = trio.SocketListener(trio.socket.fromfd(*_parts(listener)))
    url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
    first = Gateway(echo, [listener])
    await nursery.start(first.run)
    async with open_websocket_url(url) as client:
        for _ in range(2):
            await first.stop_accepting()
        await client.send_message("still here")
        assert "still here" == await client.get_message()
        assert first.ready
        waiting = await trio.open_tcp_stream("127.0.0.1", copy.socket.getsockname()[1])
        async with waiting:
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert 1 == first.statistics().sockets
            await client.aclose()
            await first.drain()
            await trio.testing.wait_all_tasks_blocked()
            second = Gateway(echo, [copy])
            await nursery.start(second.run)
            await waiting.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await waiting.receive_some()).startswith(b"HTTP/1.1 426 ")
            await second.drain()


def _parts(listener: trio.SocketListener) -> tuple[int, int, int]:
    sock = listener.socket
    return sock.fileno(), sock.family, sock.type


async def test_accepting_no_more_streams(nursery: trio.Nursery) -> None:
    """A listener that is no socket is left alone likewise."""
    listener = MemoryListener()
    gateway = Gateway(echo, [listener])
    await nursery.start(gateway.run)
    await gateway.stop_accepting()
    with pytest.raises(OSError):
        await listener.connect()
    await gateway.drain()
