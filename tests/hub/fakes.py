"""Stand-ins for the hub's neighbours: a subscriber that remembers, a broker that takes its time."""

import collections
from collections.abc import Awaitable, Callable

import trio

from trio_gateway.hub.broker import Page, Publication
from trio_gateway.hub.hub import Joined
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position
from trio_gateway.transport.outbox import Verdict

Pause = Callable[[str], Awaitable[None]]


class Recorder:
    """A subscriber that keeps every offer, and answers what it is told to."""

    def __init__(self, verdict: Verdict = Verdict.ACCEPTED) -> None:
        self.verdict = verdict
        self.offers: list[bytes] = []
        self.disconnected: list[tuple[int, str]] = []

    def offer(self, frame: bytes) -> Verdict:
        self.offers.append(frame)
        return self.verdict

    def disconnect(self, code: int, reason: str) -> None:
        self.disconnected.append((code, reason))

    @property
    def lines(self) -> list[str]:
        return b"".join(self.offers).decode().splitlines()


def line(publication: Publication) -> bytes:
    """Encode a publication as a line instead of a WebSocket frame."""
    return f"{publication.position.offset} {publication.payload.decode()}\n".encode()


def greeting(joined: Joined) -> list[bytes]:
    return [f"joined {joined.position.offset}\n".encode()]


def no_clock() -> float:
    """Stand still, so that a fan-out yields by no wall clock."""
    return 0.0


async def no_pause(_: str) -> None:
    """Let a broker answer at once."""


class SlowBroker:
    """A memory broker that pauses before and after each step, and whose stream lags behind."""

    def __init__(
        self, memory: MemoryBroker, pause: Pause = no_pause, *, lag: Pause | None = None
    ) -> None:
        self.memory = memory
        self.pause = pause
        self.lag = lag
        self.calls: list[str] = []
        # How often each topic was unsubscribed: what the stream still had of it then is dropped.
        self.ends: collections.Counter[str] = collections.Counter()

    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        await self.pause("before publish")
        position = await self.memory.publish(topic, payload, key=key)
        await self.pause("after publish")
        return position

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        self.calls.append(f"history {topic}")
        await self.pause("before history")
        page = await self.memory.history(topic, since=since, before=before, limit=limit)
        await self.pause("after history")
        return page

    async def subscribe(self, topic: str) -> None:
        self.calls.append(f"subscribe {topic}")
        await self.pause("before subscribe")
        await self.memory.subscribe(topic)
        await self.pause("after subscribe")

    async def unsubscribe(self, topic: str) -> None:
        self.calls.append(f"unsubscribe {topic}")
        await self.pause("before unsubscribe")
        await self.memory.unsubscribe(topic)
        self.ends[topic] += 1
        await self.pause("after unsubscribe")

    async def advance(self, topic: str, reader: str, offset: int) -> int:
        return await self.memory.advance(topic, reader, offset)

    async def cursor(self, topic: str, reader: str) -> int:
        return await self.memory.cursor(topic, reader)

    async def run(
        self,
        deliver: Callable[[Publication], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        if self.lag is None:
            await self.memory.run(deliver, task_status=task_status)
            return
        send, receive = trio.open_memory_channel[tuple[int, Publication]](100_000)

        def take(publication: Publication) -> None:
            send.send_nowait((self.ends[publication.topic], publication))

        async with trio.open_nursery() as nursery:
            await nursery.start(self.memory.run, take)
            task_status.started()
            async for ends, publication in receive:
                await self.lag("deliver")
                if ends == self.ends[publication.topic]:
                    deliver(publication)
