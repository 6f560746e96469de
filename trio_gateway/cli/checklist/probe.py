"""What checks are made of: a place to talk to, a conversation in JSON, an expectation.

In: what a check says and expects. Out: frames, or ``CheckFailed`` with one line that tells what
came instead. The rule: nothing here has a deadline; the check's own is around it.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import attrs
import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from trio_gateway.client.target import Answer, ClientStream, Target, explain

_CLOSING = 2.0
_SHOWN = 160

Frame = dict[str, Any]


class CheckFailed(Exception):
    """The gateway did something else; ``str()`` says what."""


class Skipped(Exception):
    """A check that cannot be made here; ``str()`` says why."""


class Talk:
    """A conversation with the gateway on one WebSocket connection.

    Arguments:
        connection: trio-websocket's client connection.
    """

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection

    async def send(self, type: str, **fields: Any) -> None:
        """Send a command."""
        await self.say(json.dumps({"type": type, **fields}))

    async def say(self, message: str | bytes) -> None:
        """Send a message as it is."""
        await self.connection.send_message(message)

    async def receive(self) -> Frame:
        """Return the next frame, which must be a JSON object in text."""
        message = await self.connection.get_message()
        try:
            frame = json.loads(message) if isinstance(message, str) else None
        except ValueError:
            frame = None
        if not isinstance(frame, dict):
            raise CheckFailed(f"expected JSON in text, got {shorten(message)}")
        return frame

    async def expect(self, type: str, **fields: Any) -> Frame:
        """Return the next frame, which must have this type and these fields."""
        frame = await self.receive()
        wanted = {"type": type, **fields}
        if any(name not in frame or frame[name] != value for name, value in wanted.items()):
            raise CheckFailed(f"expected {shorten(wanted)}, got {shorten(frame)}")
        return frame


@attrs.frozen
class Site:
    """The gateway to check, and names of this run alone.

    Attributes:
        target: where it is.
        token: its API token; None where it is not known.
        tag: a few characters that no earlier run had.
    """

    target: Target
    token: str | None
    tag: str

    def name(self, what: str) -> str:
        """Return a name of a room, a user or a topic."""
        return f"verify-{self.tag}-{what}"

    def require_token(self) -> str:
        """Return the token; raises Skipped without one."""
        if self.token is None:
            raise Skipped("no API token")
        return self.token

    async def request(self, method: str, path: str, *, body: Any = None) -> Answer:
        """Make a plain HTTP request with the token, if there is one."""
        return await self.target.request(method, path, body=body, token=self.token)

    @asynccontextmanager
    async def connect(self, path: str, **query: str) -> AsyncGenerator[Talk, None]:
        """Open a WebSocket connection; closed in the end."""
        resource = f"{self.target.prefix}{path}?{urlencode(query)}"
        async with self.target.stream() as stream, trio.open_nursery() as nursery:
            connection = await _open(nursery, stream, self.target.authority, resource)
            try:
                yield Talk(connection)
            finally:
                with trio.move_on_after(_CLOSING):
                    await connection.aclose()
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def chat(self, user: str, room: str, **query: str) -> AsyncGenerator[Talk, None]:
        """Chat as ``user`` in ``room``, both names of this run, past ``welcome`` and ``joined``."""
        query |= {"user": self.name(user), "room": self.name(room)}
        async with self.connect("/", **query) as talk:
            await talk.expect("welcome", user=self.name(user), room=self.name(room))
            await talk.expect("joined", room=self.name(room))
            yield talk

    def listen(self, user: str, **query: str) -> AbstractAsyncContextManager[Talk]:
        """Listen to the notifications of ``user``; the welcome is still to be received."""
        return self.connect("/notifications/ws", user=self.name(user), **query)


async def _open(
    nursery: trio.Nursery, stream: ClientStream, host: str, resource: str
) -> WebSocketConnection:
    """As ``wrap_client_stream()``, which waits for ever if the server hangs up before the 101."""
    begun = trio.Event()
    opening = trio.CancelScope()

    async def read(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        async with trio.open_nursery() as reader:
            task_status.started(reader)
            await begun.wait()
        opening.cancel()

    reader: trio.Nursery = await nursery.start(read)
    begun.set()
    with opening:
        return await wrap_client_stream(reader, stream, host, resource, message_queue_size=64)
    raise CheckFailed("the server hung up during the handshake")


@attrs.frozen
class Check:
    """One line of the checklist.

    Attributes:
        name: what is true when it passes.
        run: makes the check and returns a detail for the line; raises when it fails.
        timeout: seconds for all of it.
    """

    name: str
    run: Callable[[Site], Awaitable[str]]
    timeout: float = 10.0


def require(condition: bool, otherwise: str) -> None:
    """Raise CheckFailed with ``otherwise`` unless the condition holds."""
    if not condition:
        raise CheckFailed(otherwise)


def shorten(value: object) -> str:
    """Return a value on one line of bounded length, frames as JSON."""
    text = json.dumps(value) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def reason(error: BaseException) -> str:
    """Return one line about why a check failed."""
    own = next((leaf for leaf in _leaves(error) if isinstance(leaf, CheckFailed)), None)
    first = own or next(_leaves(error))
    if isinstance(first, ConnectionRejected):
        return f"refused with {Answer(first.status_code, {}, first.body or b'').describe()}"
    if isinstance(first, ConnectionClosed):
        return f"the connection was closed{_describe(first.reason)}"
    return explain(first)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _describe(closed: CloseReason | None) -> str:
    if closed is None:
        return ""
    return f" with {int(closed.code)}" + (f" ({closed.reason})" if closed.reason else "")
