"""The dialogues of the protocol page, played against a gateway.

In: lines such as ``ann > {"type":"ping"}`` and what must come back. Out: nothing, or an
AssertionError that names the line. The rule: what is expected is compared whole, field by field;
``…`` stands for what is different each time.
"""

import json
import re
from contextlib import AsyncExitStack, suppress
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection

from trio_gateway.apps.assembly import Application
from trio_gateway.testing import OpenGateway

TOKEN = "the-api-token"
_LINE = re.compile(r"(?P<who>\w+) (?P<does>[<>]|connects to|is closed with|leaves) ?(?P<what>.*)")
_REQUEST = re.compile(r"(?P<method>GET|HEAD|POST|DELETE) (?P<target>\S+) ?(?P<body>.*)")
_ANSWER = re.compile(r"(?P<status>[1-5]\d\d) ?(?P<body>.*)")


def agree(expected: Any, actual: Any) -> bool:
    """Whether a value is what the page says; ``…`` in a string stands for anything."""
    if isinstance(expected, str) and "…" in expected:
        if expected == "…":
            return True
        pattern = ".+".join(map(re.escape, expected.split("…")))
        return isinstance(actual, str) and re.fullmatch(pattern, actual) is not None
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(
            agree(expected[name], actual[name]) for name in expected
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(agree, expected, actual))
    return bool(expected == actual) and type(expected) is type(actual)


@attrs.frozen
class Answer:
    """What came back of an HTTP request."""

    status: int
    headers: dict[str, str]
    body: bytes


async def request(
    server: OpenGateway, method: str, target: str, body: str = "", token: str | None = TOKEN
) -> Answer:
    """Make one HTTP request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: memory", "Connection: close"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body.encode())}")
    stream = await server.connect()
    await stream.send_all("\r\n".join([*lines, "", body]).encode())
    received = b""
    while data := await stream.receive_some():
        received += data
    await stream.aclose()
    head, _, rest = received.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    named = (field.partition(": ") for field in fields)
    headers = {name.lower(): value for name, _, value in named}
    return Answer(int(status.split()[1]), headers, rest)


async def end_of(client: WebSocketConnection) -> str:
    """Wait for the server to close; return its code and reason. Raises where a message comes."""
    with pytest.raises(ConnectionClosed) as closed:
        await client.get_message()
    reason = closed.value.reason
    assert reason is not None
    return f"{int(reason.code)} {reason.reason or ''}".strip()


class Play:
    """Plays the lines of one dialogue.

    Arguments:
        server: serves ``application``.
        application: for what no client can do.
        stack: closes the connections.
    """

    def __init__(
        self, server: OpenGateway, application: Application, stack: AsyncExitStack
    ) -> None:
        self.application = application
        self._server = server
        self._stack = stack
        self._clients: dict[str, WebSocketConnection] = {}
        self._scopes: dict[str, AsyncExitStack] = {}
        self._answer: Answer | None = None

    async def line(self, line: str) -> None:
        """Play one line."""
        if not line.strip() or line.startswith("#"):
            return
        if found := _REQUEST.fullmatch(line):
            self._answer = await request(
                self._server, found["method"], found["target"], found["body"]
            )
        elif found := _ANSWER.fullmatch(line):
            self._check_answer(int(found["status"]), found["body"])
        elif found := _LINE.fullmatch(line):
            await self._client(found["who"], found["does"], found["what"])
        else:
            raise AssertionError(f"not a line of a dialogue: {line!r}")

    async def expect_nothing(self) -> None:
        """Raise AssertionError if a client has something that was not read."""
        for who, client in self._clients.items():
            with trio.move_on_after(2), suppress(ConnectionClosed):
                raise AssertionError(f"{who} has got more: {await client.get_message()!r}")

    def _check_answer(self, status: int, body: str) -> None:
        assert self._answer is not None
        assert status == self._answer.status, self._answer
        if body:
            actual = json.loads(self._answer.body)
            assert agree(json.loads(body), actual), f"expected {body}, not {actual}"

    async def _client(self, who: str, does: str, what: str) -> None:
        if does == "connects to":
            scope = self._scopes[who] = await self._stack.enter_async_context(AsyncExitStack())
            try:
                opening = self._server.open_websocket(what)
                self._clients[who] = await scope.enter_async_context(opening)
            except ConnectionRejected as rejected:
                headers = {name.decode(): value.decode() for name, value in rejected.headers or []}
                self._answer = Answer(rejected.status_code, headers, rejected.body or b"")
            return
        client = self._clients[who]
        if does == "leaves":
            await self._scopes[who].aclose()
            await trio.testing.wait_all_tasks_blocked()
        elif does == ">":
            await client.send_message(what)
            await trio.testing.wait_all_tasks_blocked()
        elif does == "<":
            with trio.fail_after(30):
                actual = json.loads(await client.get_message())
            assert agree(json.loads(what), actual), f"expected {what}, not {json.dumps(actual)}"
        else:
            said = await end_of(client)
            assert agree(what, said), f"expected {what}, not {said}"
