"""The whole application, without its process."""

import json
from typing import Any

import pytest
import trio
from trio_websocket import open_websocket

from tests.hub.test_neighbours import FakeCluster
from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.serving import serve_websocket
from trio_gateway.settings import Heartbeat


async def ask(application: Application, path: str) -> tuple[int, Any]:
    """Ask for a path; return the status and what the body is about."""
    request = HttpRequest(method="GET", path=path, query={}, headers={}, body=b"", remote="")
    answer = await application.http(request)
    if isinstance(answer, Refusal):
        return answer.status, answer.error
    assert isinstance(answer, HttpResponse)
    return answer.status, answer.body


async def test_it_is_served_by_its_gateway(nursery: trio.Nursery) -> None:
    """Chat, notifications and health on one port, wired to one hub."""
    application = Application(
        MemoryBroker(), ApplicationSettings(heartbeat=Heartbeat(interval=7.0))
    )
    assert await ask(application, "/readyz") == (503, "starting")
    gateway = application.gateway(await trio.open_tcp_listeners(0, host="127.0.0.1"))
    await nursery.start(gateway.run)
    assert (await ask(application, "/readyz"))[0] == 200
    path = "/notifications/ws?user=ann"
    async with open_websocket("127.0.0.1", gateway.port, path, use_ssl=False) as connection:
        assert json.loads(await connection.get_message())["heartbeat"] == 7
        await application.notifications.notify(to="ann", title="hi")
        assert json.loads(await connection.get_message())["title"] == "hi"
    await gateway.drain()
    assert await ask(application, "/readyz") == (503, "draining")


async def test_an_operator_disconnects_a_user_at_every_node(nursery: trio.Nursery) -> None:
    """The order goes to the other nodes of the store, too."""
    cluster = FakeCluster()
    application = Application(cluster, ApplicationSettings(api_token="t"))
    request = HttpRequest(
        method="POST",
        path="/api/users/ann/disconnect",
        query={},
        headers={"authorization": "Bearer t"},
        body=b"",
        remote="",
    )
    answer = await application.http(request)
    assert isinstance(answer, HttpResponse)
    ((kind, order),) = cluster.told
    assert (200, "control", "ann") == (answer.status, kind, json.loads(order)["user"])


async def test_it_is_served_by_another_gateway(nursery: trio.Nursery) -> None:
    """A program that calls serve_websocket() itself tells it which gateway that is."""
    application = Application(MemoryBroker())
    assert b"trio_gateway_connections 0.0\n" in (await ask(application, "/metrics"))[1]

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await serve_websocket(
            application.router,
            "127.0.0.1",
            0,
            None,
            http=application.http,
            hub=application.hub,
            task_status=task_status,
        )

    gateway = await nursery.start(serve)
    application.attach(gateway)
    async with open_websocket("127.0.0.1", gateway.port, "/", use_ssl=False):
        assert b"trio_gateway_connections 1.0\n" in (await ask(application, "/metrics"))[1]
    await gateway.drain()


def test_any_path_is_the_chat_unless_paths_are_strict() -> None:
    """The fallback is what --strict-paths takes away."""
    loose = Application(MemoryBroker()).router
    strict = Application(MemoryBroker(), ApplicationSettings(strict_paths=True)).router
    found = loose.match("/any/where")
    assert found is not None
    assert found.is_fallback
    assert strict.match("/any/where") is None
    for path in ("/", "/notifications/ws"):
        assert strict.match(path) is not None


async def test_an_application_has_one_gateway() -> None:
    """Its health is that of one gateway."""
    application = Application(MemoryBroker())
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        application.gateway([listener])
        with pytest.raises(RuntimeError, match="has its gateway"):
            application.gateway([listener])


def test_a_token_is_not_shown() -> None:
    """Settings end up in logs."""
    assert "s3cret" not in repr(ApplicationSettings(api_token="s3cret"))
