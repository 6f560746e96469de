"""The HTTP API, row by row of the wire page, on the real applications and a memory broker."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from trio_gateway.apps.chat import ChatApp, ChatSettings
from trio_gateway.apps.notifications import NotificationApp
from trio_gateway.errors import StoreUnavailable
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.api import Api
from trio_gateway.http.door import Door
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.transport.outbox import Verdict

TOKEN = "sésame"
NOW_TEXT = "2026-09-21T14:13:20.125Z"
MESSAGE = {"room": "lobby", "user": "bot", "text": "hi"}
NOTE = {"to": "ann", "title": "Hi"}


class Caller:
    """A backend with the right token, unless a header says otherwise."""

    def __init__(self, token: str | None = TOKEN) -> None:
        self.broker = MemoryBroker()
        self.hub = Hub(self.broker)
        self.chat = ChatApp(self.hub, ChatSettings(max_page=5), clock=lambda: 1_790_000_000.125)
        self.api = Api(self.chat, NotificationApp(self.hub), Door(token))

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        authorization: str | None = f"Bearer {TOKEN}",
    ) -> HttpResponse | Refusal | None:
        headers: dict[str, str] = {}
        if authorization is not None:
            headers["authorization"] = authorization.encode().decode("latin-1")
        return await self.api(
            HttpRequest(
                method=method,
                path=path,
                query=query or {},
                headers=headers,
                body=body if isinstance(body, bytes) else json.dumps(body).encode(),
                remote="127.0.0.1",
            )
        )


@pytest.fixture
def call() -> Caller:
    """Return a caller of an API with a token."""
    return Caller()


def answer(response: HttpResponse | Refusal | None) -> tuple[int, Any]:
    """Return status and JSON of an answer that is no refusal."""
    assert isinstance(response, HttpResponse)
    assert response.content_type == "application/json"
    return response.status, json.loads(response.body)


# Messages.


async def test_a_message_is_stored_and_201_says_where(call: Caller) -> None:
    """Offset and epoch; and it is in the room's history."""
    status, body = answer(await call("POST", "/api/messages", MESSAGE))
    position = (await call.hub.history("chat:lobby", limit=0)).position
    assert (status, body) == (201, {"offset": 1, "epoch": position.epoch})
    assert position.offset == 1


async def test_a_repeated_key_stores_once(call: Caller) -> None:
    """Both answers have the first offset; it is the key that a client would have used."""
    first = answer(await call("POST", "/api/messages", {**MESSAGE, "key": "k"}))
    assert first == answer(await call("POST", "/api/messages", {**MESSAGE, "key": "k"}))
    again = await call.chat.publish(room="lobby", user="bot", text="hi", key="k")
    assert again.offset == 1


# Notifications.


async def test_a_notification_for_a_user_is_stored(call: Caller) -> None:
    """With all its fields."""
    note = {**NOTE, "body": "b", "data": {"n": 1}, "key": "k"}
    status, body = answer(await call("POST", "/api/notifications", note))
    assert (status, body["offset"]) == (201, 1)
    stored = json.loads((await call.hub.history("user:ann")).publications[0].payload)
    assert (stored["title"], stored["body"], stored["data"]) == ("Hi", "b", {"n": 1})


async def test_a_notification_for_a_topic_is_stored(call: Caller) -> None:
    """``topic`` instead of ``to``; body and data may be left out or null."""
    note = {"topic": "news", "title": "Hi", "body": None, "data": None, "key": None}
    status, body = answer(await call("POST", "/api/notifications", note))
    assert (status, body["offset"]) == (201, 1)
    stored = json.loads((await call.hub.history("topic:news")).publications[0].payload)
    assert (stored["body"], stored["data"]) == ("", {})


# Bad JSON, bad fields.


@pytest.mark.parametrize(
    "path, body, error, named",
    [
        ("/api/messages", b"{", "bad_json", "JSON"),
        ("/api/messages", b"", "bad_json", "JSON"),
        ("/api/messages", b"\xff", "bad_json", "JSON"),
        ("/api/messages", b'{"room":"\xff"}', "bad_json", "UTF-8"),
        ("/api/messages", b"[" * 100_000, "not_an_object", "object"),
        ("/api/messages", b'{"x":' + b"[" * 100_000, "bad_json", "nested"),
        ("/api/messages", [1], "not_an_object", "the body must be a JSON object"),
        ("/api/messages", {"room": "a", "user": "b"}, "invalid_field", "text is missing"),
        ("/api/messages", {**MESSAGE, "text": 1}, "invalid_field", "text"),
        ("/api/messages", {**MESSAGE, "text": ""}, "invalid_field", "text"),
        ("/api/messages", {**MESSAGE, "text": "x" * 65537}, "invalid_field", "text"),
        ("/api/messages", {**MESSAGE, "room": ""}, "invalid_field", "room"),
        ("/api/messages", {**MESSAGE, "user": "x" * 65}, "invalid_field", "user"),
        ("/api/messages", {**MESSAGE, "key": ""}, "invalid_field", "key"),
        ("/api/notifications", {"title": "x"}, "invalid_field", "to or topic"),
        ("/api/notifications", {**NOTE, "topic": "a"}, "invalid_field", "to or topic"),
        ("/api/notifications", {"to": "ann"}, "invalid_field", "title is missing"),
        ("/api/notifications", {**NOTE, "title": ""}, "invalid_field", "title"),
        ("/api/notifications", {**NOTE, "title": "x" * 1025}, "invalid_field", "title"),
        ("/api/notifications", {**NOTE, "to": 7}, "invalid_field", "to"),
        ("/api/notifications", {**NOTE, "data": []}, "invalid_field", "data"),
        (
            "/api/notifications",
            b'{"to":"a","title":"b","data":{"n":1e999}}',
            "invalid_field",
            "data",
        ),
    ],
)
async def test_bad_json_and_bad_fields_are_400_and_named(
    call: Caller, path: str, body: Any, error: str, named: str
) -> None:
    """The code is stable, the sentence names the field, nothing is stored."""
    refusal = await call("POST", path, body)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.error) == (400, error)
    assert named in refusal.message
    assert call.broker.statistics().topics == 0


# The history of a room.


async def test_history_is_read_page_by_page(call: Caller) -> None:
    """The frames that clients got, with ``before`` and ``limit`` as in the chat."""
    for n in range(1, 8):
        await call.chat.publish(room="lobby", user="bot", text=str(n))
    status, page = answer(await call("GET", "/api/rooms/lobby/history"))
    assert status == 200
    assert [m["offset"] for m in page["messages"]] == [3, 4, 5, 6, 7]
    assert page["messages"][0] == {
        "type": "message",
        "room": "lobby",
        "offset": 3,
        "user": "bot",
        "text": "3",
        "time": NOW_TEXT,
    }
    assert (page["room"], page["more"], page["position"]["offset"]) == ("lobby", True, 7)
    query = {"before": "3", "limit": "1"}
    _, page = answer(await call("GET", "/api/rooms/lobby/history", query=query))
    assert ([m["offset"] for m in page["messages"]], page["more"]) == ([2], True)


@pytest.mark.parametrize(
    "query, named",
    [
        ({"before": "-1"}, "before"),
        ({"before": "x"}, "before"),
        ({"before": ""}, "before"),
        ({"before": "१"}, "before"),
        ({"before": "9007199254740992"}, "before"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1e3"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
    ],
)
async def test_a_bad_query_is_400_and_named(
    call: Caller, query: dict[str, str], named: str
) -> None:
    """As for a bad field."""
    refusal = await call("GET", "/api/rooms/lobby/history", query=query)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.error) == (400, "invalid_field")
    assert refusal.message.startswith(named)


@pytest.mark.parametrize(
    "segment, room",
    [
        ("tea%20%26%20cake", "tea & cake"),
        ("a%2Fb", "a/b"),
        ("100%2525", "100%25"),
        ("%e9%83%a8%E5%B1%8B", "部屋"),
        ("..", ".."),
        ("a+b", "a+b"),
    ],
)
async def test_a_room_is_percent_decoded_once(call: Caller, segment: str, room: str) -> None:
    """Any room that can be joined can be read."""
    await call.chat.publish(room=room, user="bot", text="hi")
    _, page = answer(await call("GET", f"/api/rooms/{segment}/history"))
    assert (page["room"], len(page["messages"])) == (room, 1)


@pytest.mark.parametrize("segment", ["%ff", "%00", "%0a", "x" * 129, "%20"])
@pytest.mark.parametrize("what", ["history", "members"])
async def test_what_cannot_be_a_room_is_400(call: Caller, segment: str, what: str) -> None:
    """The sentence names the room."""
    refusal = await call("GET", f"/api/rooms/{segment}/{what}")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.error) == (400, "invalid_field")
    assert refusal.message.startswith("room ")


# The members of a room.


class Nobody:
    """A subscriber."""

    def offer(self, frame: bytes) -> Verdict:
        return Verdict.ACCEPTED


async def test_members_are_counted_and_named(call: Caller) -> None:
    """As in the chat."""
    assert answer(await call("GET", "/api/rooms/lobby/members")) == (
        200,
        {"room": "lobby", "count": 0, "members": []},
    )
    await call.hub.subscribe("chat:lobby", Nobody(), user="ann")
    assert answer(await call("GET", "/api/rooms/lobby/members")) == (
        200,
        {"room": "lobby", "count": 1, "members": ["ann"]},
    )


# The token.

ALL = [
    ("POST", "/api/messages"),
    ("POST", "/api/notifications"),
    ("GET", "/api/rooms/lobby/history"),
    ("GET", "/api/rooms/lobby/members"),
]


@pytest.mark.parametrize("method, path", ALL)
@pytest.mark.parametrize(
    "authorization, challenge",
    [
        (None, "Bearer"),
        ("", "Bearer"),
        ("Basic c8Opc2FtZQ==", "Bearer"),
        ("Bearer", 'Bearer error="invalid_token"'),
        ("Bearer wrong", 'Bearer error="invalid_token"'),
        (f"Bearer {TOKEN}x", 'Bearer error="invalid_token"'),
        (f"Bearer {TOKEN}, Bearer {TOKEN}", 'Bearer error="invalid_token"'),
    ],
)
async def test_without_the_token_it_is_401(
    call: Caller, method: str, path: str, authorization: str | None, challenge: str
) -> None:
    """Whatever the body, nothing of it is looked at."""
    refusal = await call(method, path, b"{", authorization=authorization)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 401
    assert refusal.headers == (("WWW-Authenticate", challenge),)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_has_no_case(call: Caller, scheme: str) -> None:
    """RFC 9110 §11.1."""
    response = await call("POST", "/api/messages", MESSAGE, authorization=f"{scheme}  {TOKEN}")
    assert answer(response)[0] == 201


@pytest.mark.parametrize("method, path", ALL)
async def test_without_a_configured_token_it_is_403(method: str, path: str) -> None:
    """An API that nobody set up is off for everybody."""
    refusal = await Caller(token=None)(method, path, MESSAGE, authorization="Bearer ")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.error) == (403, "api_disabled")


# Methods, paths, the store.


@pytest.mark.parametrize(
    "method, path, allowed",
    [
        ("GET", "/api/messages", "POST"),
        ("PUT", "/api/notifications", "POST"),
        ("POST", "/api/rooms/lobby/history", "GET, HEAD"),
        ("DELETE", "/api/rooms/lobby/members", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_with_the_right_ones(
    call: Caller, method: str, path: str, allowed: str
) -> None:
    """``Allow`` names them (RFC 9110 §15.5.6)."""
    refusal = await call(method, path)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.headers) == (405, (("Allow", allowed),))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/",
        "/api/messages/",
        "/api/rooms//history",
        "/api/rooms/a/b/history",
        "/api/rooms/a/history/",
        "/api/rooms/a",
        "/API/messages",
        "/api/rooms/a/history\n",
    ],
)
async def test_any_other_path_is_not_the_apis(call: Caller, path: str) -> None:
    """``None``: somebody else's, or a 404."""
    assert await call("GET", path) is None


@pytest.mark.parametrize("method, path", ALL[:3])
async def test_a_store_that_is_down_is_503(
    call: Caller, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """With ``Retry-After``, and without what the store said."""

    async def down(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(call.broker, "publish", down)
    monkeypatch.setattr(call.broker, "history", down)
    refusal = await call(method, path, MESSAGE if path == "/api/messages" else NOTE)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.error) == (503, "store_unavailable")
    assert refusal.headers == (("Retry-After", "5"),)
    assert "disk full" not in refusal.message
