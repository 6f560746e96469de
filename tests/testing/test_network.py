"""VirtualNet: what a network does to connections, in virtual time, the same for the same seed."""

import contextlib
import errno
import ssl
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock

from tests.properties.scheduling import schedule
from tests.transport.fakes import on_virtual_time
from trio_gateway import Gateway, Timeouts, Upgrade
from trio_gateway.testing import (
    Conditions,
    VirtualNet,
    VirtualPoller,
    VirtualStream,
)
from trio_gateway.transport.pollers import READ

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT = b"\x81\x85\0\0\0\0hello"


async def pair(
    net: VirtualNet, conditions: Conditions | None = None
) -> tuple[VirtualStream, VirtualStream]:
    listener = net.listen_streams()
    client = await net.connect(listener.address, conditions=conditions)
    server = await listener.accept()
    await listener.aclose()
    return client, server


async def echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


async def seconds(call: Any, *arguments: Any) -> float:
    """Await a call and return how long it took."""
    begun = trio.current_time()
    await call(*arguments)
    return trio.current_time() - begun


# As a Trio stream.


@pytest.mark.parametrize("latency", [0.0, 0.01])
async def test_streams_keep_trios_contract(latency: float) -> None:
    """Trio's own checks of a half-closeable stream find nothing."""
    net = VirtualNet(conditions=Conditions(latency=latency))

    async def clogged() -> tuple[VirtualStream, VirtualStream]:
        small = Conditions(latency=latency, send_buffer=1, receive_buffer=1, client_buffer=1)
        client, server = await pair(net, small)
        for stream in (client, server):
            with contextlib.suppress(BlockingIOError):
                while True:
                    stream.socket.send(b"x")
        return client, server

    await trio.testing.check_half_closeable_stream(partial(pair, net), clogged)


async def test_a_reset_breaks_the_other_end(autojump_clock: MockClock) -> None:
    """What had come is still read, then both directions are broken."""
    client, server = await pair(VirtualNet())
    await client.send_all(b"last words")
    client.reset()
    client.reset()
    assert b"last words" == await server.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")


async def test_closing_wakes_who_waits(autojump_clock: MockClock) -> None:
    """A task that waits for bytes on a stream that another closes is told so."""
    client, _ = await pair(VirtualNet())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.aclose)
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some()


# Time.


async def test_latency_and_bandwidth(autojump_clock: MockClock) -> None:
    """Bytes take their latency, and as long as the line needs for so many."""
    net = VirtualNet(conditions=Conditions(latency=0.5, bandwidth=1_000, segment=100))
    listener = net.listen_streams()
    assert 1.0 == pytest.approx(await seconds(net.connect, listener.address))
    client = await net.connect(listener.address)
    server = await listener.accept()
    server = await listener.accept()
    begun = trio.current_time()
    await client.send_all(b"x" * 1_000)
    received = b""
    while len(received) < 1_000:
        received += await server.receive_some()
    assert 1.5 == pytest.approx(trio.current_time() - begun)


async def test_segments_arrive_by_themselves(autojump_clock: MockClock) -> None:
    """What is sent at once comes in segments, in order, however they are delayed."""
    hard = Conditions(latency=0.1, jitter=0.5, loss=0.3, segment=3)
    client, server = await pair(VirtualNet(seed=5, conditions=hard))
    await client.send_all(bytes(range(200)))
    await client.send_eof()
    pieces = [piece async for piece in server]
    assert bytes(range(200)) == b"".join(pieces)
    assert len(pieces) > 2


def test_a_seed_is_a_network() -> None:
    """The same seed gives every byte at the same time, another one another."""

    async def arrivals(seed: int) -> list[tuple[float, bytes]]:
        hard = Conditions(latency=0.1, jitter=0.5, loss=0.3, segment=10)
        client, server = await pair(VirtualNet(seed, conditions=hard))
        await client.send_all(bytes(100))
        await client.send_eof()
        return [(trio.current_time(), bytes(piece)) async for piece in server]

    first, again, other = (on_virtual_time(arrivals, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


async def test_a_window_holds_the_sender_back(autojump_clock: MockClock) -> None:
    """A peer that does not read takes its buffer and ours, and no more until it reads."""
    small = Conditions(latency=0.1, send_buffer=100, receive_buffer=200)
    client, server = await pair(VirtualNet(conditions=small))
    with trio.move_on_after(10):
        await client.send_all(bytes(250))
    with trio.move_on_after(10) as scope:
        await client.send_all(bytes(500))
    assert scope.cancelled_caught
    taken = b""
    with trio.move_on_after(10):
        while True:
            taken += await server.receive_some()
    assert 300 == len(taken)
    await client.send_all(b"again")


# Listening.


async def test_nobody_listens(autojump_clock: MockClock) -> None:
    """A connection to nobody, or to who has closed, is refused after one way there and back."""
    net = VirtualNet(conditions=Conditions(latency=1))
    listener = net.listen()
    await listener.aclose()
    for address in (listener.address, ("127.0.0.1", 9)):
        begun = trio.current_time()
        with pytest.raises(ConnectionRefusedError):
            await net.connect(address)
        assert 2.0 == trio.current_time() - begun
    net.listen(listener.address[1])
    with pytest.raises(OSError, match="Address already in use"):
        net.listen(listener.address[1])


async def test_a_full_backlog_gives_no_answer(autojump_clock: MockClock) -> None:
    """One more than the backlog fits; the next asks again, at last in vain."""
    net = VirtualNet()
    listener = net.listen_streams(backlog=1)
    for _ in range(2):
        await net.connect(listener.address)
    with pytest.raises(TimeoutError):
        await net.connect(listener.address)
    assert 127 == trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(net.connect, listener.address)
        await trio.sleep(2)
        await listener.accept()
    assert 127 + 3 == trio.current_time()


async def test_closing_resets_who_waits_to_be_accepted(autojump_clock: MockClock) -> None:
    """As Linux does."""
    net = VirtualNet()
    listener = net.listen_streams()
    client = await net.connect(listener.address)
    await listener.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_descriptors_run_out(autojump_clock: MockClock) -> None:
    """``accept()`` raises EMFILE, and the connection waits until one is given back."""
    net = VirtualNet(max_descriptors=2)
    listener = net.listen_streams()
    first = await net.connect(listener.address)
    await net.connect(listener.address)
    server = await listener.accept()
    with pytest.raises(OSError) as caught:
        await listener.accept()
    assert errno.EMFILE == caught.value.errno
    await server.aclose()
    await listener.accept()
    assert 2 == net.descriptors
    assert b"" == await first.receive_some()


async def test_a_cancelled_connect_leaves_nothing(autojump_clock: MockClock) -> None:
    """Who was given up half-way is accepted as a connection that is reset, or not at all."""
    for after in (0.5, 1.5):
        net = VirtualNet(conditions=Conditions(latency=1))
        listener = net.listen_streams()
        with trio.move_on_after(after):
            await net.connect(listener.address)
        await trio.sleep(10)
        assert 0 == len(net._clients.open)
        with trio.move_on_after(1) as scope:
            server = await listener.accept()
            with pytest.raises(trio.BrokenResourceError):
                await server.receive_some()
        assert scope.cancelled_caught == (after == 0.5)


# The poller.


async def test_the_poller_is_level_triggered_and_fair(autojump_clock: MockClock) -> None:
    """What is ready is told again, in turn, until it is read, whatever few are asked for."""
    net = VirtualNet()
    listener = net.listen_streams()
    clients = [await net.connect(listener.address) for _ in range(3)]
    servers = [await listener.accept() for _ in clients]
    fds = [server.socket.fileno() for server in servers]
    poller = VirtualPoller(net._server)
    for fd in fds:
        poller.register(fd, READ)
    assert [] == poller.poll(8)
    for client in clients:
        await client.send_all(b"x")
    assert [[fds[0], fds[1]], [fds[2], fds[0]], [fds[1], fds[2]]] == [
        [fd for fd, _ in poller.poll(2)] for _ in range(3)
    ]
    servers[1].socket.recv(9)
    poller.modify(fds[0], 0)
    assert [(fds[2], READ)] == poller.poll(8)
    await poller.wait()
    servers[2].socket.recv(9)
    with trio.move_on_after(1) as scope:
        await poller.wait()
    assert scope.cancelled_caught
    with pytest.raises(FileExistsError):
        poller.register(fds[0], READ)
    poller.forget(fds[0])
    with pytest.raises(FileNotFoundError):
        poller.modify(fds[0], READ)
    poller.close()


async def test_a_poller_in_a_poller(autojump_clock: MockClock) -> None:
    """The outer one is ready, and wakes who waits, for as long as anything in the inner one is."""
    net = VirtualNet()
    listener = net.listen_streams()
    clients = [await net.connect(listener.address) for _ in range(2)]
    fds = [(await listener.accept()).socket.fileno() for _ in clients]
    outer = VirtualPoller(net._server)
    number, inner = outer.nest()
    for fd in fds:
        inner.register(fd, READ)
    assert ([], []) == (outer.poll(8), inner.poll(8))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outer.wait)
        await trio.testing.wait_all_tasks_blocked()
        await clients[0].send_all(b"x")
    assert ([(number, READ)], [(fds[0], READ)]) == (outer.poll(8), inner.poll(8))
    inner.unregister(fds[0])
    assert [] == outer.poll(8)
    with pytest.raises(FileNotFoundError):
        inner.unregister(fds[0])
    outer.close()
    inner.close()


# Under a gateway.


async def serve(nursery: trio.Nursery, listener: Any, **settings: Any) -> Gateway:
    gateway: Gateway = await nursery.start(Gateway(echo, [listener], **settings).run)
    return gateway


async def talk(client: trio.abc.Stream) -> bytes:
    await client.send_all(UPGRADE + TEXT)
    received = b""
    while not received.endswith(b"hello"):
        received += await client.receive_some()
    return received


async def test_a_gateway_pumps_a_virtual_listener(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A handler has its peer's address, no task reads its socket, and nothing is left."""
    net = VirtualNet(conditions=Conditions(latency=0.01, segment=10))
    listener = net.listen()
    gateway = await serve(nursery, listener)
    assert listener.address[1] == gateway.port
    tasks = trio.lowlevel.current_statistics().tasks_living
    client = await net.connect(listener.address, host="192.0.2.7")
    assert (await talk(client)).startswith(b"HTTP/1.1 101")
    assert 1 == gateway.statistics().connections
    assert {"192.0.2.7"} == {link.address for link in gateway._reception._links}
    # The handler's, and the network's own.
    assert trio.lowlevel.current_statistics().tasks_living <= tasks + 2
    client.reset()
    await trio.sleep(1)
    assert 0 == gateway.statistics().sockets
    await gateway.drain()
    assert 0 == net.descriptors


async def test_a_gateway_reads_virtual_streams(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The path of streams serves the same."""
    net = VirtualNet()
    listener = net.listen_streams()
    gateway = await serve(nursery, listener)
    assert (await talk(await net.connect(listener.address))).startswith(b"HTTP/1.1 101")
    await gateway.drain(1)
    await trio.testing.wait_all_tasks_blocked()
    assert 0 == net.descriptors


async def test_tls_over_a_virtual_network(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """TLS goes over it, dribbled and late."""
    ca = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("example.org").configure_cert(server_context)
    client_context = ssl.create_default_context()
    ca.configure_trust(client_context)
    net = VirtualNet(conditions=Conditions(latency=0.01, segment=50))
    plain = net.listen_streams()
    gateway = await serve(nursery, trio.SSLListener(plain, server_context, https_compatible=True))
    stream = trio.SSLStream(
        await net.connect(plain.address), client_context, server_hostname="example.org"
    )
    assert (await talk(stream)).startswith(b"HTTP/1.1 101")
    await gateway.drain(1)


async def test_a_gateway_out_of_descriptors_backs_off(
    nursery: trio.Nursery, caplog: Any, autojump_clock: MockClock
) -> None:
    """It logs one line, lets others wait in the backlog, and takes them when it can."""
    net = VirtualNet(max_descriptors=3)
    listener = net.listen()
    await serve(nursery, listener)
    first, second = [await net.connect(listener.address) for _ in range(2)]
    await talk(first)
    await trio.sleep(0.5)
    assert 1 == len(caplog.records)
    assert "cannot accept connections" in caplog.text
    caplog.clear()
    first.reset()
    assert (await talk(second)).startswith(b"HTTP/1.1 101")


async def test_a_silent_peer_behind_a_bad_line_is_timed_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A request that dribbles in over a thin line has ten seconds, as on any other."""
    net = VirtualNet(conditions=Conditions(latency=0.1, bandwidth=10, segment=1))
    listener = net.listen()
    gateway = await serve(nursery, listener, timeouts=Timeouts(handshake_timeout=10))
    client = await net.connect(listener.address)
    await client.send_all(UPGRADE)
    received = b"".join([data async for data in client])
    assert received.startswith(b"HTTP/1.1 408")
    assert 10 < trio.current_time()
    assert 0 == gateway.statistics().upgrades_accepted


async def test_virtual_and_real_listeners_together(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """One gateway serves both: the virtual one by its pump, the real one by streams."""
    net = VirtualNet()
    virtual = net.listen()
    (real,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    gateway: Gateway = await nursery.start(Gateway(echo, [virtual, real]).run)
    assert (await talk(await net.connect(virtual.address))).startswith(b"HTTP/1.1 101")
    client = await trio.testing.open_stream_to_socket_listener(real)
    assert (await talk(client)).startswith(b"HTTP/1.1 101")
    await client.aclose()
    await gateway.drain(1)


def test_runs_with_one_order_are_the_same() -> None:
    """With the order of tasks seeded too, a gateway's answers come at the same moments."""

    async def moments() -> list[tuple[float, bytes]]:
        net = VirtualNet(3, conditions=Conditions(latency=0.01, jitter=0.02, segment=20))
        listener = net.listen()
        seen: list[tuple[float, bytes]] = []

        async def one(number: int) -> None:
            client = await net.connect(listener.address)
            await client.send_all(UPGRADE + TEXT * number)
            with trio.move_on_after(1):
                async for data in client:
                    seen.append((trio.current_time(), bytes(data)))  # noqa: PERF401  # as it comes
            client.reset()

        async with trio.open_nursery() as nursery:
            await serve(nursery, listener)
            async with trio.open_nursery() as clients:
                for number in range(5):
                    clients.start_soon(one, number)
            nursery.cancel_scope.cancel()
        return seen

    runs = []
    for _ in range(2):
        schedule(11)
        runs.append(on_virtual_time(moments))
    assert runs[0] == runs[1]
    assert len(runs[0]) > 10
