"""The gateway: what it counts, how it begins, how it goes away, and what cannot end it."""

import json
import math
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import CloseReason, Endpoint, WebSocketServer

from tests.connection.wire import CLOSE, Frame, close, closing, from_server, text
from tests.handshake.heads import handshake
from trio_gateway import (
    AlreadyInitialized,
    Drain,
    Gateway,
    HttpRequest,
    HttpResponse,
    Limits,
    ListenerInUse,
    Refusal,
    Router,
    Timeouts,
    Upgrade,
)
from trio_gateway.testing import MemoryListener, MemoryStream, OpenGateway, open_gateway

TIMEOUTS = Timeouts(closing_timeout=100, linger_timeout=2, decision_timeout=50, handshake_timeout=9)
GET = b"GET /page HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


async def echo(upgrade: Upgrade) -> None:
    """Accept and send everything back."""
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


async def fail(upgrade: Upgrade) -> None:
    """Fail, before or after the decision."""
    if "accept" in upgrade.query:
        await upgrade.accept()
    raise RuntimeError("no")


async def decide_nothing(upgrade: Upgrade) -> None:
    await trio.lowlevel.checkpoint()


async def decide_too_late(upgrade: Upgrade) -> None:
    await trio.sleep_forever()


async def say_no(upgrade: Upgrade) -> None:
    await upgrade.reject(418)


async def decide_twice(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    await upgrade.reject(500)
    await connection.aclose()


async def outlive(upgrade: Upgrade) -> None:
    """Go on after the connection has ended."""
    await upgrade.accept()
    await trio.sleep_forever()


ROUTES = {
    "/echo": echo,
    "/fail": fail,
    "/nothing": decide_nothing,
    "/late": decide_too_late,
    "/no": say_no,
    "/twice": decide_twice,
    "/outlive": outlive,
}


def make_router() -> Router:
    router = Router()
    for pattern, handler in ROUTES.items():
        router.route(pattern, handler)
    return router


class Client:
    """A client that says what it is told to, byte by byte."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self._early = b""

    async def read_101(self) -> None:
        """Read the head of a 101, and keep what came behind it."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += await self.stream.receive_some()
        head, _, self._early = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), received

    async def status(self) -> int:
        """Return the status of the answer, read to its end."""
        head, _, _ = (await self.read_all()).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1])

    async def read_all(self) -> bytes:
        """Return all that comes until the server hangs up."""
        received = b""
        while data := await self.stream.receive_some():
            received += data
        return received

    async def say(self, data: bytes) -> None:
        """Send bytes and let everybody react."""
        await self.stream.send_all(data)
        await wait_all_tasks_blocked()

    async def last_close(self) -> CloseReason:
        """Answer the server's Close and return it; what comes before it is forgotten."""
        received = self._early
        while True:
            for frame in from_server(received, cut=True):
                if frame.opcode == CLOSE:
                    (code,) = struct.unpack("!H", frame.payload[:2])
                    await self.stream.send_all(close(code))
                    await self.stream.aclose()
                    return CloseReason(code, frame.payload[2:].decode())
            received += await self.stream.receive_some()


@attrs.define
class Site:
    """A gateway over memory."""

    open: OpenGateway

    @property
    def gateway(self) -> Gateway:
        return self.open.gateway

    async def connect(self, data: bytes = b"") -> Client:
        client = Client(await self.open.connect())
        await client.say(data)
        return client

    async def upgrade(self, target: str = "/echo") -> Client:
        """Connect a client and have it upgraded."""
        client = await self.connect(handshake(target=target))
        await client.read_101()
        return client

    def counts(self, *names: str) -> list[Any]:
        statistics = self.gateway.statistics()
        return [getattr(statistics, name) for name in names]


@asynccontextmanager
async def serving(handler: Any = None, **settings: Any) -> AsyncGenerator[Site]:
    settings.setdefault("timeouts", TIMEOUTS)
    async with open_gateway(handler or make_router(), **settings) as server:
        yield Site(server)


# What it counts.


async def test_a_gateway_at_rest() -> None:
    """Nothing is counted before anybody comes."""
    async with serving() as site:
        statistics = attrs.asdict(site.gateway.statistics())
        assert {0} == {value for value in statistics.values() if isinstance(value, int)}
        assert {} == site.gateway.statistics().refusals == site.gateway.statistics().closes


async def test_what_is_held() -> None:
    """Sockets, handshakes, upgrades, connections and handlers, while there are any."""
    held = ("sockets", "pending_handshakes", "pending_upgrades", "connections", "handlers")
    async with serving() as site:
        client = await site.connect()
        assert [1, 1, 0, 0, 0] == site.counts(*held)
        await client.say(handshake(target="/late"))
        assert [1, 0, 1, 0, 1] == site.counts(*held)
        await site.upgrade()
        assert [2, 0, 1, 1, 2] == site.counts(*held)
        client.stream.send_stream.reset()
        await wait_all_tasks_blocked()
        assert [1, 0, 0, 1] == site.counts(*held[:4])


async def test_what_has_been(autojump_clock: MockClock) -> None:
    """Each life adds to its own sums."""

    async def http(request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=200)

    async with serving(http=http) as site:
        first = await site.upgrade()
        await first.say(close(1000))
        for target in ("/no", "/nothing", "/late", "/fail", "/fail?accept", "/twice", "/nowhere"):
            await site.connect(handshake(target=target))
        await site.connect(GET)
        await site.connect(b"what?\r\n\r\n")
        gone = await site.connect(handshake(target="/late"))
        gone.stream.send_stream.reset()
        await trio.sleep(200)
        assert [11, 3, 4, 1] == site.counts(
            "accepted_sockets", "upgrades_accepted", "upgrades_rejected", "upgrades_abandoned"
        )
        assert [1, 3, 1] == site.counts(
            "duplicate_upgrades_prevented", "handler_failures", "http_requests"
        )
        assert [{404: 1, 400: 1}, {1000: 1, 1011: 2}] == site.counts("refusals", "closes")
        assert [0, 0, 0, 0, 0] == site.counts(
            "sockets", "pending_handshakes", "pending_upgrades", "connections", "handlers"
        )


async def test_a_snapshot_stays() -> None:
    """What was counted later is in a later one."""
    async with serving() as site:
        before = site.gateway.statistics()
        client = await site.upgrade()
        await client.say(close(1000))
        assert (0, {}) == (before.upgrades_accepted, before.closes)
        with pytest.raises(TypeError):
            before.closes[1000] = 5  # type: ignore[index]  # that is the point


# How it begins.


async def test_a_gateway_needs_a_listener() -> None:
    """As trio-websocket's server does."""
    with pytest.raises(ValueError, match="at least one"):
        Gateway(echo, [])


@pytest.mark.parametrize("size", [0, -1])
async def test_a_buffer_of_nothing(size: int) -> None:
    """It would fail every socket later."""
    with pytest.raises(ValueError, match=f"receive_buffer_size is at least 1, not {size}"):
        Gateway(echo, [MemoryListener()], receive_buffer_size=size)


async def test_trio_websockets_names() -> None:
    """It is one of its servers, with its port and its listeners."""
    (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    memory = MemoryListener()
    gateway: WebSocketServer = Gateway(echo, [tcp])
    assert tcp.socket.getsockname()[1] == gateway.port
    (only,) = gateway.listeners
    assert isinstance(only, Endpoint)
    assert (gateway.port, False) == (only.port, only.is_ssl)
    both = Gateway(echo, [tcp, memory])
    assert [Endpoint, str] == [type(each) for each in both.listeners]
    with pytest.raises(RuntimeError, match="more than 1 listener"):
        _ = both.port
    with pytest.raises(RuntimeError, match="does not have a port"):
        _ = Gateway(echo, [memory]).port
    await tcp.aclose()


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, (None, 1024 * 1024, 10.0, 10.0)),
        ({"message_queue_size": 5, "max_message_size": 100}, (5, 100, 10.0, 10.0)),
        ({"message_queue_size": 0, "max_message_size": math.inf}, (1, sys.maxsize, 10.0, 10.0)),
        ({"connect_timeout": 3, "disconnect_timeout": math.inf}, (None, 1024 * 1024, 3, math.inf)),
    ],
)
async def test_trio_websockets_arguments(
    given: dict[str, Any], expected: tuple[object, ...]
) -> None:
    """Each sets the limit it means; what is not given stays at its default."""
    reception = Gateway(echo, [MemoryListener()], **given)._reception
    assert expected == (
        reception._limits.max_queued_messages,
        reception._limits.max_message_bytes,
        reception._timeouts.handshake_timeout,
        reception._timeouts.closing_timeout,
    )


async def test_initializing_twice() -> None:
    """The second caller is told where the first one was."""
    gateway = Gateway(echo, [MemoryListener()])
    gateway.initialize()
    with pytest.raises(AlreadyInitialized, match=r"test_gateway\.py:\d+; initialise it once"):
        gateway.initialize()


async def test_running_initializes(nursery: trio.Nursery) -> None:
    """A gateway that runs is set up, whether or not somebody did it before."""
    for before in (False, True):
        gateway = Gateway(echo, [MemoryListener()])
        if before:
            gateway.initialize()
        await nursery.start(gateway.run)
        with pytest.raises(AlreadyInitialized):
            gateway.initialize()
        with pytest.raises(AlreadyInitialized):
            await gateway.run()
        assert gateway.ready
        await gateway.drain()
        with pytest.raises(AlreadyInitialized):
            await gateway.run()


async def test_a_listener_that_is_served_already() -> None:
    """The second gateway is told, and the first goes on."""
    async with serving() as site:
        second = Gateway(echo, [site.open.listener])
        with pytest.raises(ListenerInUse):
            await second.run()
        await site.upgrade()
        assert [1] == site.counts("connections")


async def test_several_listeners(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """All of them are served, and refuse once it drains."""
    listeners = [MemoryListener(), MemoryListener()]
    gateway = Gateway(make_router(), listeners)
    await nursery.start(gateway.run)
    for listener in listeners:
        client = Client(await listener.connect())
        await client.say(handshake(target="/no"))
        assert 418 == await client.status()
    await gateway.drain()
    for listener in listeners:
        with pytest.raises(ConnectionRefusedError):
            await listener.connect()


# Who may come.


async def test_handshakes_are_limited(autojump_clock: MockClock) -> None:
    """A socket too many is refused as it comes; one that is done makes room."""
    async with serving(limits=Limits(max_pending_handshakes=1)) as site:
        first = await site.connect()
        assert 503 == await (await site.connect()).status()
        await first.say(handshake(target="/no"))
        assert 418 == await (await site.connect(handshake(target="/no"))).status()


async def test_connections_are_limited(autojump_clock: MockClock) -> None:
    """An upgrade too many is refused before any handler sees it; all places come back."""
    async with serving(limits=Limits(max_connections=2, max_connections_per_ip=1)) as site:
        first = await site.upgrade()
        assert 429 == await (await site.connect(handshake(target="/echo"))).status()
        assert [1] == site.counts("handlers")
        await first.say(close(1000))
        for _ in range(5):
            client = await site.upgrade()
            client.stream.send_stream.reset()
            await wait_all_tasks_blocked()


async def test_origins_are_limited(autojump_clock: MockClock) -> None:
    """A page from elsewhere is refused."""
    async with serving(allowed_origins=["https://app.test"]) as site:
        evil = handshake(b"Origin: https://evil.test", target="/echo")
        assert 403 == await (await site.connect(evil)).status()
        good = await site.connect(handshake(b"Origin: https://app.test", target="/echo"))
        await good.read_101()


async def test_a_request_that_never_comes(autojump_clock: MockClock) -> None:
    """It is answered at the handshake timeout."""
    async with serving() as site:
        began = trio.current_time()
        assert 408 == await (await site.connect(b"GET /ec")).status()
        assert 9 <= trio.current_time() - began < 9.2


# What stays on its connection.


@pytest.mark.parametrize(
    "target, status",
    [("/fail", 500), ("/nothing", 500), ("/late", 503), ("/no", 418), ("/nowhere", 404)],
)
async def test_what_is_answered_for_a_handler(
    autojump_clock: MockClock, target: str, status: int
) -> None:
    """Whatever a handler leaves undecided is decided, and the gateway goes on."""
    async with serving() as site:
        assert status == await (await site.connect(handshake(target=target))).status()
        await trio.sleep(10)
        assert [0, 0, 0] == site.counts("handlers", "pending_upgrades", "sockets")
        await site.upgrade()


async def test_a_decision_that_takes_too_long(autojump_clock: MockClock) -> None:
    """The handler is cancelled at the decision timeout."""
    ended = trio.Event()

    async def late(upgrade: Upgrade) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(late) as site:
        began = trio.current_time()
        assert 503 == await (await site.connect(handshake())).status()
        await ended.wait()
        assert 50 <= trio.current_time() - began < 50.2


def raising(error: BaseException) -> Callable[[Upgrade], Awaitable[None]]:
    async def handler(upgrade: Upgrade) -> None:
        if "accept" in upgrade.query:
            await upgrade.accept()
        raise error

    return handler


ERRORS = {
    "Exception": RuntimeError("no"),
    "group": ExceptionGroup("several", [RuntimeError("no"), ValueError("no")]),
    "nested group": ExceptionGroup("a", [ExceptionGroup("b", [OSError("no")])]),
    "SystemExit": SystemExit(3),
    "BaseException group": BaseExceptionGroup("a", [SystemExit(3), RuntimeError("no")]),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
async def test_a_handler_that_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """500 before the upgrade, 1011 after it, one log entry each; nobody else notices."""
    async with serving(raising(error)) as site:
        assert 500 == await (await site.connect(handshake())).status()
        accepted = await site.upgrade("/?accept")
        assert 1011 == (await accepted.last_close()).code
        assert [2] == site.counts("handler_failures")
    assert 2 == len(caplog.records)
    assert all(record.message.startswith("handler of / failed") for record in caplog.records)


async def test_a_handler_whose_connection_ends(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception that says so is no failure."""

    async def receive(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(connection.get_message)

    async with serving(receive) as site:
        client = await site.upgrade()
        await client.say(close(4000))
        assert [0, {4000: 1}] == site.counts("handler_failures", "closes")
    assert [] == caplog.records


class Failing(trio.abc.Stream):
    """A stream that fails as no stream should."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise RuntimeError("no")

    async def wait_send_all_might_not_block(self) -> None:
        raise RuntimeError("no")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("no")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_stream_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and forgotten; the gateway goes on."""
    async with serving() as site:
        await site.gateway.serve_stream(Failing())
        assert [0, 0] == site.counts("sockets", "pending_handshakes")
        await site.upgrade()
    (record,) = caplog.records
    assert record.message.startswith("stream unix:<")


async def test_keyboard_interrupt_passes() -> None:
    """It is the user's, and ends the gateway."""
    with pytest.raises(BaseExceptionGroup) as told:  # noqa: PT012 - the context is the point
        async with serving(raising(KeyboardInterrupt())) as site:
            await site.connect(handshake())
            await trio.sleep_forever()
    assert told.value.split(KeyboardInterrupt)[1] is None


async def test_a_handler_that_returns() -> None:
    """Its connection is closed with 1000."""

    async def greet(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        await connection.send_message("hello")

    async with serving(greet) as site:
        client = await site.upgrade()
        assert 1000 == (await client.last_close()).code


# Plain HTTP.


async def answer_to(answer: Any, target: bytes = b"/page", **settings: Any) -> tuple[int, str]:
    """Return status and body of what a client gets when the handler returns this."""

    async def http(request: HttpRequest) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async with serving(http=http, **settings) as site:
        client = await site.connect(GET.replace(b"/page", target))
        await client.stream.send_eof()
        head, _, body = (await client.read_all()).partition(b"\r\n\r\n")
        await site.upgrade()  # all is well
        return int(head.split(b" ")[1]), body.decode()


async def test_http_answers(autojump_clock: MockClock) -> None:
    """A response, a refusal, or nothing: 404, and 426 where WebSocket is spoken."""
    assert (200, "hi") == await answer_to(HttpResponse(status=200, body=b"hi"))
    status, body = await answer_to(Refusal(403, "forbidden", "no"))
    assert (403, "forbidden") == (status, json.loads(body)["error"])
    assert 404 == (await answer_to(None))[0]
    assert 426 == (await answer_to(None, b"/echo"))[0]


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeError("no"),
        ExceptionGroup("a", [RuntimeError("no")]),
        SystemExit(3),
        {"status": 200},
        HttpResponse(status=200, headers=(("X-A", "b\r\n\r\n"),)),
        HttpResponse(status=101),
        HttpResponse(status=200, body="text"),  # type: ignore[arg-type]  # that is the point
    ],
    ids=str,
)
async def test_an_http_handler_that_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, answer: object
) -> None:
    """It is logged and answered with 500, and ends nobody else."""
    assert 500 == (await answer_to(answer))[0]
    assert 1 == len(caplog.records)


async def test_an_http_handler_that_takes_too_long(autojump_clock: MockClock) -> None:
    """It is cancelled and answered for."""

    async def http(request: HttpRequest) -> HttpResponse:
        await trio.sleep_forever()
        raise AssertionError

    async with serving(http=http, timeouts=Timeouts(response_timeout=5)) as site:
        assert 503 == await (await site.connect(GET)).status()
        assert [0] == site.counts("handlers")


async def test_no_http(autojump_clock: MockClock) -> None:
    """Without a handler plain HTTP gets 404, or 426 on a WebSocket path."""
    async with serving() as site:
        assert 404 == await (await site.connect(GET)).status()
        assert 426 == await (await site.connect(GET.replace(b"/page", b"/echo"))).status()


async def test_http_keeps_alive(autojump_clock: MockClock) -> None:
    """Request after request, an upgrade at last; a pause that is too long ends it unanswered."""

    async def http(request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=200)

    async with serving(http=http, timeouts=Timeouts(keep_alive_timeout=5)) as site:
        client = await site.connect(GET + GET + handshake(target="/echo"))
        received = b""
        while not received.endswith(b"=\r\n\r\n"):
            received += await client.stream.receive_some()
        assert [b"200", b"200", b"101"] == [
            part.split(b" ")[0] for part in received.split(b"HTTP/1.1 ")[1:]
        ]
        idle = await site.connect(GET)
        began = trio.current_time()
        assert 200 == await idle.status()
        assert 5 <= trio.current_time() - began < 5.2


async def test_a_second_request_when_there_are_too_many_handshakes() -> None:
    """The answer is given, and the socket closed instead of kept."""

    async def http(request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=200)

    async with serving(http=http, limits=Limits(max_pending_handshakes=1)) as site:
        first = await site.connect()
        await first.say(GET[:-2])
        second = Client(await site.open.connect())
        assert 503 == await second.status()
        await first.say(GET[-2:])
        third = await site.connect()
        assert b"200 OK" in await first.stream.receive_some()
        await third.stream.aclose()


# How it goes away.


async def test_flags() -> None:
    """Ready while it runs and does not drain."""
    gateway = Gateway(echo, [MemoryListener()])
    flags = [(gateway.ready, gateway.draining)]
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.run)
        flags.append((gateway.ready, gateway.draining))
        nursery.start_soon(gateway.drain)
        await trio.lowlevel.checkpoint()
        while not gateway.draining:
            await trio.lowlevel.checkpoint()
        flags.append((gateway.ready, gateway.draining))
    flags.append((gateway.ready, gateway.draining))
    assert [(False, False), (True, False), (False, True), (False, True)] == flags


@attrs.define
class Told:
    """When a client was told what."""

    at: float
    reason: CloseReason


async def tell_all(
    site: Site, nursery: trio.Nursery, clients: int, grace: float | None = None
) -> tuple[list[Told], float]:
    """Drain with well-behaved clients; return what they were told, and how long it took."""
    told: list[Told] = []

    async def wait(client: Client) -> None:
        reason = await client.last_close()
        told.append(Told(trio.current_time() - began, reason))

    for _ in range(clients):
        nursery.start_soon(wait, await site.upgrade())
    began = trio.current_time()
    await site.gateway.drain(grace)
    took = trio.current_time() - began
    await wait_all_tasks_blocked()
    return told, took


async def test_draining_nobody(autojump_clock: MockClock) -> None:
    """It takes no time, and ``serve_websocket()`` returns."""
    listener = MemoryListener()
    gateway = Gateway(echo, [listener])
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.run)
        await gateway.drain()
    assert began == trio.current_time()


async def test_draining_a_handful(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Within a second all are told when to come back, and gone."""
    async with serving(drain=Drain(grace=30, min_retry=1, max_retry=3)) as site:
        told, took = await tell_all(site, nursery, 5)
        assert took <= 1
        assert [1012] * 5 == [each.reason.code for each in told]
        assert [0, 0, 0] == site.counts("sockets", "connections", "handlers")
        assert [{1012: 5}] == site.counts("closes")


async def test_what_clients_are_told(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """``retry MS``, each another time, all between the least and the most."""
    async with serving(drain=Drain(min_retry=1, max_retry=3)) as site:
        told, _ = await tell_all(site, nursery, 50)
        words = [(each.reason.reason or "").split(" ") for each in told]
        assert {"retry"} == {word for word, _ in words}
        retries = [int(retry) for _, retry in words]
        assert 1000 <= min(retries) < 1500
        assert 2500 < max(retries) <= 3000
        assert len(set(retries)) > 40


async def test_draining_many(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """So many a second, evenly, until all are told."""
    async with serving(drain=Drain(grace=30, closes_per_second=20)) as site:
        told, took = await tell_all(site, nursery, 200)
        assert 9 <= took <= 11
        assert [1012] * 200 == [each.reason.code for each in told]
        for second in range(10):
            assert 15 <= len([each for each in told if second <= each.at < second + 1]) <= 25


async def test_draining_many_in_a_hurry(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Where the grace period is too short for the pace, all are told in three quarters of it."""
    async with serving(drain=Drain(closes_per_second=20)) as site:
        told, took = await tell_all(site, nursery, 200, grace=4)
        assert 200 == len(told)
        assert 2.2 <= took <= 3
        assert len([each for each in told if each.at < 1.2]) in range(80, 120)


async def test_draining_without_grace(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Everybody is told all the same, before the sockets go."""
    async with trio.open_nursery() as inner:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        gateway = Gateway(echo, [listener])
        await inner.start(gateway.run)
        streams: list[trio.SocketStream] = []
        for _ in range(3):
            streams.append(await trio.open_tcp_stream("127.0.0.1", gateway.port))
            await streams[-1].send_all(handshake(target="/echo"))
            assert (await streams[-1].receive_some()).startswith(b"HTTP/1.1 101 ")
        await gateway.drain(0)
        for stream in streams:
            (frame,) = from_server(await stream.receive_some())
            assert b"\x03\xf4" == frame.payload[:2]
            assert b"" == await stream.receive_some()
            await stream.aclose()


async def test_nobody_is_accepted_while_draining(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Who comes is refused at once, and does not wait in the backlog for the end."""
    async with trio.open_nursery() as inner:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        gateway = Gateway(echo, [listener], timeouts=TIMEOUTS)
        await inner.start(gateway.run)
        rude = await trio.open_tcp_stream("127.0.0.1", gateway.port)
        await rude.send_all(handshake(target="/echo"))
        await rude.receive_some()
        inner.start_soon(gateway.drain, 20)
        await wait_all_tasks_blocked()
        assert not gateway.ready
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", gateway.port)
        await rude.aclose()


async def test_the_hard_end(autojump_clock: MockClock) -> None:
    """Clients that do not answer are dropped at the end of the grace period, and not before."""
    async with serving() as site:
        client = await site.upgrade()
        began = trio.current_time()
        await site.gateway.drain(7)
        assert 7 == trio.current_time() - began
        await wait_all_tasks_blocked()
        assert [0, 0] == site.counts("sockets", "handlers")
        (frame,) = from_server(await client.read_all())
        assert (CLOSE, b"\x03\xf4retry ") == (frame.opcode, frame.payload[:8])


async def test_draining_twice(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A second call waits with the first, whatever it asks for."""
    ended: list[tuple[str, float]] = []
    async with serving() as site:
        await site.upgrade("/outlive")
        began = trio.current_time()

        async def drain(name: str, grace: float) -> None:
            await site.gateway.drain(grace)
            ended.append((name, trio.current_time() - began))

        nursery.start_soon(drain, "first", 8)
        await wait_all_tasks_blocked()
        nursery.start_soon(drain, "second", 100)
        await trio.sleep(20)
        await drain("third", 100)
    assert [("first", 8), ("second", 8), ("third", 20)] == sorted(ended)


async def test_a_handler_that_goes_on(autojump_clock: MockClock) -> None:
    """It has the grace period to finish, and is cancelled at its end."""
    cancelled_at: list[float] = []

    async def clean_up(upgrade: Upgrade) -> None:
        await upgrade.accept()
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time())

    async with serving(clean_up) as site:
        client = await site.upgrade()
        await client.say(b"")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.last_close)
            await site.gateway.drain(6)
        await wait_all_tasks_blocked()
        assert [began + 6] == cancelled_at
        assert [0] == site.counts("handlers")


async def test_requests_in_flight(autojump_clock: MockClock) -> None:
    """An undecided upgrade and half a request get 503, and the handler is cancelled; what has
    not said anything is dropped."""
    async with serving() as site:
        upgrading = await site.connect(handshake(target="/late"))
        half = await site.connect(b"GET /ec")
        silent = await site.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.gateway.drain)
            assert [503, 503] == [await upgrading.status(), await half.status()]
            assert b"" == await silent.read_all()
        assert [{503: 1}, 1, 0] == site.counts("refusals", "upgrades_rejected", "handlers")


async def test_an_upgrade_that_arrives_while_draining(autojump_clock: MockClock) -> None:
    """Behind a plain request that is still being answered: 503."""
    go_on = trio.Event()

    async def http(request: HttpRequest) -> HttpResponse:
        await go_on.wait()
        return HttpResponse(status=200)

    async with serving(http=http) as site:
        client = await site.connect(GET + handshake(target="/echo"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.gateway.drain)
            await wait_all_tasks_blocked()
            go_on.set()
            answers = (await client.read_all()).split(b"HTTP/1.1 ")[1:]
        assert b"200" == answers[0][:3]
        assert b"101" not in b"".join(answers)


async def test_a_cancelled_drain(autojump_clock: MockClock) -> None:
    """The gateway ends at once, without the rest of the grace period."""
    async with serving() as site:
        await site.upgrade("/outlive")
        with trio.move_on_after(3) as scope:
            await site.gateway.drain(1000)
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert [0, 0] == site.counts("sockets", "handlers")
        assert not site.gateway.ready


async def test_draining_before_it_runs() -> None:
    """There is nothing to serve then: ``run()`` returns, and the listener is closed."""
    listener = MemoryListener()
    gateway = Gateway(echo, [listener])
    await gateway.drain()
    await gateway.run()
    with pytest.raises(ConnectionRefusedError):
        await listener.connect()


async def test_cancelling_a_gateway() -> None:
    """Handlers are cancelled, clients are told 1001; no socket stays."""
    reasons: list[CloseReason | None] = []

    async def note(upgrade: Upgrade) -> None:
        connection = await upgrade.accept()
        try:
            await trio.sleep_forever()
        finally:
            reasons.append(connection.closed)

    async with serving(note) as site:
        client = await site.upgrade()
        gateway = site.gateway
    assert 1 == len(reasons)
    statistics = gateway.statistics()
    assert (0, 0, 0) == (statistics.sockets, statistics.connections, statistics.handlers)
    assert {1001: 1} == statistics.closes
    assert not gateway.ready
    assert [closing(1001)] == from_server(await client.read_all())
    with pytest.raises(trio.BrokenResourceError):
        await client.stream.send_all(b"x")


# Handlers in a nursery of the application's.


async def test_connections_outlive_a_cancelled_run(nursery: trio.Nursery) -> None:
    """With a nursery for handlers only accepting ends; they go on until they are done."""
    listener = MemoryListener()
    gateway = Gateway(echo, [listener], handler_nursery=nursery)
    async with trio.open_nursery() as inner:
        await inner.start(gateway.run)
        client = Client(await listener.connect())
        await client.say(handshake())
        await client.stream.receive_some()
        inner.cancel_scope.cancel()
    with pytest.raises(ConnectionRefusedError):
        await listener.connect()
    await client.say(text("still there?"))
    assert [Frame(1, b"still there?")] == from_server(bytes(await client.stream.receive_some()))
    before = len(nursery.child_tasks)
    await client.say(close(1000))
    assert [closing(1000)] == from_server(bytes(await client.stream.receive_some()))
    await wait_all_tasks_blocked()
    assert before - 1 == len(nursery.child_tasks)


async def test_draining_ends_handlers_wherever_they_run(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The grace period is everybody's: it waited for ever for a handler in another nursery."""
    listener = MemoryListener()
    gateway = Gateway(outlive, [listener], handler_nursery=nursery)
    await nursery.start(gateway.run)
    client = Client(await listener.connect())
    await client.say(handshake())
    began = trio.current_time()
    await gateway.drain(5)
    await wait_all_tasks_blocked()
    assert (5, 0) == (trio.current_time() - began, gateway.statistics().handlers)
    assert 0 == gateway.statistics().sockets


POST = b"POST /page HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 4\r\n\r\n"
CHUNKED = b"POST /page HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "end", ["whole", "reset", "half-close", "too late", "too large", "not framed"]
)
async def test_bodies_are_capped(autojump_clock: MockClock, end: str) -> None:
    """Of the bodies being read there are so many at most, and each end makes room for another."""

    async def count(request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=200, body=b"%d" % len(request.body))

    limits = Limits(max_pending_bodies=1, max_body_bytes=8)
    async with open_gateway(make_router(), http=count, limits=limits) as server:
        first, second = await server.connect(), await server.connect()
        await first.send_all(CHUNKED if end in {"too large", "not framed"} else POST)
        await wait_all_tasks_blocked()
        await second.send_all(POST + b"body")
        assert b"HTTP/1.1 503 " == (await second.receive_some())[:13]
        match end:
            case "whole":
                await first.send_all(b"body")
            case "reset":
                await trio.aclose_forcefully(first)
            case "half-close":
                await first.send_eof()
            case "too late":
                await trio.sleep(30)
            case "too large":
                await first.send_all(b"9\r\n123456789\r\n")
            case _:
                await first.send_all(b"no chunk\r\n")
        await wait_all_tasks_blocked()
        third = await server.connect()
        await third.send_all(POST + b"body")
        assert (await third.receive_some()).endswith(b"\r\n\r\n4")
        for stream in (first, second, third):
            await trio.aclose_forcefully(stream)
