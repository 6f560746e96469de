"""The HTTP API: publish from a backend, read what clients see.

In: requests below ``/api/``. Out: JSON. The rule: nothing is read of a request before its bearer
token is right, and 201 says that it is in the store.
"""

import re
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import msgspec

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.door import Door, bad_request
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

    async def look_up_members(self, room: str) -> Mapping[str, Any]:
        """Return the members as JSON has them; raises InvalidField and StoreUnavailable."""
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
    """An ``HttpHandler`` for messages, notifications and rooms, below ``/api/``.

    Arguments:
        chat: takes the messages.
        notifications: takes the notifications.
        door: asks for the token.
    """

    def __init__(self, chat: Messages, notifications: Notifications, door: Door) -> None:
        self._chat = chat
        self._notifications = notifications
        self._door = door

    async def __call__(self, request: HttpRequest) -> HttpResponse | Refusal | None:
        """Answer a request, or return None for a path that is another's.

        Cancelled, a publication may or may not be stored; with a ``key`` it can be repeated.
        """
        if request.path == "/api/messages":
            return await self._door.let_in("messages", request, ("POST",), self._publish)
        if request.path == "/api/notifications":
            return await self._door.let_in("notifications", request, ("POST",), self._notify)
        room = _ROOM.fullmatch(request.path)
        if room is None:
            return None
        read = partial(self._read, segment=room[1], what=room[2])
        return await self._door.let_in(room[2], request, ("GET", "HEAD"), read)

    async def _publish(self, request: HttpRequest) -> HttpResponse | Refusal:
        body = decode(_message, request.body)
        if isinstance(body, Problem):
            return bad_request(body)
        position = await self._chat.publish(
            room=body.room, user=body.user, text=body.text, key=body.key
        )
        return _created(position)

    async def _notify(self, request: HttpRequest) -> HttpResponse | Refusal:
        body = decode(_notification, request.body)
        if isinstance(body, Problem):
            return bad_request(body)
        position = await self._notifications.notify(
            to=body.to,
            topic=body.topic,
            title=body.title,
            body=body.body or "",
            data=body.data,
            key=body.key,
        )
        return _created(position)

    async def _read(self, request: HttpRequest, *, segment: str, what: str) -> HttpResponse:
        room = decode_segment("room", segment)
        if what == "members":
            return HttpResponse.json(200, await self._chat.look_up_members(room))
        before = query_number(request.query, "before", 0)
        limit = query_number(request.query, "limit", 1)
        return HttpResponse.json(200, await self._chat.history(room, before=before, limit=limit))


def decode_segment(field: str, segment: str) -> str:
    """Percent-decode one path segment, once; raises InvalidField when it is not UTF-8."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeError:
        raise InvalidField(field, "must be percent-encoded UTF-8") from None


def query_number(query: Mapping[str, str], field: str, least: int) -> int | None:
    """Return a whole number of the query, or None; raises InvalidField."""
    text = query.get(field)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None or not least <= int(text) <= MAX_OFFSET:
        raise InvalidField(field, f"must be {EXPECTED[field]}")
    return int(text)


def _created(position: Position) -> HttpResponse:
    return HttpResponse.json(201, {"offset": position.offset, "epoch": position.epoch})
