"""Stand-ins for the hub's neighbours: a subscriber that remembers, a broker that takes its time."""

import collections
from collections.abc import Awaitable, Callable

import trio

from trio_gateway.errors import StoreUnavailable
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


class LossyBroker(MemoryBroker):
    """Keeps everything until it is told to lose it; its stream leaves out what it is told to.

    Attributes:
        deaf: whether the stream leaves out what is published now.
        down: whether the history can't be read.
        available: what it says of that.
        kept: publications of a topic.
        reads: of any history with publications.
    """

    def __init__(self, pause: Pause = no_pause) -> None:
        super().__init__()
        self.pause = pause
        self.deaf = self.down = False
        self.available = True
        self.kept = 1_000
        self.reads = 0
        self.topics: set[str] = set()
        self._epoch_number = 1
        self._logs: collections.defaultdict[str, list[bytes]] = collections.defaultdict(list)
        self._keys: dict[tuple[str, str], Position] = {}
        self._read: dict[tuple[str, str], int] = {}
        self._stream: Callable[[Publication], None] | None = None

    def lose(self) -> None:
        """Forget everything, as a store that is emptied."""
        self._epoch_number += 1
        self._logs.clear()
        self._keys.clear()
        self._read.clear()

    def show(self) -> None:
        """Stream the newest of every topic (again), which shows what was left out before it."""
        for topic in sorted(self.topics):
            if self._stream is not None and self._logs[topic]:
                position = self.position(topic)
                self._stream(Publication(topic, position, self._logs[topic][-1]))

    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        await trio.lowlevel.checkpoint_if_cancelled()
        if key is not None and (topic, key) in self._keys:
            return self._keys[topic, key]
        self._logs[topic].append(payload)
        position = self.position(topic)
        if key is not None:
            self._keys[topic, key] = position
        if self._stream is not None and topic in self.topics and not self.deaf:
            self._stream(Publication(topic, position, payload))
        return position

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        self.reads += limit > 0
        await self.pause("before history")
        if self.down:
            raise StoreUnavailable("it is down")
        position, log = self.position(topic), self._logs[topic]
        first = max(0, len(log) - self.kept)
        end = len(log) if before is None else min(len(log), before - 1)
        start, recovered = max(first, end - limit), True
        if since is not None:
            behind = position.offset - since.offset
            recovered = since.epoch == position.epoch and 0 <= behind <= min(limit, self.kept)
            start = since.offset if recovered else start
        publications = tuple(
            Publication(topic, Position(position.epoch, n + 1), log[n]) for n in range(start, end)
        )
        await self.pause("after history")
        return Page(publications, position, recovered, start > first, first + 1)

    async def subscribe(self, topic: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.topics.add(topic)

    async def unsubscribe(self, topic: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.topics.discard(topic)

    async def advance(self, topic: str, reader: str, offset: int) -> int:
        now = max(await self.cursor(topic, reader), min(offset, len(self._logs[topic])))
        self._read[topic, reader] = now
        return now

    async def cursor(self, topic: str, reader: str) -> int:
        await self.pause("before cursor")
        if self.down:
            raise StoreUnavailable("it is down")
        return self._read.get((topic, reader), 0)

    async def run(
        self,
        deliver: Callable[[Publication], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self._stream = deliver
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self._stream = None

    def position(self, topic: str) -> Position:
        """Return where a topic stands."""
        return Position(f"e{self._epoch_number}", len(self._logs[topic]))
