"""The memory broker against a trivial model, on virtual time."""

import queue
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs
import outcome
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_gateway.hub.broker import Publication, Retention
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position

T = TypeVar("T")

NAMES = ["chat:a", "chat:b", "chat:c", "user:d"]
topics = st.sampled_from(NAMES)


class Guest:
    """One Trio run on virtual time, driven a call at a time from outside."""

    def __init__(self) -> None:
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self._callbacks: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._ended: list[outcome.Outcome[None]] = []
        self._token: list[trio.lowlevel.TrioToken] = []
        self._nursery: list[trio.Nursery] = []
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._callbacks.put,
            done_callback=self._ended.append,
            host_uses_signal_set_wakeup_fd=True,
            clock=self.clock,
        )
        self._pump_until(lambda: bool(self._token))

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery.append(nursery)
            self._token.append(trio.lowlevel.current_trio_token())
            await trio.sleep_forever()

    def _pump_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._callbacks.get(timeout=10)()

    def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        results: list[outcome.Outcome[T]] = []

        async def job() -> None:
            results.append(await outcome.acapture(function, *args))

        self._token[0].run_sync_soon(self._nursery[0].start_soon, job)
        self._pump_until(lambda: bool(results))
        return results[0].unwrap()

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def background(task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await function(*args, task_status=task_status)

        self.run(self._nursery[0].start, background)
        return scope

    def close(self) -> None:
        self._token[0].run_sync_soon(self._nursery[0].cancel_scope.cancel)
        self._pump_until(lambda: bool(self._ended))
        self._ended[0].unwrap()


@attrs.define
class Kept:
    topic: str
    position: Position
    payload: bytes
    key: str | None
    at: float


class MemoryMachine(RuleBasedStateMachine):
    """Publishes, reads, subscribes and waits; one list of what is kept is the model."""

    def __init__(self) -> None:
        super().__init__()
        self.guest = Guest()
        self.kept: list[Kept] = []
        self.latest: dict[str, Position] = {}
        self.epochs: set[tuple[str, str]] = set()
        self.old: list[Position] = [Position("none", 1)]
        self.feeds: dict[str, int] = {}
        self.delivered: list[Publication] = []
        self.expected: list[tuple[Position, bytes]] = []
        self.stream: trio.CancelScope | None = None

    @initialize(
        count=st.integers(1, 4),
        size=st.integers(1, 12),
        age=st.integers(1, 20),
        max_topics=st.integers(1, 4),
    )
    def begin(self, count: int, size: int, age: int, max_topics: int) -> None:
        self.retention = Retention(max_publications=count, max_bytes=size, max_age=age)
        self.max_topics = max_topics
        self.broker = MemoryBroker(retention=self.retention, max_topics=max_topics)
        self.latest = {name: self.position(name) for name in NAMES}

    def position(self, topic: str) -> Position:
        async def read() -> Position:
            return (await self.broker.history(topic, limit=0)).position

        return self.guest.run(read)

    def of(self, topic: str) -> list[Kept]:
        return [kept for kept in self.kept if kept.topic == topic]

    def now(self) -> float:
        async def read() -> float:
            return trio.current_time()

        return self.guest.run(read)

    def expire(self) -> None:
        horizon = self.now() - self.retention.max_age
        self.kept = [kept for kept in self.kept if kept.at > horizon]

    def learn_evictions(self, used: str) -> None:
        """Take the broker's choice of what it forgot, if the bound obliged it to and it is fair."""
        idle = [n for n in NAMES if n not in self.feeds and self.latest[n].offset > 0]
        spent = [name for name in idle if not self.of(name)]
        gone = [name for name in NAMES if self.position(name).epoch != self.latest[name].epoch]
        assert max(0, len(idle) - self.max_topics) == len(gone)
        for name in gone:
            assert name in (spent or [n for n in idle if n != used])
            fresh = self.position(name)
            assert fresh.offset == 0
            assert (name, fresh.epoch) not in self.epochs
            self.old.append(self.latest[name])
            self.latest[name] = fresh
            self.kept = [kept for kept in self.kept if kept.topic != name]

    def deliver_expected(self) -> None:
        if self.stream is None:
            return
        for topic, offset in self.feeds.items():
            for kept in self.of(topic):
                if kept.position.offset > offset:
                    self.expected.append((kept.position, kept.payload))
                    self.feeds[topic] = kept.position.offset

    @rule(
        topic=topics,
        payload=st.binary(max_size=6),
        key=st.one_of(st.none(), st.sampled_from(["k", "l"])),
    )
    def publish(self, topic: str, payload: bytes, key: str | None) -> None:
        self.expire()

        async def publish() -> Position:
            return await self.broker.publish(topic, payload, key=key)

        position = self.guest.run(publish)
        repeated = [kept for kept in self.of(topic) if key is not None and kept.key == key]
        if repeated:
            assert repeated[0].position == position
            return
        before = self.latest[topic]
        assert Position(before.epoch, before.offset + 1) == position
        self.latest[topic] = position
        self.epochs.add((topic, position.epoch))
        self.kept.append(Kept(topic, position, payload, key, self.now()))
        while len(mine := self.of(topic)) > 1 and (
            len(mine) > self.retention.max_publications
            or sum(len(kept.payload) for kept in mine) > self.retention.max_bytes
        ):
            self.kept.remove(mine[0])
        self.deliver_expected()
        self.learn_evictions(topic)

    @rule(topic=topics, back=st.integers(-1, 6), limit=st.integers(0, 5))
    def read_since(self, topic: str, back: int, limit: int) -> None:
        self.expire()
        latest = self.latest[topic]
        since = Position(latest.epoch, latest.offset - back)
        self.check_since(topic, since, limit)

    @rule(topic=topics, data=st.data(), limit=st.integers(0, 5))
    def read_since_another_epoch(self, topic: str, data: st.DataObject, limit: int) -> None:
        self.expire()
        since = data.draw(st.sampled_from(self.old))
        if since.epoch != self.latest[topic].epoch:
            self.check_since(topic, since, limit)

    def check_since(self, topic: str, since: Position, limit: int) -> None:
        async def read() -> Any:
            return await self.broker.history(topic, since=since, limit=limit)

        page = self.guest.run(read)
        latest = self.latest[topic]
        kept = [entry.position for entry in self.of(topic)]
        missed = [Position(since.epoch, n) for n in range(since.offset + 1, latest.offset + 1)]
        recovered = (
            since.epoch == latest.epoch
            and 0 <= since.offset <= latest.offset
            and len(missed) <= limit
            and all(position in kept for position in missed)
        )
        newest = kept[max(0, len(kept) - limit) :]
        assert (latest, recovered) == (page.position, page.recovered)
        expected = missed if recovered else newest
        assert expected == [publication.position for publication in page.publications]

    @rule(topic=topics, before=st.one_of(st.none(), st.integers(-1, 30)), limit=st.integers(0, 5))
    def read_before(self, topic: str, before: int | None, limit: int) -> None:
        self.expire()

        async def read() -> Any:
            return await self.broker.history(topic, before=before, limit=limit)

        page = self.guest.run(read)
        older = [k for k in self.of(topic) if before is None or k.position.offset < before]
        expected = older[max(0, len(older) - limit) :]
        assert [(kept.position, kept.payload) for kept in expected] == [
            (publication.position, publication.payload) for publication in page.publications
        ]
        assert (len(older) > len(expected)) == page.more
        kept = [entry.position.offset for entry in self.of(topic)]
        assert (kept[0] if kept else self.latest[topic].offset + 1) == page.first

    @rule(topic=topics)
    def subscribe(self, topic: str) -> None:
        self.expire()
        self.guest.run(self.broker.subscribe, topic)
        self.feeds.setdefault(topic, self.latest[topic].offset)

    @precondition(lambda self: self.feeds)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        self.expire()
        topic = data.draw(st.sampled_from(sorted(self.feeds)))
        self.guest.run(self.broker.unsubscribe, topic)
        del self.feeds[topic]
        self.learn_evictions(topic)

    @rule()
    def start_or_stop_the_stream(self) -> None:
        self.expire()
        if self.stream is None:
            self.stream = self.guest.spawn(self.broker.run, self.delivered.append)
        else:
            self.stream.cancel()
            self.stream = None
            self.guest.run(trio.testing.wait_all_tasks_blocked)
        self.deliver_expected()

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.guest.run(trio.sleep, seconds)

    @invariant()
    def delivered_once_in_order(self) -> None:
        assert self.expected == [(p.position, p.payload) for p in self.delivered]

    def teardown(self) -> None:
        self.guest.close()


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
