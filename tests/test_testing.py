"""The memory listener and the gateway that runs over it."""

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, ConnectionRejected

from trio_gateway import Drain, Router, Timeouts, Upgrade
from trio_gateway.testing import MemoryListener, MemoryStream, open_gateway

Clock = trio.testing.MockClock


async def _echo(upgrade: Upgrade) -> None:
    subprotocol = next(iter(upgrade.proposed_subprotocols), None)
    connection = await upgrade.accept(subprotocol=subprotocol)
    async for message in connection:
        await connection.send_message(message)


async def _no(upgrade: Upgrade) -> None:
    await upgrade.reject(418, body=b"short and stout")


@pytest.fixture
def router() -> Router:
    router = Router()
    router.route("/echo", _echo)
    router.route("/no", _no)
    return router


async def _pair(
    max_buffered_bytes: int | None = None,
) -> tuple[MemoryStream, MemoryStream]:
    listener = MemoryListener(max_buffered_bytes=max_buffered_bytes)
    client = await listener.connect()
    return client, await listener.accept()


async def _clogged_pair() -> tuple[MemoryStream, MemoryStream]:
    client, server = await _pair(max_buffered_bytes=1)
    await client.send_all(b"x")
    await server.send_all(b"x")
    return client, server


async def test_a_memory_connection_is_a_trio_stream(autojump_clock: Clock) -> None:
    """Both ends do what Trio asks of a half-closeable stream."""
    await trio.testing.check_half_closeable_stream(_pair, None)
    await trio.testing.check_two_way_stream(_pair, _clogged_pair)


async def test_a_full_connection_makes_its_sender_wait(autojump_clock: Clock) -> None:
    """No more is on its way than the bound, and all of it arrives."""
    client, server = await _pair(max_buffered_bytes=4)
    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"0123456789")
        await trio.testing.wait_all_tasks_blocked()
        while len(received) < 10:
            data = await server.receive_some()
            assert len(data) <= 4
            received += data
    assert b"0123456789" == received


async def test_a_reset_breaks_both_directions_at_once(autojump_clock: Clock) -> None:
    """Who waits is woken, who sends fails, and what was on its way is lost."""
    client, server = await _pair()
    await client.send_all(b"lost")
    client.send_stream.reset()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    client, server = await _pair(max_buffered_bytes=1)
    with pytest.RaisesGroup(trio.BrokenResourceError, trio.BrokenResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.receive_some)
            nursery.start_soon(server.send_all, b"xx")
            await trio.testing.wait_all_tasks_blocked()
            client.send_stream.reset()


async def test_a_closed_listener_refuses_and_resets() -> None:
    """Nobody connects to a closed listener; who has not been accepted is told."""
    listener = MemoryListener()
    waiting = await listener.connect()
    await listener.aclose()
    await listener.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await waiting.receive_some()
    with pytest.raises(ConnectionRefusedError):
        await listener.connect()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


@pytest.mark.parametrize("max_bytes", [0, -1])
async def test_bounds_are_positive(max_bytes: int) -> None:
    """A connection that could hold nothing is refused where it is asked for."""
    with pytest.raises(ValueError, match="max_buffered_bytes"):
        MemoryListener(max_buffered_bytes=max_bytes)
    _client, server = await _pair()
    with pytest.raises(ValueError, match="max_bytes"):
        await server.receive_some(max_bytes)


async def test_a_websocket_reaches_its_handler(router: Router) -> None:
    """Messages, subprotocol and headers pass; the close at the end is a normal one."""
    async with open_gateway(router) as server:
        async with server.open_websocket(
            "/echo", subprotocols=["b", "a"], extra_headers=[(b"x-test", b"1")]
        ) as client:
            await client.send_message("hello")
            assert "hello" == await client.get_message()
            assert "b" == client.subprotocol
            assert 1 == server.gateway.statistics().connections
        assert client.closed is not None
        assert 1000 == client.closed.code
        await trio.testing.wait_all_tasks_blocked()
        assert {1000: 1} == server.gateway.statistics().closes


async def test_a_rejection_is_raised(router: Router) -> None:
    """What the client raises is what was answered, not a group of it."""
    async with open_gateway(router) as server:
        with pytest.raises(ConnectionRejected) as caught:
            async with server.open_websocket("/no"):
                raise AssertionError("accepted")
        assert 418 == caught.value.status_code
        assert b"short and stout" == caught.value.body


async def test_raw_bytes_are_answered(router: Router) -> None:
    """A raw connection sends what no client would."""
    async with open_gateway(router) as server:
        client = await server.connect()
        await client.send_all(b"\x00")
        assert (await client.receive_some()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_settings_are_those_of_serve_websocket(router: Router, autojump_clock: Clock) -> None:
    """A timeout is virtual time: a long one costs none."""
    async with open_gateway(router, timeouts=Timeouts(handshake_timeout=3600)) as server:
        client = await server.connect()
        began = trio.current_time()
        assert b"HTTP/1.1 408" == (await client.receive_some())[:12]
        assert 3600 == pytest.approx(trio.current_time() - began, abs=0.1)


async def test_the_bound_holds_for_the_gateway_too(router: Router, autojump_clock: Clock) -> None:
    """A client that does not read stalls the gateway's sends, as over a socket."""
    async with (
        open_gateway(router, max_buffered_bytes=1000) as server,
        server.open_websocket("/echo") as client,
    ):
        await client.send_message("x" * 100_000)
        assert "x" * 100_000 == await client.get_message()


async def test_leaving_ends_everything(router: Router) -> None:
    """Connections, handlers and the listener end with the ``async with``."""
    async with open_gateway(router) as server:
        raw = await server.connect()
        await raw.send_all(b"GET /ec")
        await trio.testing.wait_all_tasks_blocked()
    statistics = server.gateway.statistics()
    assert (0, 0, 0) == (statistics.sockets, statistics.connections, statistics.handlers)
    assert b"" == await raw.receive_some()
    with pytest.raises(ConnectionRefusedError):
        await server.connect()


async def test_the_bodys_exception_comes_out_as_it_is(router: Router) -> None:
    """Neither context manager wraps it; its cause stays."""
    with pytest.raises(LookupError, match="mine") as caught:
        async with open_gateway(router) as server, server.open_websocket("/echo"):
            raise LookupError("mine") from KeyError("why")
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_drained_gateway_may_still_be_left(router: Router, autojump_clock: Clock) -> None:
    """The polite end: clients learn when to come back."""
    drain = Drain(min_retry=1, max_retry=1)
    async with open_gateway(router, drain=drain) as server:
        async with server.open_websocket("/echo") as client, trio.open_nursery() as nursery:
            nursery.start_soon(server.gateway.drain)
            with pytest.raises(ConnectionClosed) as caught:
                await client.get_message()
        reason = caught.value.reason
        assert reason is not None
        assert (1012, "retry 1000") == (reason.code, reason.reason)
        with pytest.raises(ConnectionRefusedError):
            await server.connect()
