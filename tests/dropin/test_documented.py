"""Handlers of trio-websocket's documentation, on its server and on ours: no client can tell."""

import math
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import pytest
import trio
import trio.testing
import trio_websocket
import trustme
from trio_websocket import (
    ConnectionClosed,
    Endpoint,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
)

import trio_gateway
from tests.dropin import handlers
from tests.dropin.client import GUARD, connect, knock

Handler = Callable[[WebSocketRequest], Awaitable[None]]


class Package(Protocol):
    """What an application imports; both packages have it."""

    @property
    def serve_websocket(self) -> Callable[..., Awaitable[object]]: ...
    @property
    def wrap_server_stream(self) -> Callable[..., Awaitable[WebSocketRequest]]: ...
    @property
    def WebSocketServer(self) -> Callable[..., WebSocketServer]: ...  # noqa: N802  # its name there


@pytest.fixture(params=[trio_websocket, trio_gateway], ids=["trio-websocket", "trio_gateway"])
def package(request: pytest.FixtureRequest) -> Package:
    """Each of the two."""
    found: Package = request.param
    return found


class Serve(Protocol):
    async def __call__(self, handler: Handler, **arguments: Any) -> WebSocketServer: ...


@pytest.fixture
async def serve(nursery: trio.Nursery, package: Package) -> Serve:
    async def start(
        handler: Handler, *, tls: ssl.SSLContext | None = None, **arguments: Any
    ) -> WebSocketServer:
        function = partial(package.serve_websocket, handler, "127.0.0.1", 0, tls, **arguments)
        server: WebSocketServer = await nursery.start(function)
        return server

    return start


async def end_of(client: WebSocketConnection) -> tuple[int, str | None]:
    """Wait for the server to close; return its code and reason."""
    with pytest.raises(ConnectionClosed) as closed:
        await client.get_message()
    reason = closed.value.reason
    assert reason is not None
    return reason.code, reason.reason


async def test_echo(serve: Serve) -> None:
    """Texts, bytes, nothing and much come back; closing is in order on both sides."""
    server = await serve(handlers.echo_server)
    async with connect(server.port) as client:
        for message in ("text", b"bytes", "", b"", "žluťoučký kůň 🐎", bytes(500_000)):
            await client.send_message(message)
            assert await client.get_message() == message
    assert client.closed is not None
    assert (client.closed.code, client.closed.name) == (1000, "NORMAL_CLOSURE")


async def test_reverse(serve: Serve) -> None:
    """The example server."""
    server = await serve(handlers.reverse)
    async with connect(server.port) as client:
        await client.send_message("stressed")
        assert await client.get_message() == "desserts"


async def test_returning_closes(serve: Serve) -> None:
    """A handler that returns has closed its connection with 1000."""
    server = await serve(handlers.one_answer)
    async with connect(server.port) as client:
        assert await client.get_message() == "one"
        assert await end_of(client) == (1000, None)


async def test_a_connection_is_a_context_manager(serve: Serve) -> None:
    """It closes at the end of the block; what was sent before arrives."""
    server = await serve(handlers.in_a_context)
    async with connect(server.port, message_queue_size=2) as client:
        assert await client.get_message() == "1"
        assert await client.get_message() == b"2"
        assert await end_of(client) == (1000, None)


async def test_the_heartbeat_recipe(serve: Serve) -> None:
    """Pings go on beside the conversation and end with it."""
    server = await serve(handlers.with_a_heartbeat)
    async with connect(server.port) as client:
        for number in range(5):
            await client.send_message(str(number))
            assert await client.get_message() == str(number)
            await trio.sleep(0.01)
        # The server closes: trio-websocket's client dies of a ping while it is closing itself.
        await client.send_message("stop")
        assert await end_of(client) == (1000, None)


async def test_background_tasks(serve: Serve) -> None:
    """A receiver and a sender with a channel between them."""
    server = await serve(handlers.with_background_tasks)
    async with connect(server.port) as client:
        await client.send_message("a")
        await client.send_message(b"b")
        assert await client.get_message() == "0: 'a'"
        assert await client.get_message() == "1: b'b'"


async def test_message_timeouts(serve: Serve) -> None:
    """A cancelled ``get_message()`` leaves the connection as it was."""
    server = await serve(handlers.with_message_timeouts)
    async with connect(server.port) as client:
        assert await client.get_message() == "your turn"
        await client.send_message("mine")
        assert await client.get_message() == "mine"


@pytest.mark.parametrize(
    "proposed, selected",
    [((), None), (("chat.v1",), "chat.v1"), (("soap", "chat.v2", "chat.v1"), "chat.v2")],
)
async def test_subprotocols(serve: Serve, proposed: tuple[str, ...], selected: str | None) -> None:
    """The server sees them in the client's order, the client sees what was selected."""
    server = await serve(handlers.select_subprotocol)
    async with connect(server.port, subprotocols=proposed) as client:
        assert client.subprotocol == selected
        assert await client.get_message() == f"{proposed} -> {selected}"


async def test_a_rejection(serve: Serve) -> None:
    """Status, headers and body reach the client; the same handler lets another one in."""
    server = await serve(handlers.reject_strangers)
    rejection = await knock(server.port)
    assert rejection.status_code == 401
    assert rejection.body == b"who are you?"
    assert rejection.headers is not None
    headers = dict(rejection.headers)
    assert headers[b"www-authenticate"] == b"Password"
    assert headers[b"content-type"] == b"text/plain"
    password = [(b"X-Password", b"swordfish")]
    async with connect(server.port, extra_headers=password) as client:
        assert (b"x-greeting", b"welcome") in client.handshake_headers
        assert await client.get_message() == "come in"


async def test_what_a_request_tells(serve: Serve) -> None:
    """Paths with their query, endpoints, and the headers with lower-case names."""
    server = await serve(handlers.describe)
    extra = [(b"X-One", b"1"), (b"x-Two", b"2"), (b"X-One", b"1 again")]
    async with connect(server.port, "/a%20b?x=1&y=", extra_headers=extra) as client:
        assert await client.get_message() == "/a%20b?x=1&y= /a%20b?x=1&y= None"
        assert await client.get_message() == f"ws://127.0.0.1:{server.port} 127.0.0.1 False"
        headers = await client.get_message()
        assert isinstance(headers, bytes)
        assert headers.endswith(b"x-one=1|x-two=2|x-one=1 again")
        assert b"host=" not in headers


async def test_the_same_headers_on_both(nursery: trio.Nursery) -> None:
    """A handler that goes through ``request.headers`` finds the same list, item by item."""
    seen = list[list[tuple[bytes, bytes]]]()

    async def handler(request: WebSocketRequest) -> None:
        seen.append([header for header in request.headers if b"key" not in header[0]])
        await request.reject(403)

    packages: list[Package] = [trio_websocket, trio_gateway]
    for each in packages:
        server: WebSocketServer = await nursery.start(
            each.serve_websocket, handler, "127.0.0.1", 0, None
        )
        await knock(
            server.port, subprotocols=["chat"], extra_headers=[(b"Cookie", b"a=b"), (b"X", b"y")]
        )
    theirs, ours = seen
    assert ours == theirs


async def test_a_code_and_a_reason(serve: Serve) -> None:
    """``aclose(code, reason)`` reaches the client."""
    server = await serve(handlers.close_with_a_reason)
    async with connect(server.port) as client:
        assert await end_of(client) == (4001, "because")


async def test_pings_and_pongs(serve: Serve) -> None:
    """Those of the server; and a mistake is a ValueError with the same text."""
    server = await serve(handlers.pings_and_pongs)
    async with connect(server.port) as client:
        assert await client.get_message() == "message must be str or bytes"


async def test_pings_of_the_client(serve: Serve) -> None:
    """They are answered while the handler waits for a message."""
    server = await serve(handlers.echo_server)
    async with connect(server.port) as client:
        await client.ping()
        await client.ping(b"payload")
        await client.pong(b"unasked")


async def test_the_client_closes_first(serve: Serve) -> None:
    """What it had sent is read, then its code and reason are told."""
    handlers.received.clear()
    server = await serve(handlers.read_late)
    async with connect(server.port) as client:
        await client.send_message("1")
        await client.send_message("2")
        await client.aclose(3456, "bye")
        while not handlers.received:  # noqa: ASYNC110  # the handler knows of no test
            await trio.sleep(0.001)
    ((messages, reason),) = handlers.received
    assert messages == ["1", "2"]
    assert reason is not None
    assert (reason.code, reason.reason) == (3456, "bye")


async def test_pending_messages_do_not_hinder_the_end(serve: Serve) -> None:
    """A client leaves with an answer unread."""
    server = await serve(handlers.echo_server)
    async with connect(server.port) as client:
        await client.send_message("hello")
        await trio.sleep(0.02)


async def test_too_large_a_message(serve: Serve) -> None:
    """``max_message_size`` itself passes, one more byte is 1009."""
    server = await serve(handlers.echo_server, max_message_size=100)
    async with connect(server.port) as client:
        await client.send_message(bytes(100))
        assert await client.get_message() == bytes(100)
        await client.send_message(bytes(101))
        code, _ = await end_of(client)
        assert code == 1009


@pytest.mark.parametrize(
    "arguments",
    [
        {"message_queue_size": 0},
        {"message_queue_size": 1},
        {"message_queue_size": math.inf},
        {"max_message_size": math.inf},
        {"receive_buffer_size": None},
        {"receive_buffer_size": 1},
        {"connect_timeout": math.inf, "disconnect_timeout": math.inf},
        {"connect_timeout": 0.5, "disconnect_timeout": 1},
    ],
    ids=str,
)
async def test_settings_of_the_documentation(serve: Serve, arguments: dict[str, Any]) -> None:
    """Every value that it names is taken, ``0`` and ``math.inf`` above all."""
    server = await serve(handlers.echo_server, **arguments)
    async with connect(server.port) as client:
        for number in range(10):
            await client.send_message(str(number))
        for number in range(10):
            assert await client.get_message() == str(number)


async def test_tls(serve: Serve) -> None:
    """Both ends know that it is TLS."""
    authority = trustme.CA()
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    client_tls = ssl.create_default_context()
    authority.configure_trust(client_tls)
    server = await serve(handlers.describe, tls=server_tls)
    (listener,) = server.listeners
    assert isinstance(listener, Endpoint)
    assert listener.is_ssl
    async with connect(server.port, tls=client_tls) as client:
        await client.get_message()
        assert await client.get_message() == f"wss://127.0.0.1:{server.port} 127.0.0.1 True"
        await client.get_message()


async def test_what_a_server_tells(serve: Serve, package: Package) -> None:
    """``nursery.start`` gives a WebSocketServer with a port and its endpoints."""
    server = await serve(handlers.echo_server)
    assert isinstance(server, WebSocketServer)
    assert isinstance(server, package.WebSocketServer)  # type: ignore[arg-type]  # a class
    (listener,) = server.listeners
    assert isinstance(listener, Endpoint)
    assert str(listener) == f'Endpoint(address="127.0.0.1", port={server.port}, is_ssl=False)'


class MemoryListener(trio.abc.Listener[trio.StapledStream[Any, Any]]):
    """Connects by memory streams, as in trio-websocket's own tests."""

    def __init__(self) -> None:
        self._accepted, self._to_accept = trio.open_memory_channel[Any](1)

    async def connect(self) -> trio.StapledStream[Any, Any]:
        client, server = trio.testing.memory_stream_pair()
        await self._accepted.send(server)
        return client

    async def accept(self) -> trio.StapledStream[Any, Any]:
        stream: trio.StapledStream[Any, Any] = await self._to_accept.receive()
        return stream

    async def aclose(self) -> None:
        await self._accepted.aclose()

    def __repr__(self) -> str:
        return "MemoryListener()"


async def test_other_listeners(package: Package, nursery: trio.Nursery) -> None:
    """Any Trio listener is served; one without a port is shown by its ``repr()``."""
    (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    memory = MemoryListener()
    server = package.WebSocketServer(handlers.reverse, [tcp, memory])
    await nursery.start(server.run)
    first, second = server.listeners
    assert isinstance(first, Endpoint)
    assert second == "MemoryListener()"
    with pytest.raises(RuntimeError, match="more than 1 listener"):
        _ = server.port
    with trio.fail_after(GUARD):
        stream: Any = await memory.connect()
        async with trio.open_nursery() as clients:
            client = await trio_websocket.wrap_client_stream(clients, stream, "memory", "/")
            await client.send_message("live")
            assert await client.get_message() == "evil"
            await client.aclose()


async def test_a_lone_listener_without_a_port(package: Package) -> None:
    """Asking for its port is a RuntimeError; no listener at all is a ValueError."""
    server = package.WebSocketServer(handlers.echo_server, [MemoryListener()])
    with pytest.raises(RuntimeError, match="does not have a port"):
        _ = server.port
    with pytest.raises(ValueError, match="at least one item"):
        package.WebSocketServer(handlers.echo_server, [])


async def test_a_stream_of_ones_own(package: Package, nursery: trio.Nursery) -> None:
    """``wrap_server_stream`` over a TCP server of the application."""

    async def serve_stream(stream: trio.SocketStream) -> None:
        request = await package.wrap_server_stream(nursery, stream)
        ws = await request.accept()
        async with ws:
            assert ws.closed is None
            await ws.send_message(f"{request.path}: {await ws.get_message()!r}")
        assert ws.closed

    listeners: list[trio.SocketListener] = await nursery.start(
        partial(trio.serve_tcp, serve_stream, 0, host="127.0.0.1")
    )
    port = listeners[0].socket.getsockname()[1]
    async with connect(port, "/own") as client:
        await client.send_message("hello")
        assert await client.get_message() == "/own: 'hello'"
        assert await end_of(client) == (1000, None)


async def test_a_memory_stream_of_ones_own(package: Package) -> None:
    """The same over memory; the nursery ends when the connection has."""
    client_end, server_end = trio.testing.memory_stream_pair()
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                end: Any = client_end
                client = await trio_websocket.wrap_client_stream(nursery, end, "memory", "/own")
                await client.send_message("hello")
                assert await client.get_message() == "hello"
                await client.aclose()

            nursery.start_soon(call)
            request = await package.wrap_server_stream(nursery, server_end)
            ws = await request.accept()
            await ws.send_message(await ws.get_message())
            with pytest.raises(ConnectionClosed):
                await ws.get_message()


async def send_for_ever(ws: WebSocketConnection) -> None:
    while True:
        await ws.send_message("too late")


async def test_the_stream_is_closed_under_the_connection(
    package: Package, nursery: trio.Nursery
) -> None:
    """An application that closes its own stream finds the connection closed."""

    async def serve_stream(stream: trio.SocketStream) -> None:
        request = await package.wrap_server_stream(nursery, stream)
        ws = await request.accept()
        async with ws:
            await ws.get_message()
            await stream.aclose()
            with pytest.raises(ConnectionClosed):
                await send_for_ever(ws)

    listeners: list[trio.SocketListener] = await nursery.start(
        partial(trio.serve_tcp, serve_stream, 0, host="127.0.0.1")
    )
    port = listeners[0].socket.getsockname()[1]
    async with connect(port) as client:
        await client.send_message("close it")
        code, _ = await end_of(client)
        assert code == 1006


async def test_handlers_live_in_the_handler_nursery(package: Package) -> None:
    """A cancelled serve accepts no more; conversations go on in the handlers' nursery."""
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as conversations, trio.open_nursery() as clients:
            async with trio.open_nursery() as serving:
                server: WebSocketServer = await serving.start(
                    partial(
                        package.serve_websocket,
                        handlers.echo_server,
                        "127.0.0.1",
                        0,
                        None,
                        handler_nursery=conversations,
                    )
                )
                port = server.port
                client = await trio_websocket.connect_websocket(
                    clients, "127.0.0.1", port, "/", use_ssl=False
                )
                serving.cancel_scope.cancel()
            await client.send_message("still here?")
            assert await client.get_message() == "still here?"
            with pytest.raises(OSError):
                await trio.open_tcp_stream("127.0.0.1", port)
            await client.aclose()


class Greeter:
    """An object with an async method."""

    def __init__(self, greeting: str) -> None:
        self._greeting = greeting

    async def greet(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.send_message(self._greeting)

    async def __call__(self, request: WebSocketRequest) -> None:
        await self.greet(request)


async def greet_with(greeting: str, request: WebSocketRequest) -> None:
    await Greeter(greeting).greet(request)


CALLABLES: dict[str, Handler] = {
    "method": Greeter("hello").greet,
    "object": Greeter("hello"),
    "partial": partial(greet_with, "hello"),
    "lambda": lambda request: greet_with("hello", request),
}


@pytest.mark.parametrize("handler", CALLABLES.values(), ids=CALLABLES.keys())
async def test_whatever_can_be_called(serve: Serve, handler: Handler) -> None:
    """A handler is anything that gives an awaitable."""
    server = await serve(handler)
    async with connect(server.port) as client:
        assert await client.get_message() == "hello"
