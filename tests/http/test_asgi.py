"""An ASGI application behind the gateway: messages in, HTTP out, what either side gets wrong."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.transport.fakes import on_virtual_time
from trio_gateway import Drain, Limits, Proxies, Router, Timeouts, Upgrade
from trio_gateway.errors import AppStartupFailed
from trio_gateway.http.asgi import AsgiApp, ClientGone, as_http, asgi
from trio_gateway.http.messages import HttpRequest
from trio_gateway.testing import MemoryStream, OpenGateway, open_gateway

App = Callable[[Any, Any, Any], Awaitable[None]]
GET = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: gateway.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
HELLO = bytes([0x81, 0x85, 0, 0, 0, 0]) + b"hello"
TIMEOUTS = Timeouts(response_timeout=30, body_timeout=20, linger_timeout=2)


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def answering(*messages: dict[str, Any]) -> App:
    """Return an application that answers every request with the same messages."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "http" == scope["type"]
        for message in messages:
            await send(message)

    return app


async def mirror(scope: Any, receive: Any, send: Any) -> None:
    """Send the body back as it comes."""
    await send(start())
    more = True
    while more:
        message = await receive()
        assert "http.request" == message["type"]
        more = message["more_body"]
        await send(body(message["body"], more=more))


async def echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


@asynccontextmanager
async def serving(app: App | AsgiApp, **settings: Any) -> AsyncGenerator[OpenGateway]:
    router = Router()
    router.route("/echo", echo)
    settings.setdefault("timeouts", TIMEOUTS)
    http = app if isinstance(app, AsgiApp) else asgi(app, lifespan=False)
    async with open_gateway(router, http=http, **settings) as server:
        yield server


class Client:
    """Reads answers off a stream as h11 has them."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.rest = b""

    async def answer(self, request: bytes = b"", *, method: str = "GET") -> "Answer":
        """Send a request and return what is answered to it."""
        if request:
            await self.stream.send_all(request)
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        if self.rest:
            parser.receive_data(self.rest)
        found = Answer()
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(bytes(await self.stream.receive_some()))
            elif isinstance(event, h11.InformationalResponse):
                found.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                found.status, found.headers = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                found.body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                self.rest = parser.trailing_data[0]
                return found

    async def all(self) -> bytes:
        """Return what comes until the end."""
        return b"".join([chunk async for chunk in self.stream])


class Answer:
    def __init__(self) -> None:
        self.informational: list[int] = []
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""


async def received(stream: MemoryStream) -> bytes:
    data = bytes(await stream.receive_some())
    assert data, "the connection ended"
    return data


async def ask(server: OpenGateway, request: bytes, *, method: str = "GET") -> Answer:
    return await Client(await server.connect()).answer(request, method=method)


async def test_what_an_application_is_told(autojump_clock: MockClock) -> None:
    """The scope of a request, as ASGI's HTTP specification has it."""
    seen = list[dict[str, Any]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await answering(start(), body())(scope, receive, send)

    async with serving(asgi(app, root_path="/sub", lifespan=False)) as server:
        await ask(
            server,
            b"POST /a%20b/%C3%BC?x=%201 HTTP/1.1\r\nHost: gateway.test\r\nX-One: a\r\n"
            b"x-one:  b \r\nContent-Length: 0\r\n\r\n",
            method="POST",
        )
    (scope,) = seen
    assert ("http", "1.1", "POST", "http") == tuple(
        scope[key] for key in ("type", "http_version", "method", "scheme")
    )
    assert ("/sub/a b/ü", b"/sub/a%20b/%C3%BC", b"x=%201", "/sub") == tuple(
        scope[key] for key in ("path", "raw_path", "query_string", "root_path")
    )
    assert [
        (b"host", b"gateway.test"),
        (b"x-one", b"a"),
        (b"x-one", b"b"),
        (b"content-length", b"0"),
    ] == scope["headers"]
    assert {"version": "3.0", "spec_version": "2.4"} == scope["asgi"]


@pytest.mark.parametrize(
    "headers, expected",
    [
        (b"X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n", ("https", "192.0.2.9")),
        (b"Forwarded: for=192.0.2.9;proto=HTTPS\r\n", ("https", "192.0.2.9")),
        (b"Forwarded: for=192.0.2.9;proto=gopher\r\n", ("http", "192.0.2.9")),
        (b"", ("http", None)),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
async def test_behind_a_proxy(
    headers: bytes, expected: tuple[str, str | None], trusted: bool, autojump_clock: MockClock
) -> None:
    """A trusted one says who asks and how, and nobody else does."""
    seen = list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["scheme"], scope["client"] and scope["client"][0]))
        await answering(start(), body())(scope, receive, send)

    proxies = Proxies(trusted=["unix"]) if trusted else None  # memory has no address either
    async with serving(app, proxies=proxies) as server:
        await ask(server, GET[:-2] + headers + b"\r\n")
    assert [expected if trusted else ("http", None)] == seen


async def test_an_answer_of_one_part(autojump_clock: MockClock) -> None:
    """Its length is known, so it is said; the date is too."""
    async with serving(answering(start(201, (b"X-One", b"\xe9")), body(b"hello"))) as server:
        answer = await ask(server, GET)
    assert (201, b"hello", b"\xe9") == (answer.status, answer.body, answer.headers[b"x-one"])
    assert (b"5", b"keep-alive") == (
        answer.headers[b"content-length"],
        answer.headers[b"connection"],
    )
    assert answer.headers[b"date"].endswith(b" GMT")


async def test_an_answer_of_many_parts(autojump_clock: MockClock) -> None:
    """It is chunked, and the next answer comes on the same socket."""
    parts = (body(b"one ", more=True), body(more=True), body(b"two", more=True), body())
    async with serving(answering(start(), *parts)) as server:
        client = Client(await server.connect())
        for _ in range(2):
            answer = await client.answer(GET)
            assert (b"one two", b"chunked") == (answer.body, answer.headers[b"transfer-encoding"])


async def test_a_length_that_is_announced(autojump_clock: MockClock) -> None:
    """Then there are no chunks."""
    app = answering(start(200, (b"content-length", b"6")), body(b"one", more=True), body(b"two"))
    async with serving(app) as server:
        answer = await ask(server, GET)
    assert (b"onetwo", False) == (answer.body, b"transfer-encoding" in answer.headers)


async def test_an_old_client(autojump_clock: MockClock) -> None:
    """HTTP/1.0 knows no chunks: the end of the answer is the end of the connection."""
    async with serving(answering(start(), body(b"one", more=True), body(b"two"))) as server:
        stream = await server.connect()
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        head, _, rest = (await Client(stream).all()).partition(b"\r\n\r\n")
    assert (b"onetwo", True) == (rest, b"connection: close" in head)


@pytest.mark.parametrize(
    "messages, expected",
    [
        ((start(), body(b"hello")), b"5"),
        ((start(200, (b"content-length", b"7")), body()), b"7"),
        ((start(), body()), None),
        ((start(), body(b"he", more=True), body(b"llo")), None),
    ],
)
async def test_head(
    messages: tuple[dict[str, Any], ...], expected: bytes | None, autojump_clock: MockClock
) -> None:
    """The answer to HEAD has no body, and a length only where that is known."""
    async with serving(answering(*messages)) as server:
        client = Client(await server.connect())
        for _ in range(2):
            answer = await client.answer(GET.replace(b"GET", b"HEAD"), method="HEAD")
            assert (200, b"", expected) == (
                answer.status,
                answer.body,
                answer.headers.get(b"content-length"),
            )


@pytest.mark.parametrize("status", [204, 304])
async def test_without_content(status: int, autojump_clock: MockClock) -> None:
    """What has no content has none, whatever the application sends."""
    app = answering(start(status), body(b"never", more=True), body(b"sent"))
    async with serving(app) as server:
        client = Client(await server.connect())
        for _ in range(2):
            answer = await client.answer(GET)
            assert (status, b"") == (answer.status, answer.body)
            assert not {b"content-length", b"transfer-encoding"} & answer.headers.keys()


async def test_keep_alive_then_upgrade(autojump_clock: MockClock) -> None:
    """After GETs the same socket is upgraded, by our router; not a byte of HTTP follows."""
    async with serving(answering(start(), body(b"hello"))) as server:
        client = Client(await server.connect())
        for _ in range(3):
            assert b"hello" == (await client.answer(GET)).body
        await client.stream.send_all(UPGRADE + HELLO)
        data = b""
        while not data.endswith(b"hello"):
            data += await received(client.stream)
        assert (True, b"\x81\x05hello") == (
            data.startswith(b"HTTP/1.1 101 "),
            data.partition(b"\r\n\r\n")[2],
        )
        assert (3, 1) == (
            server.gateway.statistics().http_requests,
            server.gateway.statistics().upgrades_accepted,
        )


async def test_pipelining(autojump_clock: MockClock) -> None:
    """Requests that come at once are answered in order, an upgrade at their end too."""
    count = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal count
        count += 1
        number = count
        await trio.sleep(1 / number)  # the later ones would overtake
        await answering(start(), body(b"%d" % number))(scope, receive, send)

    async with serving(app) as server:
        client = Client(await server.connect())
        await client.stream.send_all(GET * 5 + UPGRADE)
        assert [b"1", b"2", b"3", b"4", b"5"] == [(await client.answer()).body for _ in range(5)]
        data = client.rest
        while b"\r\n\r\n" not in data:
            data += await received(client.stream)
        assert data.startswith(b"HTTP/1.1 101 ")


def chunked(data: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (data[:7], data[7:], b""))


@given(
    st.booleans(),
    st.binary(min_size=8, max_size=300_000),
    st.lists(st.integers(1, 300_000), max_size=5),
)
def test_bodies_both_ways(in_chunks: bool, data: bytes, cuts: list[int]) -> None:
    """However a body is framed and cut, the application gets it, and the client its answer."""
    field = b"Transfer-Encoding: chunked" if in_chunks else b"Content-Length: %d" % len(data)
    sent = chunked(data) if in_chunks else data
    request = b"POST / HTTP/1.1\r\nHost: gateway.test\r\n" + field + b"\r\n\r\n" + sent

    async def run() -> None:
        async with serving(mirror) as server:
            client = Client(await server.connect())
            edges = [0, *sorted({cut for cut in cuts if cut < len(request)}), len(request)]
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    for begin, end in pairwise(edges):
                        await client.stream.send_all(request[begin:end])
                        await trio.sleep(0.1)

                nursery.start_soon(send)
                answer = await client.answer(method="POST")
            assert data == answer.body

    on_virtual_time(run)


async def test_a_large_answer_to_a_slow_client(autojump_clock: MockClock) -> None:
    """The application waits while the client is behind; slow is no offence while it reads."""
    held = list[int]()
    piece = b"x" * 100_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for _ in range(50):
            await send(body(piece, more=True))
            held.append(max(link.outbox.size for link in server.gateway._reception._links))
        await send(body(piece * 10))

    async with serving(app, max_buffered_bytes=4096) as server:
        client = Client(await server.connect())
        await client.stream.send_all(GET)
        data = bytearray()
        while not data.endswith(b"\r\n0\r\n\r\n"):
            await trio.sleep(0.3)  # 4 KiB each; longer than any timeout in the end
            data += await received(client.stream)
    assert 60 * len(piece) == data.count(b"x")
    assert max(held) <= 2 * len(piece)
    assert trio.current_time() > 120


async def test_a_stream_may_be_silent(autojump_clock: MockClock) -> None:
    """An answer that has begun has all the time: events need not come often."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, (b"content-type", b"text/event-stream")))
        await send(body(more=True))
        for number in range(3):
            await trio.sleep(1000)
            await send(body(b"data: %d\n\n" % number, more=True))
        await send(body())

    async with serving(app) as server:
        assert b"data: 0\n\ndata: 1\n\ndata: 2\n\n" == (await ask(server, GET)).body


async def test_an_application_that_never_answers(autojump_clock: MockClock) -> None:
    """It is answered for, and cancelled."""
    ended = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())  # not the answer's first byte yet
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(app) as server:
        assert 503 == (await ask(server, GET)).status
        await ended.wait()
        assert 30 <= trio.current_time() < 31


def no_answer(*messages: dict[str, Any], raises: bool) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        if raises:
            raise KeyError("a bug")

    return app


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("messages", [(), (start(),)])
async def test_a_failure_before_the_answer(
    messages: tuple[dict[str, Any], ...],
    raises: bool,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is a 500 and a line in the log, and everybody else is served."""
    async with serving(no_answer(*messages, raises=raises)) as server:
        for _ in range(2):
            assert 500 == (await ask(server, GET)).status
    assert 2 == len(caplog.records)


@pytest.mark.parametrize("raises", [True, False])
async def test_a_failure_in_the_answer(
    raises: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is cut: the client must not take the part for the whole."""
    async with serving(no_answer(start(), body(b"hel", more=True), raises=raises)) as server:
        client = Client(await server.connect())
        await client.stream.send_all(GET)
        with pytest.raises(h11.RemoteProtocolError):
            await client.answer()
    assert 1 == len(caplog.records)


@pytest.mark.parametrize(
    "messages, status",
    [
        ([start(), start(), body()], 500),
        ([body()], 500),
        ([start(101), body()], 500),
        ([start(99), body()], 500),
        ([{**start(), "status": "200"}, body()], 500),
        ([start(200, (b"x", b"a\r\nSet-Cookie: b")), body()], 500),
        ([start(200, (b"x y", b"a")), body()], 500),
        ([start(200, ("x", "a")), body()], 500),  # type: ignore[arg-type]  # what apps do
        ([start(200, (b"content-length", b"-1")), body()], 500),
        ([start(200, (b"content-length", b"1"), (b"content-length", b"1")), body(b"x")], 500),
        ([start(200, (b"content-length", b"5")), body(b"too long")], 500),
        ([start(200, (b"content-length", b"5")), body(b"few")], 500),
        ([{"type": "websocket.accept"}], 500),
        ([start(), body(b"hello"), body(b"again")], 200),
        ([start(), body(b"hello"), start(), body(b"again")], 200),
    ],
)
async def test_an_application_that_does_it_wrong(
    messages: list[dict[str, Any]],
    status: int,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It gets an exception, writes nothing, and its client one whole answer and no other."""
    async with serving(answering(*messages)) as server:
        client = Client(await server.connect())
        answer = await client.answer(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert (status, b"") == (answer.status, client.rest)
        if status == 200:
            assert (b"hello", b"hello") == (answer.body, (await client.answer(GET)).body)
    assert caplog.records


@pytest.mark.parametrize("announced", [4, 100])
async def test_a_body_of_another_length(
    announced: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What does not fit the announced length is not sent, and the connection is cut."""
    length = (b"content-length", b"%d" % announced)
    app = answering(start(200, length), body(b"one", more=True), body(b"two"))
    async with serving(app) as server:
        client = Client(await server.connect())
        await client.stream.send_all(GET)
        assert (await client.all()).endswith(b"\r\n\r\none")
    assert 1 == len(caplog.records)


async def test_a_client_that_goes(autojump_clock: MockClock) -> None:
    """The application hears of it, and whatever it sends raises; none of that is its failure."""
    heard = list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"hello", more=True))
        assert "http.request" == (await receive())["type"]
        heard.append((await receive())["type"])
        try:
            await send(body(b"nobody reads this", more=True))
        except OSError as error:
            heard.append(type(error))
            raise RuntimeError("what a framework makes of it") from error

    async with serving(app) as server:
        stream = await server.connect()
        await stream.send_all(GET)
        await stream.receive_some()
        stream.send_stream.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert ["http.disconnect", ClientGone] == heard
        assert 0 == server.gateway.statistics().handlers


async def test_a_client_that_says_it_is_done(autojump_clock: MockClock) -> None:
    """It may still read: who asks hears of a disconnect, who answers is heard."""
    heard = list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        heard.append((await receive())["type"])
        await answering(start(), body(b"still here"))(scope, receive, send)

    async with serving(app) as server:
        stream = await server.connect()
        await stream.send_all(GET)
        await stream.send_stream.aclose()
        answer = await Client(stream).answer()
    assert (["http.disconnect"], b"still here", b"close") == (
        heard,
        answer.body,
        answer.headers[b"connection"],
    )


async def test_a_silent_stream_nobody_reads(autojump_clock: MockClock) -> None:
    """When its client has said that it is done, a stream may be silent no longer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"hello", more=True))
        await trio.sleep_forever()

    async with serving(app) as server:
        stream = await server.connect()
        await stream.send_all(GET)
        await stream.receive_some()
        await trio.sleep(1000)
        await stream.send_stream.aclose()
        await trio.sleep(31)
        now = server.gateway.statistics()
        assert (0, 0) == (now.handlers, now.sockets)


async def test_who_ignores_that_the_client_is_gone(autojump_clock: MockClock) -> None:
    """An application that goes on for nobody is cancelled after the response timeout."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep_forever()

    async with serving(app) as server:
        stream = await server.connect()
        await stream.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        stream.send_stream.reset()
        await trio.sleep(20)
        assert 1 == server.gateway.statistics().handlers
        await trio.sleep(20)
        assert 0 == server.gateway.statistics().handlers


async def test_work_after_the_answer(autojump_clock: MockClock) -> None:
    """Background work goes on for as long as it takes, and the socket does not wait for it."""
    done = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answering(start(), body())(scope, receive, send)
        assert "http.disconnect" == (await receive())["type"]
        await trio.sleep(1000)
        done.set()

    async with serving(app) as server:
        client = Client(await server.connect())
        for _ in range(2):
            assert 200 == (await client.answer(GET)).status
        await client.stream.aclose()
        await done.wait()


POST = b"POST / HTTP/1.1\r\nHost: gateway.test\r\n"


async def swallow(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, then answer how large it was."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    await answering(start(), body(b"%d" % size))(scope, receive, send)


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n70\r\n" + b"x" * 112 + b"\r\n", 413),
        (POST + b"Content-Length: 101\r\n\r\n", 413),
        (POST + b"Content-Length: 100\r\n\r\n" + b"x" * 99, 408),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /\xc3\xbc HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("app", [swallow, answering(start(), body(b"at once"))])
async def test_rude_requests(
    request_bytes: bytes, status: int, app: App, autojump_clock: MockClock
) -> None:
    """They are refused where they would be without an application, which just hears of an end."""
    async with serving(app, limits=Limits(max_body_bytes=100)) as server:
        answer = await ask(server, request_bytes)
        assert (status if app is swallow else answer.status) == answer.status
        await trio.sleep(60)
        now = server.gateway.statistics()
        assert (0, 0) == (now.handlers, now.sockets)


async def test_h2c_is_not_spoken(autojump_clock: MockClock) -> None:
    """The offer is ignored, as RFC 9110 §7.8 lets a server do."""
    async with serving(answering(start(), body(b"one"))) as server:
        request = GET[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        answer = await ask(server, request + b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n")
    assert (200, b"one") == (answer.status, answer.body)


async def test_a_bad_chunk_behind_a_begun_answer(autojump_clock: MockClock) -> None:
    """There is nothing left to say, so the connection is cut."""
    async with serving(mirror) as server:
        client = Client(await server.connect())
        await client.stream.send_all(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        client.rest = await received(client.stream)
        await client.stream.send_all(b"zz\r\n")
        with pytest.raises(h11.RemoteProtocolError):
            await client.answer()
        await trio.testing.wait_all_tasks_blocked()
        assert 0 == server.gateway.statistics().handlers


async def test_a_body_that_nobody_reads(autojump_clock: MockClock) -> None:
    """It waits in bounded space; the answer closes the connection, for the rest is in the way."""
    paused = list[int]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(5)
        (link,) = server.gateway._reception._links
        paused.append(len(link.receiver._body))  # type: ignore[attr-defined]  # an AppExchange
        await answering(start(), body(b"no, thanks"))(scope, receive, send)

    async with serving(app, max_buffered_bytes=1000) as server:
        client = Client(await server.connect())
        async with trio.open_nursery() as nursery:
            sending = POST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
            nursery.start_soon(client.stream.send_all, sending)
            answer = await client.answer(method="POST")
            assert (b"no, thanks", b"close") == (answer.body, answer.headers[b"connection"])
    assert max(paused) < 70_000


async def test_an_application_that_reads_slowly(autojump_clock: MockClock) -> None:
    """The client's clock stands still while the application is what the body waits for."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            await trio.sleep(10)
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await answering(start(), body(b"%d" % size))(scope, receive, send)

    async with serving(app, max_buffered_bytes=100_000) as server:
        client = Client(await server.connect())
        async with trio.open_nursery() as nursery:
            sending = POST + b"Content-Length: 900000\r\n\r\n" + b"x" * 900_000
            nursery.start_soon(client.stream.send_all, sending)
            assert b"900000" == (await client.answer(method="POST")).body
    assert trio.current_time() > 20


async def test_expect_continue(autojump_clock: MockClock) -> None:
    """The client is told to go on when the application asks for the body, and not before."""
    request = POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(25)  # longer than the client has for its body
        await swallow(scope, receive, send)

    async with serving(app) as server:
        stream = await server.connect()
        await stream.send_all(request)
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await stream.receive_some()
        await stream.send_all(b"hello")
        assert b"5" == (await Client(stream).answer()).body
    async with serving(answering(start(403), body())) as server:
        answer = await ask(server, request, method="POST")
        assert ([], 403, b"close") == (
            answer.informational,
            answer.status,
            answer.headers[b"connection"],
        )


async def test_the_application_says_close(autojump_clock: MockClock) -> None:
    """Then the connection is."""
    async with serving(answering(start(200, (b"Connection", b"Close")), body(b"bye"))) as server:
        client = Client(await server.connect())
        assert b"close" == (await client.answer(GET)).headers[b"connection"]
        assert b"" == await client.all()


async def test_a_drain_waits_for_answers(autojump_clock: MockClock) -> None:
    """Within the grace period; and they say that no other request is read."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(5)
        await answering(start(), body(b"done"))(scope, receive, send)

    async with serving(app, drain=Drain(grace=20)) as server, trio.open_nursery() as nursery:
        client = Client(await server.connect())
        await client.stream.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(server.gateway.drain)
        answer = await client.answer()
        assert (b"done", b"close") == (answer.body, answer.headers[b"connection"])
    assert 5 <= trio.current_time() < 10


async def test_an_application_is_told_from_a_handler() -> None:
    """By what it takes; what is neither is refused at once."""

    async def handler(request: HttpRequest) -> None: ...

    class Callable3:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    wrapped = asgi(mirror)
    assert (None, handler, wrapped) == (as_http(None), as_http(handler), as_http(wrapped))
    for app in (mirror, Callable3(), partial(mirror)):
        found = as_http(app)
        assert isinstance(found, AsgiApp)
        assert app is found.app
    nobody: list[Any] = [lambda: None, "app"]
    for other in nobody:
        with pytest.raises(TypeError):
            as_http(other)
    with pytest.raises(TypeError):
        asgi(handler)  # type: ignore[arg-type]  # that is the test
    for path in ("sub", "/sub/", "/"):
        with pytest.raises(ValueError):
            asgi(mirror, root_path=path)


# Lifespan.


def living(events: list[str], *, then: Callable[[], Awaitable[None]] | None = None) -> App:
    """Return an application that writes its life down."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            events.append(f"request with {scope['state']}")
            await answering(start(), body())(scope, receive, send)
            return
        assert "lifespan" == scope["type"]
        events.append((await receive())["type"])
        await trio.sleep(5)
        scope["state"]["pool"] = 1
        await send({"type": "lifespan.startup.complete"})
        events.append((await receive())["type"])
        if then is not None:
            await then()
        await trio.sleep(5)
        await send({"type": "lifespan.shutdown.complete"})
        events.append("ended")

    return app


@pytest.mark.parametrize("drained", [True, False])
async def test_a_life(drained: bool, autojump_clock: MockClock) -> None:
    """Started before the first request and shut down after the last, drained or cancelled."""
    events = list[str]()
    async with serving(asgi(living(events))) as server:
        assert 5 <= trio.current_time()
        assert 200 == (await ask(server, GET)).status
        if drained:
            await server.gateway.drain()
    assert [
        "lifespan.startup",
        "request with {'pool': 1}",
        "lifespan.shutdown",
        "ended",
    ] == events


async def test_a_shutdown_that_hangs(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cancelled after the closing timeout, with a line in the log."""
    async with serving(asgi(living([], then=trio.sleep_forever))):
        pass
    assert 15 <= trio.current_time() < 16
    assert ["shutdown took too long" in record.message for record in caplog.records] == [True]


async def fail_by_raising(_: Any, receive: Any, __: Any) -> None:
    await receive()
    raise ConnectionRefusedError("no database")


async def fail_by_saying_so(_: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


@pytest.mark.parametrize("app", [fail_by_raising, fail_by_saying_so])
async def test_a_startup_that_fails(app: App, autojump_clock: MockClock) -> None:
    """It ends the gateway before anybody is served, with one error that says why."""
    with pytest.raises(AppStartupFailed, match=r"startup failed: .*no database") as caught:
        async with serving(asgi(app)):
            pytest.fail("it was served")
    assert isinstance(caught.value.__cause__, OSError) == (app is fail_by_raising)


async def test_a_startup_that_is_cancelled(autojump_clock: MockClock) -> None:
    """Cancellation passes."""

    async def app(_: Any, __: Any, ___: Any) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(5) as scope:
        async with serving(asgi(app)):
            pytest.fail("it was served")
    assert (True, 5) == (scope.cancelled_caught, trio.current_time())


async def ends_at_once(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await answering(start(), body())(scope, receive, send)


async def answers_everything(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await answering(start(), body())({"type": "http"}, receive, send)


@pytest.mark.parametrize("app", [answering(start(), body()), ends_at_once, answers_everything])
async def test_an_application_without_a_life(
    app: App, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One that knows no lifespan is served all the same."""
    async with serving(asgi(app)) as server:
        assert 200 == (await ask(server, GET)).status
    assert [] == [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_life_that_ends_early(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure between startup and shutdown is logged; the requests go on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answering(start(), body())(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep(1)
        raise KeyError("a bug")

    async with serving(asgi(app)) as server:
        await trio.sleep(2)
        assert 200 == (await ask(server, GET)).status
    assert 1 == len(caplog.records)
