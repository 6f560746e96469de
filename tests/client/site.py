"""A chat and notifications over memory that break in every way a client must bear.

In: faults, asked for by name. Out: streams to a gateway that is there, or was. The rule: what is in
the broker stays, unless the epoch is what breaks.
"""

import math
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.hub.fakes import LossyBroker
from trio_gateway.apps.chat import ChatApp, ChatSettings
from trio_gateway.apps.notifications import NotificationApp
from trio_gateway.client import ClientSettings
from trio_gateway.hub.broker import Retention
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.routing import Router
from trio_gateway.settings import Drain, Heartbeat
from trio_gateway.testing import MemoryStream, OpenGateway, open_gateway

URL = "ws://memory/"
SETTINGS = ClientSettings(max_queued=8)


class Line(trio.abc.Stream):
    """A stream to the gateway, through a network that may fail."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.silent = False
        self.losing = False
        self.deaf = False
        self.closed = False

    async def send_all(self, data: Any) -> None:
        if self.silent:
            await trio.lowlevel.checkpoint()
            return
        await self.stream.send_all(data)
        self.deaf = self.losing

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self.stream.receive_some(max_bytes))
        if self.silent:
            await trio.sleep_forever()
        if self.deaf:
            self.reset()
            raise trio.BrokenResourceError("what was sent has arrived, the answer has not")
        return data

    def reset(self) -> None:
        self.stream.send_stream.reset()

    async def aclose(self) -> None:
        self.closed = True
        await self.stream.aclose()


class Site:
    """The gateway of a test.

    Attributes:
        lines: every stream that was asked for.
        requests: the heads of the requests that were answered with ``answers``.
        answers: raw answers to give to the next connections, in place of the gateway's.
    """

    def __init__(self, nursery: trio.Nursery, **chat: Any) -> None:
        self._nursery = nursery
        self._chat = chat
        self._scope = trio.CancelScope()
        self._server: OpenGateway | None = None
        self.lines: list[Line] = []
        self.requests: list[str] = []
        self.answers: list[bytes] = []
        self.broker = self._new_broker()

    def _new_broker(self) -> MemoryBroker:
        if self._chat.get("lossy"):
            return LossyBroker()
        return MemoryBroker(retention=Retention(max_publications=self._chat.get("kept", 100_000)))

    @property
    def lossy(self) -> LossyBroker:
        """The broker of a site that was opened with ``lossy=True``."""
        assert isinstance(self.broker, LossyBroker)
        return self.broker

    async def start(self) -> None:
        """Start a gateway, unless there is one."""
        if self._server is None:
            self._scope = trio.CancelScope()
            self._server = await self._nursery.start(self._run, self._scope)

    async def _run(
        self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[OpenGateway]
    ) -> None:
        hub = Hub(self.broker)
        settings = ChatSettings(max_page=self._chat.get("max_page", 256))
        self.chat = ChatApp(hub, settings, heartbeat=self._chat.get("heartbeat", 25.0))
        self.notifications = NotificationApp(hub)
        router = Router()
        router.route("/", self.chat.handle)
        router.route("/notifications/ws", self.notifications.handle)
        with scope:
            async with open_gateway(
                router,
                hub=hub,
                heartbeat=Heartbeat(interval=self._chat.get("heartbeat", 25.0) or math.inf),
                drain=Drain(grace=5, min_retry=1, max_retry=2),
            ) as server:
                task_status.started(server)
                await trio.sleep_forever()

    async def stop(self) -> None:
        """End the gateway as ``kill -9`` does."""
        for line in self.lines:
            line.reset()
        self._scope.cancel()
        self._server = None
        await trio.testing.wait_all_tasks_blocked()

    async def connect(self) -> trio.abc.Stream:
        """Return a stream, as a client's ``connect``."""
        if self.answers:
            ours, theirs = trio.testing.memory_stream_pair()
            self._nursery.start_soon(self._answer, theirs, self.answers.pop(0))
            return ours
        await trio.lowlevel.checkpoint()
        if self._server is None:
            raise ConnectionRefusedError(111, "Connection refused")
        line = Line(await self._server.connect())
        self.lines.append(line)
        return line

    async def _answer(self, stream: trio.abc.Stream, answer: bytes) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some()
                if not data:
                    return
                head += data
            self.requests.append(head.decode())
            await stream.send_all(answer)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def live_lines(self) -> list[Line]:
        return [line for line in self.lines if not line.closed]

    # Faults

    async def reset(self) -> None:
        """A TCP reset on every connection."""
        for line in self.live_lines():
            line.reset()
        await trio.lowlevel.checkpoint()

    async def silence(self) -> None:
        """Every link half open: nothing comes through any more, and nobody says so."""
        for line in self.live_lines():
            line.silent = True
        await trio.lowlevel.checkpoint()

    async def lose_acks(self) -> None:
        """The next message of each connection arrives, its acknowledgement does not."""
        for line in self.live_lines():
            line.losing = True
        await trio.lowlevel.checkpoint()

    async def restart(self) -> None:
        """Killed, and there again three seconds later."""
        await self.stop()
        await trio.sleep(3)
        await self.start()

    async def drain(self) -> None:
        """A deploy: 1012 with ``retry``, then another process."""
        assert self._server is not None
        await self._server.gateway.drain()
        await self.stop()
        await self.start()

    async def busy(self) -> None:
        """503 with a ``Retry-After``, after a reset."""
        self.answers += [refusal(503, "Retry-After: 4\r\n"), refusal(429)]
        await self.reset()

    async def garbage(self) -> None:
        """Something else answers for a while, and hangs up."""
        self.answers += [
            b"",
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"HTTP/1.1 101 S\r\n",
        ]
        await self.reset()

    async def leave_out(self) -> None:
        """For a few seconds the store takes what is published and its stream brings nothing."""
        self.lossy.deaf = True
        await trio.sleep(4)
        self.lossy.deaf = False
        self.lossy.show()

    async def forget(self) -> None:
        """Killed, and there again with nothing of the history."""
        await self.stop()
        self.broker = self._new_broker()
        await self.start()


def refusal(status: int, fields: str = "", body: str = "{}") -> bytes:
    """Return a refusal as the gateway writes it."""
    fields += f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    return f"HTTP/1.1 {status} No\r\n{fields}\r\n{body}".encode()


@asynccontextmanager
async def open_site(**chat: Any) -> AsyncGenerator[Site, None]:
    """Run a site until the end of the ``async with``."""
    async with trio.open_nursery() as nursery:
        site = Site(nursery, **chat)
        await site.start()
        yield site
        nursery.cancel_scope.cancel()


def run(scenario: Callable[..., Any], *arguments: Any) -> None:
    """Run a scenario in virtual time; an hour of it is too long."""

    async def main() -> None:
        with trio.fail_after(3600):
            await scenario(*arguments)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def texts(items: list[Any]) -> list[str]:
    return [item.text for item in items]


def bearer(head: str) -> str | None:
    """Return the token that a request has shown."""
    match = re.search(r"(?im)^authorization: bearer (.*?)\r?$", head)
    return None if match is None else match[1]
