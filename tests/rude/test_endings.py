"""How a gateway ends: drained, cancelled, interrupted, never begun; nothing of it stays behind."""

import json
import os
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket

from tests.rude.peer import CLOSE, Peer, handshake
from tests.rude.programs.running import ENVIRONMENT, program, run_program
from tests.rude.site import (
    GUARD,
    PATIENT,
    Certificates,
    Serve,
    Site,
    Transport,
    descriptors,
    echo,
    open_listener,
    until,
)
from trio_gateway import (
    AlreadyInitialized,
    Drain,
    Gateway,
    HttpRequest,
    HttpResponse,
    ListenerInUse,
    Router,
    Timeouts,
    Upgrade,
    initialize_notification_server,
    serve_websocket,
)

over_each = pytest.mark.parametrize("transport", ["tcp", "tls", "unix"], indirect=True)
over_tcp_and_tls = pytest.mark.parametrize("transport", ["tcp", "tls"], indirect=True)


async def hangs(upgrade: Upgrade) -> None:
    """Accept nothing, reject nothing, never return."""
    await trio.sleep_forever()


async def is_refused(site: Site) -> None:
    with pytest.raises(OSError):
        await site.connect_plainly()


# Drain.


@over_each
async def test_a_drain_tells_everybody_when_to_come_back(serve: Serve) -> None:
    """Connections get 1012 with ``retry MS``; the gateway ends when they have answered."""
    site = await serve(echo, drain=Drain(grace=60, min_retry=0.5, max_retry=5))
    with trio.fail_after(GUARD):
        async with await site.connect() as one, await site.connect() as two:
            await one.upgrade()
            await two.upgrade("/healthy")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(site.gateway.drain)
                for peer in (one, two):
                    (last,) = await peer.frames()
                    assert last.code == 1012
                    word, milliseconds = last.reason.split()
                    assert word == "retry"
                    assert 500 <= int(milliseconds) <= 5000
                    await trio.aclose_forcefully(peer.stream)
        await is_refused(site)
    assert not site.gateway.ready
    assert site.now.sockets == site.now.handlers == 0


@over_each
@pytest.mark.parametrize("sent", [b"", handshake()[:30]], ids=["silent", "half a request"])
async def test_a_drain_and_an_unfinished_request(serve: Serve, sent: bytes) -> None:
    """Who has begun is told 503; who has not is hung up on."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(sent)
            await until(lambda: site.now.pending_handshakes)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(site.gateway.drain)
                if sent:
                    answer = await peer.answer()
                    assert (503, "draining") == (answer.status, answer.error)
                    assert int(answer.headers["retry-after"]) > 0
                assert await peer.rest() == b""
                await trio.aclose_forcefully(peer.stream)


@over_each
async def test_a_drain_and_an_undecided_upgrade(serve: Serve) -> None:
    """It is answered 503 at once, and its handler does not hold the drain up."""
    site = await serve(hangs, drain=Drain(grace=60))
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(handshake())
            await until(lambda: site.now.pending_upgrades)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(site.gateway.drain)
                answer = await peer.answer()
                assert (503, "draining") == (answer.status, answer.error)
                assert int(answer.headers["retry-after"]) > 0
                assert await peer.rest() == b""
                await trio.aclose_forcefully(peer.stream)


async def test_a_drain_and_a_plain_request_in_flight(serve: Serve) -> None:
    """It is answered, and the next one on the same socket is not read any more."""
    go_on = trio.Event()

    async def http(request: HttpRequest) -> HttpResponse:
        await go_on.wait()
        return HttpResponse.json(200, "done")

    site = await serve(echo, http=http)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: site.now.handlers)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(site.gateway.drain)
                await trio.testing.wait_all_tasks_blocked()
                go_on.set()
                assert (await peer.answer()).body == b'"done"\n'
                assert await peer.rest() == b""
                await trio.aclose_forcefully(peer.stream)


@over_each
async def test_a_drain_ends_hard_after_the_grace_period(serve: Serve) -> None:
    """Neither a client that answers no Close nor a handler that does not end is waited for."""
    cancelled = trio.Event()

    async def handler(upgrade: Upgrade) -> None:
        await upgrade.accept()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    site = await serve(handler)
    with trio.fail_after(GUARD):
        async with await site.connect() as peer:
            await peer.upgrade()
            await site.gateway.drain(0.2)
            assert (await peer.frame()).code == 1012
            await cancelled.wait()
            assert await peer.rest() == b""


async def test_two_drains_are_one(serve: Serve) -> None:
    """The second call waits with the first."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.gateway.drain)
            nursery.start_soon(site.gateway.drain)
        await site.gateway.drain()


async def test_a_drain_in_the_middle_of_rudeness(serve: Serve) -> None:
    """Clients that reset while they are told to leave change nothing."""
    site = await serve(echo)
    with trio.fail_after(GUARD):
        peers = [await site.connect() for _ in range(20)]
        for peer in peers:
            await peer.upgrade()
        async with trio.open_nursery() as nursery:
            for peer in peers[::2]:
                await peer.reset()
            nursery.start_soon(site.gateway.drain)
            for peer in peers[1::2]:
                await peer.frame()
                await peer.reset()


# Cancellation and interrupts.


@over_each
async def test_cancellation_of_the_outer_scope(
    transport: Transport, certificates: Certificates, tmp_path: Path
) -> None:
    """Every socket is closed, every handler has run its ``finally``, no descriptor is left."""
    ended = list[str]()

    async def handler(upgrade: Upgrade) -> None:
        try:
            if upgrade.path == "/undecided":
                await trio.sleep_forever()
            connection = await upgrade.accept()
            while upgrade.path == "/sends":
                await connection.send_message(bytes(100_000))
            await connection.get_message()
        finally:
            ended.append(upgrade.path)

    paths = ["/undecided", "/sends", "/waits"]
    listener = await open_listener(transport, certificates, tmp_path)
    site = Site(handler, listener, certificates.client, timeouts=PATIENT)
    before = descriptors() - 1  # the listener itself
    async with trio.open_nursery() as nursery:
        await nursery.start(site.gateway.run)
        with trio.fail_after(GUARD):
            peers = [await site.connect() for _ in paths]
            half = await site.connect()
            await half.send(handshake()[:30])
            for peer, path in zip(peers, paths, strict=True):
                await peer.send(handshake(path))
            await until(lambda: site.now.handlers == 3 and site.now.connections == 2)
            await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    assert sorted(ended) == sorted(paths)
    assert site.now.sockets == site.now.handlers == 0
    with trio.fail_after(GUARD):
        for peer in (*peers, half):
            await trio.aclose_forcefully(peer.stream)
    assert descriptors() == before
    assert not site.now.handler_failures


@pytest.mark.parametrize(
    "transport",
    ["tcp", "tls"],
    indirect=True,
)
async def test_cancellation_says_1001(
    transport: Transport, certificates: Certificates, tmp_path: Path
) -> None:
    """A client that reads learns that the server went away."""
    listener = await open_listener(transport, certificates, tmp_path)
    site = Site(echo, listener, certificates.client)
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            await nursery.start(site.gateway.run)
            peer = await site.connect()
            await peer.upgrade()
            nursery.cancel_scope.cancel()
        async with peer:
            (last,) = await peer.frames(answer_close=False)
            assert last.code == 1001


@pytest.mark.parametrize("where", ["handler", "group", "http", "feed", "outside"])
async def test_an_interrupt_passes_and_leaves_nothing(where: str) -> None:
    """KeyboardInterrupt ends the program, whoever's code it hits; all is closed behind it."""
    report, stderr = await run_program("interrupted.py", where)
    assert report == {"interrupted": True, "descriptors": 0, "handlers ended": True}
    assert ("ValueError: and more" in stderr) == (where == "group")
    assert stderr.count("Traceback") == (where == "group")


async def test_control_c_while_idle() -> None:
    """A real SIGINT to a gateway that waits."""
    process = await trio.lowlevel.open_process(
        program("interrupted.py", "wait"), stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    output = process.stdout
    assert output is not None
    try:
        with trio.fail_after(3 * GUARD):
            ready = b""
            while ready != b"ready\n":
                ready += await output.receive_some(6)
            process.send_signal(signal.SIGINT)
            report = b"".join([chunk async for chunk in output])
            assert await process.wait() == 0
    finally:
        process.kill()
        await output.aclose()
    assert json.loads(report)["interrupted"]
    assert json.loads(report)["descriptors"] == 0


# One gateway, one start, one listener.


def line_of(mark: str) -> int:
    """Return the number of the one line of this file that ends with a comment."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [at for at, line in enumerate(lines, 1) if line.endswith(f"# {mark}")]
    return number


def copy_of(listener: trio.SocketListener) -> trio.SocketListener:
    """Return another listener over another descriptor of the same socket."""
    copy = socket.socket(fileno=os.dup(listener.socket.fileno()))
    copy.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(copy))


@over_each
@pytest.mark.parametrize("copied", [False, True], ids=["the same", "another descriptor"])
async def test_a_listener_is_served_once(
    nursery: trio.Nursery,
    transport: Transport,
    certificates: Certificates,
    tmp_path: Path,
    copied: bool,
) -> None:
    """The second server is told where the first one is; the first one goes on."""
    listener = await open_listener(transport, certificates, tmp_path)
    site = Site(echo, listener, certificates.client)
    await nursery.start(site.gateway.run)  # first
    await site.open()
    second: trio.abc.Listener[Any] = listener
    if copied:
        inner = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
        assert isinstance(inner, trio.SocketListener)
        second = copy_of(inner)
    with pytest.raises(ListenerInUse, match="add a route there") as raised:
        await Gateway(echo, [second]).run()
    if copied:
        await second.aclose()
    assert raised.value.first == f"{__file__}:{line_of('first')}"
    await site.settle()


async def test_one_listener_twice_in_one_gateway() -> None:
    """It is as much of a mistake."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(GUARD), pytest.raises(ListenerInUse):
        await Gateway(echo, [listener, listener]).run()
    await listener.aclose()


async def test_a_listener_is_free_again_after_its_gateway() -> None:
    """Even on the same port and in the same process."""
    port = 0
    for _ in range(3):
        with trio.fail_after(GUARD):
            (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
            async with trio.open_nursery() as nursery:
                gateway: Gateway = await nursery.start(Gateway(echo, [listener]).run)
                port = gateway.port
                nursery.cancel_scope.cancel()


async def test_a_gateway_runs_once(serve: Serve) -> None:
    """Running it again names where it runs already, and hurts it not."""
    site = await serve(echo)
    with pytest.raises(AlreadyInitialized, match="initialise it once") as raised:
        await site.gateway.run()
    assert "conftest.py:" in raised.value.first
    await site.settle()


async def test_a_gateway_is_initialised_once(nursery: trio.Nursery) -> None:
    """Whoever comes second learns where the first one was."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    gateway = Gateway(echo, [listener])
    gateway.initialize()  # initialised
    with pytest.raises(AlreadyInitialized) as raised:
        gateway.initialize()
    assert raised.value.first == f"{__file__}:{line_of('initialised')}"
    await nursery.start(gateway.run)
    with pytest.raises(AlreadyInitialized):
        gateway.initialize()


async def test_the_second_server_of_the_original_application_is_none() -> None:
    """``initialize_notification_server()`` warns its caller, takes anything, does nothing."""
    before = descriptors()
    with pytest.warns(DeprecationWarning, match="remove the call") as warned:
        initialize_notification_server("http server", path="/notifications/ws")
    assert warned[0].filename == __file__
    assert descriptors() == before


# The nursery protocol.


async def test_a_port_in_use_is_told_to_the_starter() -> None:
    """``nursery.start`` raises the OSError; nothing is left open."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    before = descriptors()
    with pytest.raises(OSError):
        await serve_websocket(echo, "127.0.0.1", port, None)
    assert descriptors() == before
    await listener.aclose()


async def test_a_mistake_in_the_arguments_leaves_no_listener_open() -> None:
    """What the settings refuse has not bound a port, or has given it back."""
    before = descriptors()
    with pytest.raises(ValueError):
        await serve_websocket(echo, "127.0.0.1", 0, None, connect_timeout=-1)
    assert descriptors() == before


async def test_no_listener_is_a_mistake() -> None:
    """As in trio-websocket."""
    with pytest.raises(ValueError, match="at least one"):
        Gateway(echo, [])


async def test_connections_outlive_a_cancelled_serve() -> None:
    """With a ``handler_nursery``, as in trio-websocket: accepting ends, conversations go on."""
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as handlers:
            async with trio.open_nursery() as serving:
                gateway: Gateway = await serving.start(
                    partial(serve_websocket, echo, "127.0.0.1", 0, None, handler_nursery=handlers)
                )
                address = ("127.0.0.1", gateway.port)
                peer = Peer(await trio.open_tcp_stream(*address))
                await peer.upgrade()
                serving.cancel_scope.cancel()
            with pytest.raises(OSError):
                await trio.open_tcp_stream(*address)
            async with peer:
                client = peer.stream
                assert isinstance(client, trio.SocketStream)
                await peer.send(b"\x81\x85\0\0\0\0hello")
                assert (await peer.frame()).payload == b"hello"
                await peer.send(b"\x88\x80\0\0\0\0")
                assert (await peer.frame()).opcode == CLOSE
                assert await peer.rest() == b""
        # Nothing of the gateway stays in the handlers' nursery, or it would not have ended.


async def test_a_drain_reaches_the_handler_nursery() -> None:
    """Its hard end is a hard end there too."""
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as handlers, trio.open_nursery() as serving:

            async def handler(upgrade: Upgrade) -> None:
                await upgrade.accept()
                await trio.sleep_forever()

            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            gateway = Gateway(handler, [listener], handler_nursery=handlers)
            await serving.start(gateway.run)
            async with Peer(await trio.open_tcp_stream("127.0.0.1", gateway.port)) as peer:
                await peer.upgrade()
                await gateway.drain(0.1)
                assert (await peer.frame()).code == 1012
                assert await peer.rest() == b""


async def test_an_error_beside_the_gateway_ends_it(serve: Serve) -> None:
    """Somebody else's failure in the same nursery cancels the gateway like any other task."""
    before = descriptors()
    router = Router()
    router.fallback(echo)
    with pytest.RaisesGroup(KeyError):
        async with trio.open_nursery() as nursery:
            gateway: Gateway = await nursery.start(serve_websocket, router, "127.0.0.1", 0, None)
            async with trio_websocket.open_websocket(
                "127.0.0.1", gateway.port, "/", use_ssl=False
            ) as client:
                await client.send_message("hello")
                await client.get_message()
            raise KeyError
    assert descriptors() == before


async def test_a_gateway_that_was_drained_before_it_ran() -> None:
    """It ends as soon as it begins."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    gateway = Gateway(echo, [listener], timeouts=Timeouts())
    with trio.fail_after(GUARD):
        await gateway.drain()
        await gateway.run()
