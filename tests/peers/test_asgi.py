"""Starlette and Quart-Trio beside the WebSockets: real sockets, httpx, TLS, and the examples."""

import json
import ssl
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from runpy import run_path
from typing import Any, Self

import httpx
import pytest
import trio
from quart import Response as QuartResponse
from quart import request as quart_request
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from trio_websocket import connect_websocket

from tests.peers.gateway import GUARD, Certificates, echo
from trio_gateway import Gateway, Router, serve_websocket

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


class Seen:
    """What the applications did beside their answers."""

    def __init__(self) -> None:
        self.background = trio.Event()
        self.stopped = trio.Event()


class Endless:
    """A body without an end; no generator, which Starlette would leave to the garbage collector."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await trio.sleep(0.001)
        return b"x" * 1000


def starlette(seen: Seen) -> Starlette:
    async def hello(request: Request) -> Response:
        return PlainTextResponse(f"hello {request.query_params['name']}")

    async def back(request: Request) -> Response:
        return Response(await request.body())

    async def events(_: Request) -> Response:
        async def produce() -> AsyncIterator[bytes]:
            try:
                for number in range(3):
                    yield b"data: %d\n\n" % number
                    await trio.sleep(0.01)
            finally:
                seen.stopped.set()

        return StreamingResponse(produce(), media_type="text/event-stream")

    async def endless(_: Request) -> Response:
        return StreamingResponse(Endless())

    async def later(_: Request) -> Response:
        async def work() -> None:
            seen.background.set()

        return JSONResponse({"accepted": True}, background=BackgroundTask(work))

    async def fail(_: Request) -> Response:
        raise KeyError("a bug")

    async def where(request: Request) -> Response:
        return JSONResponse([request.url.scheme, request.client and request.client.host])

    async def never(_: Any) -> None:
        pytest.fail("an ASGI application beside the gateway sees no WebSocket")

    return Starlette(
        routes=[
            Route("/hello", hello),
            Route("/back", back, methods=["POST"]),
            Route("/events", events),
            Route("/endless", endless),
            Route("/later", later),
            Route("/fail", fail),
            Route("/where", where),
            WebSocketRoute("/echo", never),
        ]
    )


def quart(seen: Seen) -> QuartTrio:
    app = QuartTrio(__name__)

    @app.get("/hello")
    async def hello() -> str:
        return f"hello {quart_request.args['name']}"

    @app.post("/back")
    async def back() -> str | bytes:
        return await quart_request.get_data(as_text=False)

    @app.get("/events")
    async def events() -> QuartResponse:
        async def produce() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"data: %d\n\n" % number
                await trio.sleep(0.01)
            seen.stopped.set()

        return QuartResponse(produce(), mimetype="text/event-stream")

    @app.get("/endless")
    async def endless() -> QuartResponse:
        return QuartResponse(Endless())

    @app.get("/later")
    async def later() -> dict[str, bool]:
        async def work() -> None:
            seen.background.set()

        app.add_background_task(work)
        return {"accepted": True}

    @app.get("/fail")
    async def fail() -> str:
        raise KeyError("a bug")

    @app.get("/where")
    async def where() -> list[str | None]:
        return [quart_request.scheme, quart_request.remote_addr]

    return app


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture(params=[starlette, quart])
async def gateway(
    request: pytest.FixtureRequest,
    seen: Seen,
    tls: bool,
    certificates: Certificates,
    nursery: trio.Nursery,
) -> Gateway:
    make: Callable[[Seen], Any] = request.param
    router = Router()
    router.route("/echo", echo)
    serve = partial(
        serve_websocket,
        router,
        "127.0.0.1",
        0,
        certificates.server if tls else None,
        http=make(seen),
    )
    started: Gateway = await nursery.start(serve)
    return started


@pytest.fixture
async def client(
    gateway: Gateway, tls: bool, certificates: Certificates
) -> AsyncIterator[httpx.AsyncClient]:
    base = f"{'https' if tls else 'http'}://127.0.0.1:{gateway.port}"
    verify: ssl.SSLContext | bool = certificates.client if tls else False
    with trio.fail_after(GUARD):
        async with httpx.AsyncClient(base_url=base, verify=verify, trust_env=False) as client:
            yield client


async def connect(gateway: Gateway, tls: bool, certificates: Certificates) -> trio.abc.Stream:
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    if not tls:
        return stream
    return trio.SSLStream(stream, certificates.client, server_hostname="127.0.0.1")


async def until_idle(gateway: Gateway) -> None:
    with trio.fail_after(GUARD):
        while gateway.statistics().handlers:  # noqa: ASYNC110  # no event tells of it
            await trio.sleep(0.01)


async def test_requests(client: httpx.AsyncClient, gateway: Gateway) -> None:
    """All kinds of them, on one kept socket."""
    for number in range(5):
        assert f"hello {number}" == (await client.get("/hello", params={"name": number})).text
    body = bytes(range(256)) * 1000
    assert body == (await client.post("/back", content=body)).content

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    assert body == (await client.post("/back", content=pieces())).content
    head = await client.head("/hello", params={"name": "ann"})
    assert (200, "", "9") == (head.status_code, head.text, head.headers["content-length"])
    assert (404, 405) == (
        (await client.get("/nowhere")).status_code,
        (await client.post("/hello")).status_code,
    )
    assert 1 == gateway.statistics().accepted_sockets


async def test_a_stream(client: httpx.AsyncClient, seen: Seen) -> None:
    """Its parts come as they are made."""
    async with client.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = "".join([part async for part in response.aiter_text()])
    assert "data: 0\n\ndata: 1\n\ndata: 2\n\n" == text
    await seen.stopped.wait()


async def test_a_client_that_leaves_a_stream(
    gateway: Gateway, tls: bool, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream ends, and nothing is in the log: clients leave."""
    with trio.fail_after(GUARD):
        stream = await connect(gateway, tls, certificates)
        await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await stream.receive_some()
        await trio.aclose_forcefully(stream)
        await until_idle(gateway)
    assert [] == [record for record in caplog.records if record.name.startswith("trio_gateway")]


async def test_background_work(client: httpx.AsyncClient, seen: Seen) -> None:
    """It is done after the answer."""
    assert {"accepted": True} == (await client.get("/later")).json()
    await seen.background.wait()


async def test_a_failure(
    client: httpx.AsyncClient, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """The framework's 500; the next request is answered."""
    assert 500 == (await client.get("/fail")).status_code
    assert 200 == (await client.get("/hello", params={"name": "x"})).status_code
    await until_idle(gateway)
    assert caplog.records


async def test_where_a_request_comes_from(client: httpx.AsyncClient, tls: bool) -> None:
    """The scheme and the client's address."""
    expected = ["https" if tls else "http", "127.0.0.1"]
    assert expected == (await client.get("/where")).json()


async def test_an_upgrade_after_requests(
    gateway: Gateway, tls: bool, certificates: Certificates
) -> None:
    """On the same socket, by our router, though the application has a route for it too."""
    with trio.fail_after(GUARD):
        async with await connect(gateway, tls, certificates) as stream:
            for _ in range(2):
                await stream.send_all(b"GET /hello?name=ann HTTP/1.1\r\nHost: localhost\r\n\r\n")
                data = b""
                while not data.endswith(b"hello ann"):
                    data += await stream.receive_some()
            await stream.send_all(
                b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\x81\x82\0\0\0\0hi"
            )
            data = b""
            while not data.endswith(b"\x81\x02hi"):
                data += await stream.receive_some()
    assert data.startswith(b"HTTP/1.1 101 ")
    now = gateway.statistics()
    assert (1, 2, 1) == (now.accepted_sockets, now.http_requests, now.upgrades_accepted)


async def start_example(name: str, nursery: trio.Nursery) -> Gateway:
    app, router, hub = run_path(str(EXAMPLES / name), run_name="example")["make"]()
    serve = partial(serve_websocket, router, "127.0.0.1", 0, None, http=app, hub=hub)
    gateway: Gateway = await nursery.start(serve)
    return gateway


async def test_publishing_from_starlette(nursery: trio.Nursery) -> None:
    """``docs/examples/starlette_beside.py``: a route tells everybody in the room."""
    gateway = await start_example("starlette_beside.py", nursery)
    host = f"127.0.0.1:{gateway.port}"
    with trio.fail_after(GUARD):
        async with (
            httpx.AsyncClient(base_url=f"http://{host}", trust_env=False) as client,
            trio.open_nursery() as sockets,
        ):
            ann = await connect_websocket(
                sockets, "127.0.0.1", gateway.port, "/chat?user=ann", use_ssl=False
            )
            kinds = [json.loads(await ann.get_message())["type"] for _ in range(2)]
            answer = await client.post("/announce", data={"text": "Lunch is ready"})
            message = json.loads(await ann.get_message())
            assert "1 announcements so far\n" == (await client.get("/")).text
            await ann.aclose()
    assert ["welcome", "joined"] == kinds
    assert (201, answer.json()["offset"], "announcer", "Lunch is ready") == (
        answer.status_code,
        message["offset"],
        message["user"],
        message["text"],
    )


async def test_publishing_from_quart(nursery: trio.Nursery) -> None:
    """``docs/examples/quart_beside.py``: a route tells one user, connected or not."""
    gateway = await start_example("quart_beside.py", nursery)
    host = f"127.0.0.1:{gateway.port}"
    with trio.fail_after(GUARD):
        async with (
            httpx.AsyncClient(base_url=f"http://{host}", trust_env=False) as client,
            trio.open_nursery() as sockets,
        ):
            ann = await connect_websocket(
                sockets, "127.0.0.1", gateway.port, "/notifications?user=ann", use_ssl=False
            )
            welcome = json.loads(await ann.get_message())
            answer = await client.post("/orders/7/ship", data={"user": "ann"})
            note = json.loads(await ann.get_message())
            await ann.aclose()
    assert ("welcome", 201) == (welcome["type"], answer.status_code)
    assert (answer.json()["offset"], {"order": 7}) == (note["offset"], note["data"])
