"""Applications on a real hub and memory broker, with connections that are two queues."""

import json
import math
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Self, cast

import trio
import trio.testing
from trio_websocket import CloseReason, ConnectionClosed

from trio_gateway.apps.chat import ChatApp, ChatSettings
from trio_gateway.apps.notifications import NotificationApp, NotificationSettings
from trio_gateway.apps.session import UpgradeLike
from trio_gateway.handshake.authentication import Authenticate, Identity
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.transport.outbox import Verdict

NOW = 1_790_000_000.125
NOW_TEXT = "2026-09-21T14:13:20.125Z"


def unframe(data: bytes) -> Iterator[Any]:
    """Yield the JSON of each unmasked, final text frame in ``data``."""
    while data:
        assert data[0] == 0x81
        length, start = data[1], 2
        if length == 126:
            (length,), start = struct.unpack("!H", data[2:4]), 4
        elif length == 127:
            (length,), start = struct.unpack("!Q", data[2:10]), 10
        payload, data = data[start : start + length], data[start + length :]
        assert len(payload) == length
        yield json.loads(payload)


class FakeConnection:
    """What an application sees of a connection."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.closed: tuple[int, str | None] | None = None
        self.to_app, self._inbound = trio.open_memory_channel[str | bytes](math.inf)
        self._outbound, self.from_app = trio.open_memory_channel[Any](math.inf)

    def offer(self, frame: bytes) -> Verdict:
        if self.closed is not None:
            return Verdict.CLOSED
        for received in unframe(frame):
            self._outbound.send_nowait(received)
        return Verdict.ACCEPTED

    async def send_frame(self, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed is not None:
            raise ConnectionClosed(CloseReason(*self.closed))
        self.offer(frame)

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        await trio.lowlevel.checkpoint()
        self.end(code, reason)

    def disconnect(self, code: int, reason: str) -> None:
        self.end(code, reason)

    def end(self, code: int = 1000, reason: str | None = None) -> None:
        """End it, as the peer or the gateway would."""
        self.closed = self.closed or (code, reason)
        self.to_app.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self._inbound.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


class FakeUpgrade:
    """What an application sees of an upgrade."""

    def __init__(self, id: str, query: Mapping[str, str]) -> None:
        self.query = query
        self.identity: Identity | None = None
        self.connection = FakeConnection(id)
        self.rejected: tuple[int, dict[bytes, bytes], Any] | None = None

    async def identify(self, authenticate: Authenticate) -> Identity | Refusal:
        answer = await authenticate(cast(Upgrade, self))
        if isinstance(answer, Identity):
            self.identity = answer
        return answer

    async def accept(self) -> FakeConnection:
        await trio.lowlevel.checkpoint()
        return self.connection

    async def reject(
        self,
        status_code: int,
        *,
        extra_headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes | None = None,
    ) -> None:
        await trio.lowlevel.checkpoint()
        self.rejected = status_code, dict(extra_headers or []), json.loads(body or b"null")


class Client:
    """The client's end of a fake connection."""

    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection

    async def send(self, type: str, **fields: Any) -> None:
        """Send a command."""
        await self.send_text(json.dumps({"type": type, **fields}))

    async def send_text(self, message: str | bytes) -> None:
        """Send a message as it is, and let everybody react."""
        await self.connection.to_app.send(message)
        await trio.testing.wait_all_tasks_blocked()

    async def receive(self) -> Any:
        """Return the next frame; a second of silence fails the test."""
        with trio.fail_after(1):
            return await self.connection.from_app.receive()

    async def ask(self, type: str, **fields: Any) -> Any:
        """Send a command and return the next frame."""
        await self.send(type, **fields)
        return await self.receive()

    async def all(self) -> list[Any]:
        """Return the frames that have come, once everybody rests."""
        await trio.testing.wait_all_tasks_blocked()
        frames: list[Any] = []
        while True:
            try:
                frames.append(self.connection.from_app.receive_nowait())
            except trio.WouldBlock:
                return frames


class World:
    """A hub with both applications, in a running nursery."""

    def __init__(self, hub: Hub, broker: MemoryBroker, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.broker = broker
        self.chat = ChatApp(hub, ChatSettings(max_rooms=3, max_page=5), clock=lambda: NOW)
        self.notifications = NotificationApp(
            hub, NotificationSettings(max_topics=2, max_page=5), clock=lambda: NOW
        )
        self.ended: list[str] = []
        self._nursery = nursery
        self._count = 0

    async def _run(
        self, handle: Callable[[UpgradeLike], Awaitable[None]], upgrade: FakeUpgrade
    ) -> None:
        await handle(upgrade)
        self.ended.append(upgrade.connection.id)

    async def upgrade(
        self, handle: Callable[[UpgradeLike], Awaitable[None]], query: Mapping[str, str]
    ) -> FakeUpgrade:
        """Start a handler on a new upgrade and let it come to rest."""
        self._count += 1
        upgrade = FakeUpgrade(f"c{self._count}", query)
        self._nursery.start_soon(self._run, handle, upgrade)
        await trio.testing.wait_all_tasks_blocked()
        return upgrade

    async def connect(self, user: str, **query: str) -> Client:
        """Connect to the chat; the welcome is still to be received."""
        upgrade = await self.upgrade(self.chat.handle, {"user": user, **query})
        assert upgrade.rejected is None
        return Client(upgrade.connection)

    async def join(self, user: str, **query: str) -> Client:
        """Connect to the chat and take ``welcome`` and ``joined``."""
        client = await self.connect(user, **query)
        assert [frame["type"] for frame in await client.all()] == ["welcome", "joined"]
        return client

    async def listen(self, user: str, **query: str) -> Client:
        """Connect to the notifications; the welcome is still to be received."""
        upgrade = await self.upgrade(self.notifications.handle, {"user": user, **query})
        assert upgrade.rejected is None
        return Client(upgrade.connection)
