"""docs/metrics.md is true: every metric exists and moves, every query finds what it names."""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.errors import StoreUnavailable, UpgradeAlreadyDecided
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.hub.broker import Page, Publication
from trio_gateway.hub.hub import HubLimits
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position
from trio_gateway.settings import Limits, Rates
from trio_gateway.testing import OpenGateway, open_gateway
from trio_gateway.transport.outbox import Verdict

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
TOKEN = "s3cret"
TABLE = re.findall(
    r"^\| `(trio_gateway_\w+)` \| (gauge|counter|histogram) \| (?:(.*?) )?\| (.+) \|$",
    DOCUMENT,
    re.MULTILINE,
)
CONSTANT = "trio_gateway_info"
# The supervisor's own, which one process has not.
OF_WORKERS = {"trio_gateway_workers", "trio_gateway_worker_restarts_total"}


class Troubled(MemoryBroker):
    """A broker to which everything happens that is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.available = True
        self.reading: trio.Event | None = None
        self.deliver: Callable[[Publication], None] = lambda _: None

    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        if not self.available:
            raise StoreUnavailable("down")
        return await super().publish(topic, payload, key=key)

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        if self.reading is not None:
            await self.reading.wait()
        return await super().history(topic, since=since, before=before, limit=limit)

    async def run(
        self,
        deliver: Callable[[Publication], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.deliver = deliver
        await super().run(deliver, task_status=task_status)


class Deaf:
    """A subscriber that never takes anything."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def offer(self, frame: bytes, /) -> Verdict:
        return self.verdict


class Site:
    """An application in trouble, and every value that its metrics have had."""

    def __init__(self, application: Application, broker: Troubled, server: OpenGateway) -> None:
        self.application = application
        self.broker = broker
        self.server = server
        self.values: dict[str, set[float]] = defaultdict(set)
        self.labels: dict[str, set[str]] = defaultdict(set)
        self.kinds: dict[str, str] = {}
        self.samples: set[str] = set()

    async def look(self) -> None:
        """Read ``/metrics`` once everybody rests."""
        await trio.testing.wait_all_tasks_blocked()
        answer = await self.ask("GET", "/metrics")
        for family in text_string_to_metric_families(answer.body.decode()):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            self.kinds[name] = family.type
            self.values[name].add(math.fsum(sample.value for sample in family.samples))
            for sample in family.samples:
                self.samples.add(sample.name)
                self.labels[name] |= set(sample.labels) - {"le"}

    async def ask(self, method: str, path: str) -> HttpResponse:
        """Ask over HTTP; a refusal is no answer here."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = await self.application.http(
            HttpRequest(
                method=method, path=path, query={}, headers=headers, body=b"", remote="127.0.0.1"
            )
        )
        assert isinstance(answer, HttpResponse)
        return answer

    async def raw(self, request: bytes) -> trio.abc.Stream:
        """Send bytes on a connection of their own."""
        stream = await self.server.connect()
        await stream.send_all(request)
        await trio.testing.wait_all_tasks_blocked()
        return stream


def upgrade(path: str) -> bytes:
    """Return an opening handshake."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


async def undecided(_: Upgrade) -> None:
    """Leave the decision to the clock."""
    await trio.sleep_forever()


async def twice(upgrade: Upgrade) -> None:
    """Decide twice, then fail."""
    await upgrade.accept()
    with pytest.raises(UpgradeAlreadyDecided):
        await upgrade.accept()
    raise RuntimeError("as a handler does")


async def flood(upgrade: Upgrade) -> None:
    """Send more than a client that does not read may leave unread."""
    connection = await upgrade.accept()
    connection.offer(b"\x82\x7e\x04\x00" + bytes(1024))
    await trio.sleep(1)
    connection.offer(b"\x82\x7e\x04\x00" + bytes(1024))
    await trio.sleep_forever()


@asynccontextmanager
async def opened() -> AsyncGenerator[Site]:
    """Serve the application, with bounds that are soon reached."""
    broker = Troubled()
    settings = ApplicationSettings(
        api_token=TOKEN,
        hub=HubLimits(max_topics=4, max_pending_bytes=100),
        rates=Rates(messages_per_second=1.0),
    )
    application = Application(broker, settings)
    for name, handler in (("undecided", undecided), ("twice", twice), ("flood", flood)):
        application.router.route(f"/{name}", handler)
    async with open_gateway(
        application.router,
        max_buffered_bytes=512,
        http=application.http,
        hub=application.hub,
        limits=Limits(max_outbox_bytes=1500),
    ) as server:
        application.attach(server.gateway)
        yield Site(application, broker, server)


async def come_in(site: Site) -> None:
    """Sockets, requests and upgrades of every kind."""
    half = await site.raw(b"GET / HT")
    await site.look()
    await half.aclose()
    await site.raw(b"nonsense\r\n\r\n")
    await site.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await site.raw(upgrade("/?since=nonsense"))
    leaving = await site.raw(upgrade("/undecided"))
    await site.look()
    await leaving.aclose()
    await site.raw(upgrade("/twice"))
    await site.look()
    slow = await site.raw(upgrade("/flood"))
    await site.look()
    await trio.sleep(2)
    await site.look()
    await slow.aclose()


async def talk(site: Site) -> None:
    """Joins, messages, recoveries, and a store that goes away."""
    hub, broker = site.application.hub, site.broker
    async with site.server.open_websocket("/?user=ann&room=lobby") as client:
        await client.send_message("hello")
        for _ in range(2):
            await client.send_message("too fast")
        await trio.testing.wait_all_tasks_blocked()
        await site.look()
        epoch = (await hub.history("chat:lobby", limit=0)).position.epoch
        for since in (f"{epoch}:0", f"{epoch}x:9"):
            async with site.server.open_websocket(f"/?user=bob&since={since}"):
                await trio.testing.wait_all_tasks_blocked()
        broker.reading = trio.Event()
        await trio.sleep(2)  # the read of the others is not shared any more
        joining = await site.raw(upgrade("/?user=carl"))
        await hub.publish("chat:lobby", b'{"user":"a","text":"b","time":"c"}')
        await site.look()
        broker.reading.set()
        await trio.testing.wait_all_tasks_blocked()
        await joining.aclose()
        broker.available = False
        with pytest.raises(StoreUnavailable):
            await hub.publish("chat:lobby", b"{}")
        await site.look()
        broker.available = True
        await site.ask("POST", "/api/users/ann/disconnect")
        await site.look()


async def misbehave(site: Site) -> None:
    """Subscribers and topics that the hub has to part with."""
    hub, broker = site.application.hub, site.broker

    def fail(publication: Publication) -> bytes:
        if publication.payload == b"bad":
            raise ValueError("as an encoder does")
        return b"frame"

    hub.encode_with("odd", fail)
    for name, verdict in (("slow", Verdict.SLOW), ("gone", Verdict.CLOSED)):
        await hub.subscribe(f"odd:{name}", Deaf(verdict), user="x")
        await hub.publish(f"odd:{name}", b"good")
        await trio.testing.wait_all_tasks_blocked()
    await hub.publish("odd:slow", b"bad")
    for _ in range(2):
        hub.broadcast("odd:slow", bytes(101))
    position = (await hub.history("odd:slow", limit=0)).position
    broker.deliver(Publication("odd:slow", Position(position.epoch, position.offset + 9), b"good"))
    await hub.subscribe("topic:odd", Deaf(Verdict.ACCEPTED), user="x")
    position = (await hub.history("topic:odd", limit=0)).position
    broker.deliver(Publication("topic:odd", Position(position.epoch, position.offset + 9), b"{}"))
    await trio.testing.wait_all_tasks_blocked()
    for number in range(9):
        await hub.subscribe(f"odd:{number}", Deaf(Verdict.ACCEPTED), user="x")
    assert not hub.has_room_for("odd:new")
    descriptor = os.dup(0)
    await site.look()
    os.close(descriptor)


async def test_every_metric_exists_and_moves(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of the table, of the kind and with the labels it says; and there are no others."""
    async with opened() as site:
        await site.look()
        await come_in(site)
        await talk(site)
        await misbehave(site)
        await site.server.gateway.drain()
        await site.look()
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in TABLE}
    found = {
        name: (kind, site.labels[name])
        for name, kind in site.kinds.items()
        if name.startswith("trio_gateway_") and name != CONSTANT
    }
    assert told == found
    assert set() == {name for name in told if len(site.values[name]) < 2}
    assert {"as a handler does"} == {
        str(record.exc_info[1])
        for record in caplog.records
        if record.exc_info and record.name == "trio_gateway"
    }


def names_of(query: str) -> set[str]:
    """Return the metrics that a query names; raises if it is no PromQL."""
    names: set[str | None] = set()

    def collect(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            names.add(node.name)
        elif isinstance(node, promql_parser.MatrixSelector):
            names.add(node.vector_selector.name)
        elif isinstance(node, promql_parser.BinaryExpr):
            collect(node.lhs)
            collect(node.rhs)
        elif isinstance(node, promql_parser.Call):
            for argument in node.args:
                collect(argument)
        elif isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr):
            collect(node.expr)

    collect(promql_parser.parse(query.replace("$__rate_interval", "5m")))
    return {name for name in names if name is not None}


def queries() -> list[str]:
    """Return the queries of the dashboard and of the alerts."""
    panels = [
        target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
    ]
    marks = [mark["expr"] for mark in DASHBOARD["annotations"]["list"]]
    alerts = re.findall(
        r"^\| [^`|]+ \| `(.+)` \|$", DOCUMENT.partition("## What to wake")[2], re.MULTILINE
    )
    assert panels
    assert marks
    assert alerts
    return [*panels, *marks, *alerts]


async def test_every_query_names_what_there_is() -> None:
    """They parse, and each metric that they name is in ``/metrics``, and each of those in one."""
    async with opened() as site:
        await site.raw(upgrade("/?since=nonsense"))
        await site.raw(b"nonsense\r\n\r\n")
        await site.look()
        await site.ask("GET", "/api/statistics")
        await site.look()
        families = set(site.kinds)
        existing = site.samples | families
    named = set().union(*map(names_of, queries()))
    assert set() == named - existing - OF_WORKERS
    stripped = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert all(name in DOCUMENT for name in stripped)
    documented = {name for name, *_ in TABLE}
    assert set() == documented - stripped


def test_panels_have_places_and_reasons() -> None:
    """No two panels share a place or a number; each says what it is good for."""
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len(DASHBOARD["panels"]) == len({panel["id"] for panel in DASHBOARD["panels"]})
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(panels) == len(places)
    assert all(panel["title"] and panel["description"] for panel in panels)
