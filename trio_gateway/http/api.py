"""The HTTP API: publish from a backend, read what clients see.

In: requests below ``/api/``. Out: JSON. The rule: nothing is read of a request before its bearer
token is right, and 201 says that it is in the store.
"""

import hmac
import re
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import msgspec

from trio_gateway.errors import StoreUnavailable
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.chain import wrong_method
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.hub.positions import Position
from trio_gateway.wire import EXPECTED, MAX_OFFSET, InvalidField, Problem, decode

_ROOM = re.compile(r"/api/rooms/([^/]+)/(history|members)")
_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)


class Messages(Protocol):
    """What the API needs of the chat."""

    def publish(
        self, *, room: str, user: str, text: str, key: str | None = None
    ) -> Awaitable[Position]:
        """Store and send; raises InvalidField and StoreUnavailable."""
        ...

    def history(
        self, room: str, *, before: int | None = None, limit: int | None = None
    ) -> Awaitable[Mapping[str, Any]]:
        """Return a page as JSON has it; raises InvalidField and StoreUnavailable."""
        ...

    def members(self, room: str) -> Mapping[str, Any]:
        """Return the members as JSON has them; raises InvalidField."""
        ...


class Notifications(Protocol):
    """What the API needs of the notifications."""

    def notify(
        self,
        *,
        to: str | None = None,
        topic: str | None = None,
        title: str,
        body: str = "",
        data: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Awaitable[Position]:
        """Store and send; raises InvalidField and StoreUnavailable."""
        ...


class _Message(msgspec.Struct, kw_only=True):
    room: str
    user: str
    text: str
    key: str | None = None


class _Notification(msgspec.Struct, kw_only=True):
    title: str
    to: str | None = None
    topic: str | None = None
    body: str | None = None
    data: dict[str, Any] | None = None
    key: str | None = None


_message = msgspec.json.Decoder(_Message)
_notification = msgspec.json.Decoder(_Notification)


class Api:
    """An ``HttpHandler`` for everything below ``/api/``.

    Arguments:
        chat: takes the messages.
        notifications: takes the notifications.
        token: what a client must show; None turns the API off (403).
    """

    def __init__(self, chat: Messages, notifications: Notifications, token: str | None) -> None:
        self._chat = chat
        self._notifications = notifications
        self._token = None if token is None else token.encode()

    async def __call__(self, request: HttpRequest) -> HttpResponse | Refusal | None:
        """Answer a request, or return None for a path that is not the API's.

        Cancelled, a publication may or may not be stored; with a ``key`` it can be repeated.
        """
        room = _ROOM.fullmatch(request.path)
        if room is None and request.path not in ("/api/messages", "/api/notifications"):
            return None
        methods = ("POST",) if room is None else ("GET", "HEAD")
        refusal = wrong_method(request, *methods) or self._refuse_stranger(request)
        if refusal is not None:
            return refusal
        try:
            if room is not None:
                return await self._read(request, room[1], room[2])
            if request.path == "/api/messages":
                return await self._publish(request)
            return await self._notify(request)
        except InvalidField as error:
            return Refusal(400, "invalid_field", str(error))
        except StoreUnavailable:
            return Refusal(
                503,
                "store_unavailable",
                "the store cannot be reached now; nothing was stored, try again",
                (("Retry-After", "5"),),
            )

    def _refuse_stranger(self, request: HttpRequest) -> Refusal | None:
        """Return why the bearer token does not open the API (RFC 6750 §3), or None."""
        if self._token is None:
            return Refusal(403, "api_disabled", "the API is off: the gateway has no API token")
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return Refusal(
                401,
                "unauthorized",
                "send the API token as Authorization: Bearer TOKEN",
                (("WWW-Authenticate", "Bearer"),),
            )
        if not hmac.compare_digest(shown.strip(" ").encode("latin-1", "replace"), self._token):
            return Refusal(
                401,
                "invalid_token",
                "this is not the API token",
                (("WWW-Authenticate", 'Bearer error="invalid_token"'),),
            )
        return None

    async def _publish(self, request: HttpRequest) -> HttpResponse | Refusal:
        body = decode(_message, request.body)
        if isinstance(body, Problem):
            return _bad_request(body)
        position = await self._chat.publish(
            room=body.room, user=body.user, text=body.text, key=body.key
        )
        return _created(position)

    async def _notify(self, request: HttpRequest) -> HttpResponse | Refusal:
        body = decode(_notification, request.body)
        if isinstance(body, Problem):
            return _bad_request(body)
        position = await self._notifications.notify(
            to=body.to,
            topic=body.topic,
            title=body.title,
            body=body.body or "",
            data=body.data,
            key=body.key,
        )
        return _created(position)

    async def _read(self, request: HttpRequest, segment: str, what: str) -> HttpResponse:
        room = decode_segment(segment)
        if what == "members":
            return HttpResponse.json(200, self._chat.members(room))
        before = _number(request.query, "before", 0)
        limit = _number(request.query, "limit", 1)
        return HttpResponse.json(200, await self._chat.history(room, before=before, limit=limit))


def decode_segment(segment: str) -> str:
    """Percent-decode one path segment, once; raises InvalidField when it is not UTF-8."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeError:
        raise InvalidField("room", "must be percent-encoded UTF-8") from None


def _number(query: Mapping[str, str], field: str, least: int) -> int | None:
    text = query.get(field)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None or not least <= int(text) <= MAX_OFFSET:
        raise InvalidField(field, f"must be {EXPECTED[field]}")
    return int(text)


def _created(position: Position) -> HttpResponse:
    return HttpResponse.json(201, {"offset": position.offset, "epoch": position.epoch})


def _bad_request(problem: Problem) -> Refusal:
    message = problem.message
    if problem.code == "not_an_object":
        message = "the body must be a JSON object"
    return Refusal(400, problem.code, message)
