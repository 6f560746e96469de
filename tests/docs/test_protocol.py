"""The protocol page is true: its dialogues happen, its tables are those of the code."""

import ast
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tests.docs.dialogue import TOKEN, Play, agree, end_of, request
from tests.docs.pages import DOCS, ROOT, Block, blocks, codes, table
from tests.hub.fakes import LossyBroker
from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.apps.schemas import ChatCommand, NotificationCommand
from trio_gateway.errors import CloseCode
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.settings import Heartbeat, Limits, Rates
from trio_gateway.testing import OpenGateway, open_gateway

PAGE = DOCS / "protocol.md"
NEVER_SENT = {CloseCode.NO_STATUS, CloseCode.ABNORMAL}
"""Close codes that stand for what is not in a frame (RFC 6455 §7.4.1)."""
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: memory\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
EMPTIED = "# the store is emptied"
APART = {"cli", "client", "storm", "testing"}
"""Rooms that are no part of a gateway's answers."""


@asynccontextmanager
async def site(
    broker: MemoryBroker | None = None, **settings: Any
) -> AsyncGenerator[tuple[OpenGateway, Application]]:
    """Serve what ``python -m trio_gateway`` serves, over memory."""
    limits = settings.pop("limits", None)
    told = ApplicationSettings(api_token=TOKEN, **settings)
    application = Application(broker or MemoryBroker(), told)
    async with open_gateway(
        application.router,
        http=application.http,
        hub=application.hub,
        limits=limits,
        heartbeat=told.heartbeat,
    ) as server:
        application.attach(server.gateway)
        yield server, application


@pytest.mark.parametrize("block", blocks(PAGE, "wire"), ids=str)
async def test_each_dialogue_happens(
    block: Block, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Line by line, and nothing comes that the page does not tell."""
    lossy = LossyBroker() if EMPTIED in block.text else None
    async with site(lossy) as (server, application), AsyncExitStack() as stack:
        play = Play(server, application, stack)
        for number, line in enumerate(block.text.splitlines(), block.line):
            if line == "# SIGTERM":
                nursery.start_soon(server.gateway.drain)
                continue
            if line == EMPTIED and lossy is not None:
                lossy.lose()
                continue
            try:
                await play.line(line)
            except AssertionError as error:
                raise AssertionError(f"{block.page}:{number}: {line}: {error}") from error
        await play.expect_nothing()


def fields(row: list[str]) -> set[str]:
    """Return the fields that a row names."""
    return set(codes(row[1]))


@pytest.mark.parametrize(
    "heading, union",
    [("## Chat", ChatCommand), ("## Notifications", NotificationCommand)],
    ids=["chat", "notifications"],
)
def test_every_command_is_told(heading: str, union: Any) -> None:
    """Its name and its fields, and which of them may be left out."""
    told = {
        codes(row[0])[0]: {
            name: optional == "?" for name, optional in re.findall(r"`(\w+)`(\??)", row[1])
        }
        for row in table(PAGE, heading)
    }
    actual = {
        command.__struct_config__.tag: {
            field.name: not field.required
            for field in msgspec.structs.fields(command)
            if field.name != "id"
        }
        for command in union.__args__
    }
    assert actual == told


def calls(*names: str) -> Iterator[ast.Call]:
    """Yield the calls of these functions in the gateway's own files."""
    for path in sorted((ROOT / "trio_gateway").rglob("*.py")):
        if APART.isdisjoint(path.relative_to(ROOT).parts):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", None) in names:
                    yield node


def constants(call: ast.Call) -> list[Any]:
    """Return the constant arguments, None for the others."""
    return [arg.value if isinstance(arg, ast.Constant) else None for arg in call.args]


def test_every_error_code_is_told() -> None:
    """The codes of the table are those that the applications can answer with."""
    told = {code for row in table(PAGE, "## Errors") for code in codes(row[0])}
    actual = {
        found[0]
        for found in map(constants, calls("Problem", "Refused"))
        if isinstance(found[0], str)
    }
    assert actual == told


def test_every_refusal_is_told() -> None:
    """Status and code of the table are those of the gateway; nothing is left over."""
    told = {
        (int(row[0]), code) for row in table(PAGE, "## HTTP refusals") for code in codes(row[1])
    }
    actual = {
        (found[0], found[1])
        for found in map(constants, calls("Refusal", "Refused"))
        if isinstance(found[0], int) and isinstance(found[1], str)
    }
    # What is composed: a problem with a body, why a gateway is not ready, a bad JSON Web Token.
    actual |= {(400, "invalid_field"), (400, "bad_json"), (400, "not_an_object")}
    actual |= {(503, "draining"), (503, "starting"), (503, "store_unavailable")}
    actual |= {(401, "invalid_token")}
    assert actual == told


def test_every_close_code_is_told() -> None:
    """The codes of the table are those that can be sent."""
    told = {int(code) for row in table(PAGE, "## Close codes") for code in row[0].split(", ")}
    assert {int(code) for code in set(CloseCode) - NEVER_SENT} == told


async def test_too_many_messages(autojump_clock: trio.testing.MockClock) -> None:
    """First the error says when to send again, then the connection is closed with 4429."""
    rates = Rates(messages_per_second=1, burst_seconds=1)
    async with site(rates=rates) as (server, _), server.open_websocket("/?user=ann") as client:
        for _ in range(2):
            await client.get_message()
        for _ in range(3):
            await client.send_message('{"type":"ping","id":1}')
        assert '"pong"' in str(await client.get_message())
        error = msgspec.json.decode(await client.get_message())
        assert agree("rate_limited", error["code"])
        assert error["retry"] > 0
        assert agree("4429 retry …", await end_of(client))


async def test_too_big(autojump_clock: trio.testing.MockClock) -> None:
    """A message over the limit is answered with a Close frame, 1009."""
    limits = Limits(max_message_bytes=100)
    async with site(limits=limits) as (server, _), server.open_websocket("/") as client:
        for _ in range(2):
            await client.get_message()
        await client.send_message("x" * 101)
        assert (await end_of(client)).startswith("1009")


async def told_to(server: OpenGateway, frame: bytes) -> bytes:
    """Shake hands, send a frame, and return all that comes until the server closes."""
    stream = await server.connect()
    await stream.send_all(HANDSHAKE + frame)
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


@pytest.mark.parametrize(
    "frame, code",
    [
        (b"\x81\x02hi", 1002),  # not masked
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (b"", 4408),  # nor is there an answer to a ping
    ],
    ids=["not masked", "not UTF-8", "no sign of life"],
)
async def test_what_is_wrong_is_said_in_a_close_frame(
    frame: bytes, code: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Never a bare end of TCP: the last frame has the code."""
    async with site(heartbeat=Heartbeat(interval=1, pong_timeout=1)) as (server, _):
        received = await told_to(server, frame)
        _, found, reason = received.rpartition(code.to_bytes(2, "big"))
        assert (True, True) == (bool(found), reason.decode().isprintable())


async def test_closing_one_connection(autojump_clock: trio.testing.MockClock) -> None:
    """With the id that the list has, and a code and a reason of one's own."""
    async with site() as (server, _), server.open_websocket("/?user=ann") as client:
        for _ in range(2):
            await client.get_message()
        listed = msgspec.json.decode((await request(server, "GET", "/api/connections")).body)
        target = f"/api/connections/{listed['connections'][0]['id']}?code=4000&reason=bye"
        assert 200 == (await request(server, "DELETE", target)).status
        assert "4000 bye" == await end_of(client)


@pytest.mark.parametrize("path", ["/", "/gateway.js", "/gateway.d.ts", "/metrics"])
async def test_the_other_endpoints_are_there(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    """What answers with something else than JSON."""
    async with site() as (server, _):
        assert (await request(server, "GET", path, token=None)).status == 200


@pytest.mark.parametrize("path, status", [("/", 426), ("/gateway.js", 404)])
async def test_without_the_page(
    path: str, status: int, autojump_clock: trio.testing.MockClock
) -> None:
    """What the table says of ``--no-page``."""
    async with site(page=False) as (server, _):
        assert (await request(server, "GET", path, token=None)).status == status


async def test_every_endpoint_of_the_api_wants_the_token(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The endpoints of the table, each without a token and with a wrong one."""
    cells = [row[0] for row in table(PAGE, "## Endpoints")]
    api = [span.split() for cell in cells for span in codes(cell) if " /api/" in span]
    assert len(api) == 8
    async with site() as (server, _):
        for method, target in api:
            for token, error in ((None, b"unauthorized"), ("another", b"invalid_token")):
                answer = await request(server, method, target, token=token)
                assert (401, True) == (answer.status, error in answer.body)
                assert {"content-type", "content-length", "www-authenticate"} <= set(answer.headers)
                assert "close" == answer.headers["connection"]
