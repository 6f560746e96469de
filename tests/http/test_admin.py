"""The operator's side of the API, on a whole application over memory."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.errors import StoreUnavailable
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.testing import OpenGateway, open_gateway

TOKEN = "s3cret"


class Site:
    """An application that is served, an operator, and clients."""

    def __init__(self, application: Application, server: OpenGateway, stack: AsyncExitStack):
        self.application = application
        self.server = server
        self._stack = stack

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        token: str = TOKEN,
    ) -> tuple[int, Any]:
        """Ask the API; return the status, and the JSON or the code of the error."""
        request = HttpRequest(
            method=method,
            path=path,
            query=query or {},
            headers={"authorization": f"Bearer {token}"},
            body=body,
            remote="127.0.0.1",
        )
        answer = await self.application.http(request)
        if isinstance(answer, Refusal):
            return answer.status, answer.error
        assert isinstance(answer, HttpResponse)
        return answer.status, json.loads(answer.body)

    async def join(self, path: str) -> tuple[str, WebSocketConnection]:
        """Connect; return the connection's id and the client."""
        client = await self._stack.enter_async_context(self.server.open_websocket(path))
        welcome = json.loads(await client.get_message())
        return welcome["connection"], client

    async def listed(self, **query: str) -> list[str]:
        """Return the users of a page."""
        status, page = await self.ask("GET", "/api/connections", query=query)
        assert 200 == status
        return [entry["user"] for entry in page["connections"]]


@asynccontextmanager
async def opened() -> AsyncGenerator[Site]:
    """Serve an application."""
    application = Application(MemoryBroker(), ApplicationSettings(api_token=TOKEN))
    async with (
        open_gateway(application.router, http=application.http, hub=application.hub) as server,
        AsyncExitStack() as stack,
    ):
        application.attach(server.gateway)
        yield Site(application, server, stack)


async def close_reason(client: WebSocketConnection) -> tuple[int, str | None]:
    """Return what a client is closed with."""
    with trio.fail_after(5), suppress(ConnectionClosed):
        while True:
            await client.get_message()
    assert client.closed is not None
    return int(client.closed.code), client.closed.reason


async def test_connections_are_listed_in_the_order_of_opening() -> None:
    """With what an operator asks for, and without the query, which may hold a token."""
    async with opened() as site:
        id, _ = await site.join("/?user=ann&token=hidden")
        await site.join("/notifications/ws?user=bob")
        status, page = await site.ask("GET", "/api/connections")
        assert (200, 2, None) == (status, page["open"], page["cursor"])
        first, second = page["connections"]
        assert 0 <= first.pop("age") < 60
        address = first.pop("address")
        assert {
            "id": id,
            "user": "ann",
            "route": "/",
            "path": "/",
            "unread": 0,
            "outbox_bytes": 0,
        } == first
        assert ("bob", "/notifications/ws") == (second["user"], second["route"])
        assert address == second["address"]


async def test_connections_are_filtered() -> None:
    """By user, route, address, and several of them at once."""
    async with opened() as site:
        await site.join("/?user=ann")
        await site.join("/anywhere?user=ann")
        await site.join("/?user=bob")
        address = (await site.ask("GET", "/api/connections"))[1]["connections"][0]["address"]
        assert ["ann", "ann"] == await site.listed(user="ann")
        assert ["ann", "bob"] == await site.listed(route="/")
        assert ["ann"] == await site.listed(route="fallback")
        assert ["ann", "ann", "bob"] == await site.listed(address=address)
        assert [] == await site.listed(address="192.0.2.1")
        assert ["ann"] == await site.listed(user="ann", route="/")
        assert [] == await site.listed(user="an")


async def test_connections_come_page_by_page() -> None:
    """Each once, also when the last one of a page has gone meanwhile."""
    async with opened() as site:
        clients = [await site.join(f"/?user=u{number}") for number in range(5)]
        seen: list[str] = []
        query = {"limit": "2"}
        while True:
            _, page = await site.ask("GET", "/api/connections", query=query)
            seen += [entry["user"] for entry in page["connections"]]
            if page["cursor"] is None:
                break
            if 2 == len(seen):
                await clients[1][1].aclose()
            query["cursor"] = str(page["cursor"])
        assert [f"u{number}" for number in range(5)] == seen


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"cursor": "7"}, {"cursor": "x"}]
)
async def test_a_page_that_cannot_be_is_400(query: dict[str, str]) -> None:
    """Naming the field."""
    async with opened() as site:
        answer = await site.ask("GET", "/api/connections", query=query)
        assert (400, "invalid_field") == answer


async def test_a_connection_is_closed_by_its_id() -> None:
    """With the code and reason asked for; the second time there is none."""
    async with opened() as site:
        id, client = await site.join("/?user=ann")
        _, other = await site.join("/?user=ann")
        query = {"code": "1012", "reason": "moved"}
        path = f"/api/connections/{id}"
        assert (200, {"id": id, "disconnected": 1}) == await site.ask("DELETE", path, query=query)
        assert (1012, "moved") == await close_reason(client)
        assert other.closed is None
        assert (404, "no_such_connection") == await site.ask("DELETE", path)


async def test_a_user_is_disconnected_everywhere() -> None:
    """From chat and notifications; by default with a code after which clients stay away."""
    async with opened() as site:
        _, chat = await site.join("/?user=ann%20b")
        _, notifications = await site.join("/notifications/ws?user=ann%20b")
        _, other = await site.join("/?user=ann")
        answer = await site.ask("POST", "/api/users/ann%20b/disconnect")
        assert (200, {"user": "ann b", "disconnected": 2}) == answer
        for client in (chat, notifications):
            assert (4403, "disconnected by an operator") == await close_reason(client)
        assert other.closed is None
        answer = await site.ask("POST", "/api/users/ann%20b/disconnect")
        assert (200, {"user": "ann b", "disconnected": 0}) == answer


async def test_other_nodes_are_told_too() -> None:
    """Once those here are gone; where they cannot be told, that is 503."""
    told: list[tuple[str, int, str]] = []

    async def elsewhere(user: str, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        told.append((user, code, reason))
        if reason == "down":
            raise StoreUnavailable("no")

    async with opened() as site:
        site.application.admin.elsewhere = elsewhere
        body = json.dumps({"code": 4000, "reason": "bye"}).encode()
        assert 200 == (await site.ask("POST", "/api/users/ann/disconnect", body=body))[0]
        assert [("ann", 4000, "bye")] == told
        answer = await site.ask("POST", "/api/users/ann/disconnect", body=b'{"reason":"down"}')
        assert (503, "store_unavailable") == answer


@pytest.mark.parametrize(
    "method, path",
    [("DELETE", "/api/connections/CONNECTION"), ("POST", "/api/users/ann/disconnect")],
)
@pytest.mark.parametrize(
    "query, body, error",
    [
        ({"code": "999"}, b"", "invalid_field"),
        ({"code": "1005"}, b"", "invalid_field"),
        ({"code": "2000"}, b"", "invalid_field"),
        ({"code": "5000"}, b"", "invalid_field"),
        ({"code": "x"}, b"", "invalid_field"),
        ({"reason": "x" * 124}, b"", "invalid_field"),
        ({}, b'{"code":"x"}', "invalid_field"),
        ({}, b'{"code":1006}', "invalid_field"),
        ({}, b'{"reason":"%s"}' % ("é" * 62).encode(), "invalid_field"),
        ({}, b"{", "bad_json"),
        ({}, b"[]", "not_an_object"),
    ],
)
async def test_a_farewell_that_cannot_be_sent_is_400(
    method: str, path: str, query: dict[str, str], body: bytes, error: str
) -> None:
    """And nobody is disconnected."""
    async with opened() as site:
        id, client = await site.join("/?user=ann")
        path = path.replace("CONNECTION", id)
        assert (400, error) == await site.ask(method, path, query=query, body=body)
        assert client.closed is None
        assert ["ann"] == await site.listed()


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/api/connections"),
        ("DELETE", "/api/connections/x"),
        ("POST", "/api/users/x/disconnect"),
        ("GET", "/api/statistics"),
    ],
)
async def test_nobody_gets_in_without_the_token(method: str, path: str) -> None:
    """Nor with another method; both are counted."""
    async with opened() as site:
        assert (401, "invalid_token") == await site.ask(method, path, token="x")
        assert (405, "method_not_allowed") == await site.ask("PATCH", path)
        answer = await site.application.http(
            HttpRequest(method="GET", path="/metrics", query={}, headers={}, body=b"", remote="")
        )
        assert isinstance(answer, HttpResponse)
        assert answer.body.count(b'status="401"') == answer.body.count(b'status="405"') == 1


@pytest.mark.parametrize("path", ["/api/users/%ff/disconnect", "/api/connections/%ff"])
async def test_a_name_that_is_no_utf_8_is_400(path: str) -> None:
    """As in the rest of the API."""
    async with opened() as site:
        method = "POST" if "users" in path else "DELETE"
        assert (400, "invalid_field") == await site.ask(method, path)


async def test_statistics_are_those_of_the_library() -> None:
    """As JSON, of the gateway, the hub, the store and the process."""
    async with opened() as site:
        await site.join("/?user=ann")
        status, body = await site.ask("GET", "/api/statistics")
        assert (200, {"gateway", "hub", "store", "process"}) == (status, set(body))
        assert 1 == body["gateway"]["connections"] == body["hub"]["subscriptions"]
        assert {"/": {"open": 1}} == body["gateway"]["routes"]
        assert 1 == body["gateway"]["handshakes"]["count"]
        assert body["store"]["available"] is True
        assert body["process"]["tasks"] > 1


async def test_before_there_is_a_gateway_nobody_is_connected() -> None:
    """An application may be asked before it is served."""
    application = Application(MemoryBroker(), ApplicationSettings(api_token=TOKEN))
    async with AsyncExitStack() as stack:
        site = Site(application, None, stack)  # type: ignore[arg-type]  # there is none
        assert [] == await site.listed()
        assert (404, "no_such_connection") == await site.ask("DELETE", "/api/connections/x")
