"""Two applications that answer an operator as one."""

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest
import trio

from tests.http.test_admin import TOKEN, Site, close_reason
from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.http.ensemble import Carried, Ensemble
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.testing import open_gateway

METRICS = HttpRequest(method="GET", path="/metrics", query={}, headers={}, body=b"", remote="")


@attrs.define
class Two:
    """Two processes of one gateway, as far as their operator sees.

    Attributes:
        sites: the processes, by their id.
        silent: the ids of those that do not answer.
        severed: whether nothing is carried.
    """

    sites: dict[int, Site] = attrs.Factory(dict)
    silent: set[int] = attrs.Factory(set)
    severed: bool = False

    async def carry(self, what: str, about: str) -> Carried | None:
        await trio.lowlevel.checkpoint()
        if self.severed:
            return None
        texts = {
            pid: None if pid in self.silent else site.application.ensemble.tell(what, about)
            for pid, site in self.sites.items()
        }
        return Carried(texts, len(texts), 7)


@asynccontextmanager
async def two() -> AsyncGenerator[Two]:
    """Serve both."""
    both = Two()
    async with AsyncExitStack() as stack:
        for pid in (11, 12):
            application = Application(MemoryBroker(), ApplicationSettings(api_token=TOKEN))
            server = await stack.enter_async_context(
                open_gateway(application.router, http=application.http, hub=application.hub)
            )
            application.attach(server.gateway)
            application.ensemble.carry = both.carry
            both.sites[pid] = Site(application, server, stack)
        yield both


async def test_one_that_was_asked_lists_all() -> None:
    """In the order of opening, whoever is asked; ``open`` is the sum."""
    async with two() as both:
        ids: list[str] = []
        for user in ("a", "b", "c"):
            for pid, site in both.sites.items():
                id, _ = await site.join(f"/?user={user}{pid}")
                ids.append(id)
        for site in both.sites.values():
            status, page = await site.ask("GET", "/api/connections", query={"limit": "4"})
            assert (200, 6, ids[:4]) == (
                status,
                page["open"],
                [x["id"] for x in page["connections"]],
            )
            assert "incomplete" not in page
            query = {"limit": "4", "cursor": page["cursor"]}
            status, page = await site.ask("GET", "/api/connections", query=query)
            assert (200, 6, ids[4:]) == (
                status,
                page["open"],
                [x["id"] for x in page["connections"]],
            )
            assert page["cursor"] is None


async def test_a_connection_of_another_process_is_closed() -> None:
    """And is gone the second time."""
    async with two() as both:
        asked, holder = both.sites.values()
        id, client = await holder.join("/?user=ann")
        path = f"/api/connections/{id}"
        query = {"code": "4000", "reason": "é"}
        assert (200, {"id": id, "disconnected": 1}) == await asked.ask("DELETE", path, query=query)
        assert (4000, "é") == await close_reason(client)
        assert (404, "no_such_connection") == await asked.ask("DELETE", path)
        assert (0, 1) == (
            asked.application.admin.disconnected,
            holder.application.admin.disconnected,
        )


async def test_a_user_is_counted_in_all_and_ordered_away_once() -> None:
    """Other nodes hear it from the one that was asked."""
    told: list[str] = []

    async def elsewhere(user: str, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        told.append(user)

    async with two() as both:
        for site in both.sites.values():
            site.application.admin.elsewhere = elsewhere
            for user in ("ann", "ann", "bob"):
                await site.join(f"/?user={user}")
        asked = both.sites[12]
        answer = await asked.ask("POST", "/api/users/ann/disconnect")
        assert (200, {"user": "ann", "disconnected": 4}) == answer
        assert ["ann"] == told


async def test_statistics_are_the_sum_and_each() -> None:
    """As those of one process, with each process's beside them."""
    async with two() as both:
        asked, other = both.sites.values()
        await asked.join("/?user=ann")
        for user in ("bob", "eve"):
            await other.join(f"/?user={user}")
        status, body = await asked.ask("GET", "/api/statistics")
        assert (200, {"11", "12"}) == (status, set(body["workers"]))
        each = body.pop("workers")
        assert {"gateway", "hub", "store", "process"} == set(body) == set(each["11"])
        assert (3, 1, 2) == tuple(
            one["gateway"]["connections"] for one in (body, each["11"], each["12"])
        )
        assert 3 == body["gateway"]["handshakes"]["count"]
        assert {"/": {"open": 3}} == body["gateway"]["routes"]
        assert body["store"]["available"] is True


async def test_metrics_are_the_sum() -> None:
    """With how many there are, and how many were replaced."""
    async with two() as both:
        for site in both.sites.values():
            await site.join("/?user=ann")
        answer = await both.sites[11].application.http(METRICS)
        assert isinstance(answer, HttpResponse)
        lines = answer.body.decode().splitlines()
        assert {
            "trio_gateway_connections 2",
            "trio_gateway_workers 2",
            "trio_gateway_worker_restarts_total 7",
        } <= set(lines)


async def test_one_that_is_silent_is_named() -> None:
    """What can be told is told; what may not have been done is 503."""
    async with two() as both:
        asked, hung = both.sites.values()
        id, _ = await asked.join("/?user=ann")
        lost, _ = await hung.join("/?user=ann")
        both.silent.add(12)
        status, page = await asked.ask("GET", "/api/connections")
        assert (200, 1, [12]) == (status, page["open"], page["incomplete"])
        status, body = await asked.ask("GET", "/api/statistics")
        assert (200, [12], {"11"}) == (status, body["incomplete"], set(body["workers"]))
        assert (503, "incomplete") == await asked.ask("DELETE", f"/api/connections/{lost}")
        assert 200 == (await asked.ask("DELETE", f"/api/connections/{id}"))[0]
        assert (503, "incomplete") == await asked.ask("POST", "/api/users/ann/disconnect")
        answer = await asked.application.http(METRICS)
        assert isinstance(answer, HttpResponse)
        assert b"trio_gateway_workers 2\n" in answer.body


async def test_where_nothing_is_carried_each_speaks_for_itself() -> None:
    """And names its parent as the silent one."""
    async with two() as both:
        both.severed = True
        asked = both.sites[11]
        await asked.join("/?user=ann")
        status, page = await asked.ask("GET", "/api/connections")
        assert (200, 1, [os.getppid()]) == (status, page["open"], page["incomplete"])
        answer = await asked.application.http(METRICS)
        assert isinstance(answer, HttpResponse)
        assert b"trio_gateway_connections 1.0\n" in answer.body


async def test_nobody_asks_the_others_without_the_token() -> None:
    """The door is that of the process that is asked."""
    async with two() as both:
        id, client = await both.sites[12].join("/?user=ann")
        answer = await both.sites[11].ask("DELETE", f"/api/connections/{id}", token="x")
        assert (401, "invalid_token") == answer
        assert client.closed is None


def test_a_question_of_another_version() -> None:
    """It has no answer, and is no failure."""
    assert Ensemble().tell("horoscope", "{}") is None


@pytest.mark.parametrize("about", ["{}", "[]", "{", '{"id": null}'])
def test_a_question_that_fails(about: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged where it failed, and answered by nothing."""
    ensemble = Ensemble()
    ensemble.teach("sign", lambda asked: asked["of"])
    assert ensemble.tell("sign", about) is None
    assert ["a worker cannot tell its sign"] == [record.message for record in caplog.records]
