"""Publishing through the HTTP API: what a backend does that keeps no connection.

In: what to publish. Out: its position, once it is in the store. The rule: one key for all attempts,
so that trying again is safe; what won't pass is not tried again.
"""

import random
import secrets
import ssl
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

import h11
import trio

from trio_gateway.client.backoff import Backoff, Uniform, retry_after
from trio_gateway.client.errors import CommandRefused, NotAcknowledged, NotAGateway
from trio_gateway.client.settings import ClientSettings
from trio_gateway.client.target import Answer, Target, explain
from trio_gateway.hub.positions import Position

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_DEFAULTS = ClientSettings()


class How(TypedDict, total=False):
    """How ``post()`` goes about it, as keyword arguments."""

    within: float
    attempts: int
    ssl_context: ssl.SSLContext | None
    uniform: Uniform


async def publish_notification(
    url: str,
    token: str,
    *,
    to: str | None = None,
    topic: str | None = None,
    title: str,
    body: str | None = None,
    data: Mapping[str, Any] | None = None,
    key: str | None = None,
    **how: Unpack[How],
) -> Position:
    """Send a notification to a user or a shared topic; return its position.

    Arguments:
        url: the gateway's.
        token: its API token.
        to: the user, or
        topic: the shared topic; exactly one of the two.
        title: one line.
        body: more text.
        data: JSON for programs.
        key: the same stream and key is stored once; None for one made here.
        how: as for ``post()``.

    Raises and is cancelled as ``post()``.
    """
    fields = {"to": to, "topic": topic, "title": title, "body": body, "data": data}
    return await post(url, token, "/api/notifications", fields, key=key, **how)


async def publish_message(
    url: str,
    token: str,
    *,
    room: str,
    user: str,
    text: str,
    key: str | None = None,
    **how: Unpack[How],
) -> Position:
    """Say something in a room, as any user; return its position.

    Arguments:
        url: the gateway's.
        token: its API token.
        room: need not exist.
        user: who says it.
        text: what is said.
        key: the same user, room and key is stored once; None for one made here.
        how: as for ``post()``.

    Raises and is cancelled as ``post()``.
    """
    fields = {"room": room, "user": user, "text": text}
    return await post(url, token, "/api/messages", fields, key=key, **how)


async def post(
    url: str,
    token: str,
    path: str,
    fields: Mapping[str, Any],
    *,
    key: str | None = None,
    within: float = 30.0,
    attempts: int = 8,
    ssl_context: ssl.SSLContext | None = None,
    uniform: Uniform = random.uniform,
) -> Position:
    """Post to the API until it is acknowledged.

    Arguments:
        url: the gateway's.
        token: its API token.
        path: of the API.
        fields: the body; what is None is left out.
        key: makes trying again safe; None for one made here.
        within: seconds for all attempts together.
        attempts: how many at the most.
        ssl_context: for ``https``; None for the system's certificates.
        uniform: draws the waits from a range.

    If this is cancelled, it may or may not be stored: try again with the same ``key``.

    Raises:
        ValueError: the URL is none.
        CommandRefused: nothing was stored; its ``code`` is the API's.
        NotAGateway: the answer is not the API's.
        NotAcknowledged: it may or may not be stored; has the key.
    """
    target = Target.parse(url)
    key = key or secrets.token_urlsafe(12)
    body = {name: value for name, value in fields.items() if value is not None} | {"key": key}
    backoff = Backoff(_DEFAULTS.backoff_base, _DEFAULTS.backoff_cap, uniform)
    why = "no answer in time"
    with trio.move_on_after(within):
        for attempt in range(1, attempts + 1):
            told: float | None = None
            try:
                answer = await target.request(
                    "POST", path, body=body, token=token, ssl_context=ssl_context
                )
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
                why = explain(error)
            else:
                if answer.status not in _PASSING:
                    return _position(answer)
                why = f"answered {answer.describe()}"
                told = retry_after(answer.headers.get("retry-after"), _DEFAULTS.max_retry)
            if attempt < attempts:
                wait = backoff.next() if told is None else backoff.after(told, jittered=False)
                await trio.sleep(wait)
    raise NotAcknowledged(key, why)


def _position(answer: Answer) -> Position:
    """Return what a final answer says, or raise what it means."""
    said = answer.json()
    said = said if isinstance(said, dict) else {}
    epoch, offset = said.get("epoch"), said.get("offset")
    if answer.status == 201 and isinstance(epoch, str) and isinstance(offset, int):
        return Position(epoch, offset)
    code, message = said.get("error"), said.get("message")
    if answer.status >= 400 and isinstance(code, str) and isinstance(message, str):
        raise CommandRefused(code, message)
    raise NotAGateway(f"answered {answer.describe()}")
