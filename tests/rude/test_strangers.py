"""The whole application against what strangers type: a clear answer each, and nothing written."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionRejected, WebSocketConnection

from tests.tokens.minting import SECRET, Held, mint, sign
from trio_gateway.apps.assembly import Application
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.testing import OpenGateway, open_gateway
from trio_gateway.tokens import JwtAuthenticator, read_keys

NAMES = {
    "up": "../../etc/passwd",
    "encoded up": "..%2f..%2fetc%2fpasswd",
    "windows": "..\\..\\boot.ini",
    "absolute": "/etc/passwd",
    "SQL": "x'; DROP TABLE publications; --",
    "SQL union": "' UNION SELECT * FROM cursors --",
    "SQL quotes": '"; DELETE FROM topics; --',
    "LIKE": "%_%",
    "a topic's name": "chat:lobby",
    "template": "${jndi:ldap://evil.example/a}{{7*7}}",
    "HTML": "<script>alert(1)</script>",
    "longest": "x" * 128,
    "not ASCII": "\u00fcber \u4e2d\u6587 \U0001f600",
}
NO_NAMES = {
    "empty": "",
    "blank": "   ",
    "NUL": "a\0b",
    "too long": "x" * 129,
    "very long": "x" * 100_000,
    "line break": "a\r\nb",
    "escape": "a\x1b[31m",
    "C1 control": "a\x85b",
    "right to left": "a\u202eb",
    "isolate": "a\u2066b",
    "zero width": "a\u200bb",
    "line separator": "a\u2028b",
    "private use": "\ue000",
    "byte order mark": "\ufeff",
}


@asynccontextmanager
async def serving(**settings: Any) -> AsyncGenerator[tuple[OpenGateway, Application, MemoryBroker]]:
    """Serve the whole application."""
    broker = MemoryBroker()
    application = Application(broker, **settings)
    async with open_gateway(
        application.router, http=application.http, hub=application.hub
    ) as server:
        yield server, application, broker


async def ask(client: WebSocketConnection, frame: str) -> dict[str, Any]:
    """Send a frame as it is and return the next one."""
    await client.send_message(frame)
    with trio.fail_after(10):
        answer: dict[str, Any] = json.loads(await client.get_message())
    return answer


def is_clear(error: dict[str, Any]) -> bool:
    """Whether an error is a sentence, and shows nothing of what happened inside."""
    text: str = error["message"]
    inside = ("Traceback", 'File "', "Error(", "msgspec", "0x")
    return bool(text) and len(text) < 300 and not any(word in text for word in inside)


NESTED = "[" * 10_000 + "]" * 10_000
BAD_JSON = {
    "NaN": '{"type":"message","text":"x","id":NaN}',
    "Infinity": '{"type":"history","room":"lobby","limit":Infinity}',
    "1e999": '{"type":"history","room":"lobby","limit":1e999}',
    "1e999 as id": '{"type":"message","text":"x","id":1e999}',
    "a huge integer": '{"type":"history","room":"lobby","limit":%s}' % ("9" * 5000),
    "a huge id": '{"type":"message","text":"x","id":%s}' % ("9" * 5000),
    "an offset beyond 2**53": '{"type":"history","room":"lobby","before":9007199254740993}',
    "a negative limit": '{"type":"history","room":"lobby","limit":-1}',
    "half a surrogate pair": '{"type":"message","text":"\\ud800"}',
    "the other half": '{"type":"message","text":"\\udc00x"}',
    "half a pair in a key": '{"type":"message","\\ud800":1,"text":"x"}',
    "nested": f'{{"type":"message","text":{NESTED}}}',
    "nested in an unknown field": f'{{"type":"message","text":"x","y":{NESTED}}}',
    "nested objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "nested and cut": '{"type":' + "[" * 100_000,
    "a type twice": '{"type":"message","type":"nonsense","text":"x"}',
    "text twice": '{"type":"message","text":"x","text":7}',
    "a control character": '{"type":"message","text":"a\nb"}',
    "single quotes": "{'type':'message','text':'x'}",
    "a comment": '{"type":"message",/* */"text":"x"}',
    "a trailing comma": '{"type":"message","text":"x",}',
    "something behind": '{"type":"message","text":"x"} {"type":"message","text":"y"}',
    "text an object": '{"type":"message","text":{"$ne":null}}',
    "room an object": '{"type":"message","text":"x","room":{"$gt":""}}',
    "room a list": '{"type":"join","room":["lobby"]}',
    "a prototype": '{"type":"__proto__","__proto__":{"x":1}}',
    "no type": '{"text":"x"}',
    "cut": '{"type":"mess',
}


@pytest.mark.parametrize("frame", BAD_JSON.values(), ids=BAD_JSON.keys())
@pytest.mark.parametrize("path", ["/?user=ann", "/notifications/ws?user=ann"])
async def test_bad_json(autojump_clock: MockClock, path: str, frame: str) -> None:
    """An error frame that says what is wrong, nothing stored, and the connection goes on."""
    async with serving() as (server, _, broker), server.open_websocket(path) as client:
        for _ in range(1 if "notif" in path else 2):
            await client.get_message()
        answer = await ask(client, frame)
        assert "error" == answer["type"]
        assert is_clear(answer)
        after = await ask(
            client, '{"type":"list"}' if "notif" in path else '{"type":"history","room":"lobby"}'
        )
        assert after["type"] in {"list", "history"}
        assert () == (await broker.history("chat:lobby", limit=10)).publications


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
async def test_a_name_is_a_name(autojump_clock: MockClock, name: str) -> None:
    """Paths, SQL and markup in every field are letters: stored and given back as they came."""
    async with serving() as (server, application, _), server.open_websocket("/?user=ann") as client:
        for _ in range(2):
            await client.get_message()
        joined = await ask(client, json.dumps({"type": "join", "room": name, "id": name}))
        assert ("joined", name, name) == (joined["type"], joined["room"], joined["id"])
        said = {"type": "message", "room": name, "text": name, "key": name}
        assert name == (await ask(client, json.dumps(said)))["text"]
        page = await ask(client, json.dumps({"type": "history", "room": name}))
        assert [(name, name)] == [(each["room"], each["text"]) for each in page["messages"]]
        await ask(client, json.dumps(said | {"key": name, "id": 1}))
        assert 1 == (await application.chat.history(name))["position"].offset
        position = await application.notifications.notify(
            topic=name, title=name, body=name, data={name: name}, key=name
        )
        assert 1 == position.offset
        lobby = await ask(client, '{"type":"history","room":"lobby"}')
        assert [] == lobby["messages"]


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES.keys())
async def test_what_is_no_name(autojump_clock: MockClock, name: str) -> None:
    """Invisible, disguised or endless: refused wherever a name is asked for; nothing is kept."""
    async with serving() as (server, _, broker), server.open_websocket("/?user=ann") as client:
        for _ in range(2):
            await client.get_message()
        for type in ("join", "leave", "message", "history", "members", "typing"):
            command = {"type": type, "room": name, "text": "x", "id": 1}
            answer = await ask(client, json.dumps(command))
            assert ("error", "invalid_field", "room", 1) == tuple(
                answer.get(field) for field in ("type", "code", "field", "id")
            )
            assert is_clear(answer)
        assert () == (await broker.history(f"chat:{name}", limit=1)).publications


@pytest.mark.parametrize(
    "query",
    ["room=%00", "room=a%0d%0ab", "room=%ff%fe%0a", "user=%00", "user=%E2%80%AEann", "user=",
     "room=", "room=" + "x" * 129, "user=" + "x" * 65, "since='%20OR%201=1--",
     "since=a:-1", "since=a:1e9", "since=:", "since=a:" + "9" * 400],
)  # fmt: skip
async def test_a_query_that_means_nothing(autojump_clock: MockClock, query: str) -> None:
    """400 before the upgrade, in one line of JSON that names the parameter."""
    async with serving() as (server, _, _):
        with pytest.raises(ConnectionRejected) as caught:
            async with server.open_websocket(f"/?{query}"):
                pass
    assert 400 == caught.value.status_code
    body = json.loads(caught.value.body or b"")
    assert "invalid_field" == body["error"]
    assert is_clear(body)


TOKENS = {
    "none": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9.",
    "wrong key": mint("another secret of sixty-four bytes or more, which is not the one"),
    "expired": mint(exp=1),
    "nested": sign(b'{"alg":"HS256","x":%b}' % (b"[" * 2000 + b"]" * 2000), b"{}"),
    "SQL": "' OR '1'='1",
    "huge": "A" * 7000,
    "absent": "",
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS.keys())
@pytest.mark.parametrize("path", ["/", "/notifications/ws", "/anything"])
async def test_bad_tokens_at_every_endpoint(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, path: str, token: str
) -> None:
    """401 with ``WWW-Authenticate`` before the upgrade; neither answer nor log has the token."""
    caplog.set_level(0)
    authenticate = JwtAuthenticator(Held(*read_keys(SECRET.encode())))
    async with serving(authenticate=authenticate) as (server, application, _):
        header = (b"Authorization", b"Bearer " + token.encode())
        with pytest.raises(ConnectionRejected) as caught:
            async with server.open_websocket(path, extra_headers=[header] if token else []):
                pass
        assert 0 == application.hub.statistics().topics
    headers = {name.lower(): value for name, value in caught.value.headers or ()}
    assert (401, True) == (
        caught.value.status_code,
        headers[b"www-authenticate"].startswith(b"Bearer"),
    )
    body = caught.value.body or b""
    assert is_clear(json.loads(body))
    if token:
        assert token.encode() not in body
        assert token not in caplog.text


async def test_the_user_of_a_message_is_the_tokens(autojump_clock: MockClock) -> None:
    """Whatever the query or the command says."""
    authenticate = JwtAuthenticator(Held(*read_keys(SECRET.encode())))
    async with (
        serving(authenticate=authenticate) as (server, _, _),
        server.open_websocket(f"/?user=root&token={mint()}") as client,
    ):
        assert "ann" == json.loads(await client.get_message())["user"]
        await client.get_message()
        said = await ask(client, '{"type":"message","text":"x","user":"root","time":"never"}')
        assert "ann" == said["user"]
