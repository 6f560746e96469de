"""For whoever writes a broker: a Hypothesis machine that holds it to the contract.

In: how to open the broker. Out: a test. The rule: a list of what must be kept is the whole model,
and whatever ``hub/broker.py`` promises is compared with it after every step. It needs
``hypothesis``, which nothing else here does. ::

    from trio_gateway.testing.broker import BrokerMachine

    class MyMachine(BrokerMachine):
        durable = True

        def open(self, retention, clock):
            return open_my_broker(self.path, retention=retention, clock=clock)

    TestMyBroker = MyMachine.TestCase

The broker runs in a Trio run whose clock stands still but for the machine's ``wait`` rule, so a
broker that sleeps wakes when the machine lets it. Threads, sockets and other processes work.
"""

import queue
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

import attrs
import outcome
import trio
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from trio_gateway.hub.broker import Broker, Page, Publication, Retention
from trio_gateway.hub.positions import Position

__all__ = ["BrokerMachine"]

_T = TypeVar("_T")
_TOPICS = ["chat:a", "chat:b", "user:ann", "topic:ünï"]
_READERS = ["ann", "bob"]
_PATIENCE = 10.0  # seconds of real time that a step or a delivery may take
_topics = st.sampled_from(_TOPICS)
_payloads = st.binary(max_size=6)
_keys = st.none() | st.sampled_from(["k", "l"])


class _Clock(trio.abc.Clock):
    """Stands still until it is moved."""

    now = 1_000.0

    def start_clock(self) -> None: ...

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0 if deadline <= self.now else 3_600.0


class _Guest:
    """One Trio run that synchronous code drives a call at a time."""

    def __init__(self, clock: _Clock) -> None:
        self._callbacks: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._ended: list[outcome.Outcome[None]] = []
        self._started: list[tuple[trio.lowlevel.TrioToken, trio.Nursery]] = []
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._callbacks.put,
            done_callback=self._ended.append,
            host_uses_signal_set_wakeup_fd=True,
            clock=clock,
        )
        self._pump(self._started)
        ((self._token, self._nursery),) = self._started

    def run(self, function: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
        """Run an async function to its end; raises what it raises."""
        results: list[outcome.Outcome[_T]] = []

        async def job() -> None:
            results.append(await outcome.acapture(function, *arguments))

        self._token.run_sync_soon(self._nursery.start_soon, job)
        self._pump(results)
        return results[0].unwrap()

    def start(self, function: Callable[..., Awaitable[object]]) -> tuple[Any, Callable[[], None]]:
        """Start a task; return what it started with, and what ends it."""
        scope, ended = trio.CancelScope(), trio.Event()

        async def task(task_status: trio.TaskStatus[Any]) -> None:
            try:
                with scope:
                    await function(task_status=task_status)
            finally:
                ended.set()

        async def end() -> None:
            scope.cancel()
            await ended.wait()

        return self.run(self._nursery.start, task), partial(self.run, end)

    def close(self) -> None:
        """Cancel everything; raises what the run raised."""
        if not self._ended:
            self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
            self._pump(self._ended)
        self._ended[0].unwrap()

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._started.append((trio.lowlevel.current_trio_token(), nursery))
            await trio.sleep_forever()

    def _pump(self, until: list[Any]) -> None:
        while not until:
            if self._ended:
                self._ended[0].unwrap()
            self._callbacks.get(timeout=_PATIENCE)()


@attrs.define
class _Kept:
    topic: str
    position: Position
    payload: bytes
    key: str | None
    at: float


class BrokerMachine(RuleBasedStateMachine):
    """A state machine to subclass: say how the broker is opened, and run its ``TestCase``.

    Attributes:
        durable: whether a broker that is opened again has what was acknowledged before. Where it
            hasn't, every topic with a history must come back under an epoch it never had.
    """

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock()
        self._guest = _Guest(self._clock)
        self._kept: list[_Kept] = []
        self._latest: dict[str, Position] = {}
        self._epochs: set[tuple[str, str]] = set()
        self._old: list[Position] = [Position("none", 1)]
        self._cursors: dict[tuple[str, str], int] = {}
        self._feeds: dict[str, int] = {}
        self._delivered: list[Publication] = []
        self._expected: list[tuple[str, Position, bytes]] = []
        self._stop_stream: Callable[[], None] | None = None

    @abstractmethod
    def open(
        self, retention: Retention, clock: Callable[[], float]
    ) -> AbstractAsyncContextManager[Broker]:
        """Return a broker for as long as the ``async with`` lasts; called again after a crash.

        Args:
            retention: what it is to keep of each topic, exactly.
            clock: the time by which publications age, in seconds, equal to
                ``trio.current_time()``; goes on over a crash.
        """

    def crash(self) -> None:
        """Called while the broker is open, before it is cancelled and opened again.

        Where a broker has a way to end without knowing (its files copied away, its process
        killed), do it here, and let ``open`` return the one that comes after.
        """

    @initialize(count=st.integers(1, 4), size=st.integers(1, 12), age=st.integers(1, 20))
    def begin(self, count: int, size: int, age: int) -> None:
        """Open a store with small bounds."""
        self._retention = Retention(max_publications=count, max_bytes=size, max_age=age)
        self._open()
        self._latest = {name: self._position(name) for name in _TOPICS}

    @rule(topic=_topics, payload=_payloads, key=_keys)
    def publish(self, topic: str, payload: bytes, key: str | None) -> None:
        """Offsets rise by one; a key that is kept stores nothing and gives the first position."""
        position = self._guest.run(partial(self._broker.publish, topic, payload, key=key))
        self._published(topic, position, payload, key)

    @rule(topic=_topics, payloads=st.lists(_payloads, min_size=2, max_size=5), key=_keys)
    def publish_at_once(self, topic: str, payloads: list[bytes], key: str | None) -> None:
        """Tasks that publish at one moment get the offsets in some order; a key, one."""
        positions: dict[int, Position] = {}

        async def publish(number: int) -> None:
            positions[number] = await self._broker.publish(topic, payloads[number], key=key)

        async def publish_all() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(len(payloads)):
                    nursery.start_soon(publish, number)

        self._guest.run(publish_all)
        if key is None:
            for number in sorted(positions, key=lambda number: positions[number].offset):
                self._published(topic, positions[number], payloads[number], None)
            return
        # Which of them was the first, its payload says.
        assert len(set(positions.values())) == 1
        position = positions[0]
        page = self._page(topic, limit=self._retention.max_publications)
        stored = [p.payload for p in page.publications if p.position == position]
        assert stored
        assert stored[0] in [*payloads, *(k.payload for k in self._of(topic))]
        self._published(topic, position, stored[0], key)

    @rule(topic=_topics, payload=_payloads, key=_keys)
    def publish_and_be_cancelled(self, topic: str, payload: bytes, key: str | None) -> None:
        """A publication that was cancelled is stored and delivered, or neither."""

        async def publish() -> Position | None:
            position = None
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_soon, scope)
                    position = await self._broker.publish(topic, payload, key=key)
            return position

        position = self._guest.run(publish)
        # What comes after it on the same way has waited for its end.
        self._guest.run(self._broker.advance, topic, _READERS[0], 0)
        if position is None:
            latest = self._position(topic)
            if latest == self._latest[topic]:
                return
            position = latest
        self._published(topic, position, payload, key)

    @rule(topic=_topics, back=st.integers(-1, 6), limit=st.integers(0, 5))
    def read_since(self, topic: str, back: int, limit: int) -> None:
        """A page since a position has exactly what is missing, or says that it hasn't."""
        latest = self._latest[topic]
        self._check_since(topic, Position(latest.epoch, latest.offset - back), limit)

    @rule(topic=_topics, data=st.data(), limit=st.integers(0, 5))
    def read_since_another_epoch(self, topic: str, data: st.DataObject, limit: int) -> None:
        """A position of another epoch recovers nothing."""
        since = data.draw(st.sampled_from(self._old))
        if since.epoch != self._latest[topic].epoch:
            self._check_since(topic, since, limit)

    @rule(topic=_topics, before=st.none() | st.integers(-1, 30), limit=st.integers(0, 5))
    def read_before(self, topic: str, before: int | None, limit: int) -> None:
        """A page before an offset has the newest below it, without a hole."""
        page = self._page(topic, before=before, limit=limit)
        kept = self._of(topic)
        older = [k for k in kept if before is None or k.position.offset < before]
        expected = older[max(0, len(older) - limit) :]
        assert [(k.topic, k.position, k.payload) for k in expected] == [
            (p.topic, p.position, p.payload) for p in page.publications
        ]
        assert page.recovered
        assert (len(older) > len(expected)) == page.more
        if kept:
            assert kept[0].position.offset == page.first
        elif page.position.offset:
            assert page.position.offset + 1 == page.first

    @rule(topic=_topics, reader=st.sampled_from(_READERS), offset=st.integers(-1, 30))
    def advance(self, topic: str, reader: str, offset: int) -> None:
        """A cursor moves forward only, and not beyond the latest."""
        before = self._cursors.get((topic, reader), 0)
        now = max(before, min(offset, self._latest[topic].offset))
        self._cursors[topic, reader] = now
        assert now == self._guest.run(self._broker.advance, topic, reader, offset)
        assert now == self._guest.run(self._broker.cursor, topic, reader)

    @rule(topic=_topics, reader=st.sampled_from(_READERS))
    def look_at_cursor(self, topic: str, reader: str) -> None:
        """A cursor is where it was moved to."""
        expected = self._cursors.get((topic, reader), 0)
        assert expected == self._guest.run(self._broker.cursor, topic, reader)

    @rule(topic=_topics)
    def subscribe(self, topic: str) -> None:
        """From here on, everything is delivered; again makes no difference."""
        self._guest.run(self._broker.subscribe, topic)
        self._feeds.setdefault(topic, self._latest[topic].offset)

    @precondition(lambda self: self._feeds)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        """From here on, nothing is delivered."""
        topic = data.draw(st.sampled_from(sorted(self._feeds)))
        self._guest.run(self._broker.unsubscribe, topic)
        del self._feeds[topic]

    @rule()
    def start_or_stop_the_stream(self) -> None:
        """What was published while nobody listened is delivered when somebody does."""
        if self._stop_stream is None:
            _, self._stop_stream = self._guest.start(
                partial(self._broker.run, self._delivered.append)
            )
        else:
            self._stop_stream()
            self._stop_stream = None
        self._deliver()

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        """Publications past their age are gone."""
        self._clock.now += seconds
        self._guest.run(trio.lowlevel.checkpoint)

    @rule()
    def crash_and_reopen(self) -> None:
        """What was acknowledged is there if the broker is durable; else the epochs are new."""
        self.crash()
        self._close()
        self._open()
        self._feeds.clear()
        for topic, before in self._latest.items():
            now = self._position(topic)
            if self.durable:
                assert before == now
                continue
            assert now.offset == 0
            if before.offset:
                assert (topic, now.epoch) not in self._epochs
                self._old.append(before)
            self._latest[topic] = now
        if not self.durable:
            self._kept.clear()
            self._cursors.clear()

    @invariant()
    def delivered_once_in_order(self) -> None:
        """Each topic's publications were delivered once, in the order of their offsets."""
        self._guest.run(self._wait_for_deliveries)
        for topic in _TOPICS:
            expected = [entry[1:] for entry in self._expected if entry[0] == topic]
            found = [(p.position, p.payload) for p in self._delivered if p.topic == topic]
            assert expected == found

    def teardown(self) -> None:
        """Close the broker and end the run."""
        self._guest.close()

    def _open(self) -> None:
        async def host(task_status: trio.TaskStatus[Broker]) -> None:
            async with self.open(self._retention, self._clock.current_time) as broker:
                task_status.started(broker)
                await trio.sleep_forever()

        broker, self._end = self._guest.start(host)
        self._broker: Broker = broker

    def _close(self) -> None:
        if self._stop_stream is not None:
            self._stop_stream()
            self._stop_stream = None
        self._end()

    def _page(self, topic: str, **arguments: Any) -> Page:
        return self._guest.run(partial(self._broker.history, topic, **arguments))

    def _position(self, topic: str) -> Position:
        return self._page(topic, limit=0).position

    def _of(self, topic: str) -> list[_Kept]:
        horizon = self._clock.now - self._retention.max_age
        self._kept = [kept for kept in self._kept if kept.at > horizon]
        return [kept for kept in self._kept if kept.topic == topic]

    def _published(self, topic: str, position: Position, payload: bytes, key: str | None) -> None:
        repeated = [kept for kept in self._of(topic) if key is not None and kept.key == key]
        if repeated:
            assert repeated[0].position == position
            return
        before = self._latest[topic]
        assert Position(before.epoch, before.offset + 1) == position
        self._latest[topic] = position
        self._epochs.add((topic, position.epoch))
        self._kept.append(_Kept(topic, position, payload, key, self._clock.now))
        if self._stop_stream is not None and topic in self._feeds:
            self._feeds[topic] = position.offset
            self._expected.append((topic, position, payload))
        while len(mine := self._of(topic)) > 1 and (
            len(mine) > self._retention.max_publications
            or sum(len(kept.payload) for kept in mine) > self._retention.max_bytes
        ):
            self._kept.remove(mine[0])

    def _deliver(self) -> None:
        """Expect what the stream has to catch up with."""
        if self._stop_stream is None:
            return
        for topic, offset in self._feeds.items():
            for kept in self._of(topic):
                if kept.position.offset > offset:
                    self._expected.append((topic, kept.position, kept.payload))
                    self._feeds[topic] = kept.position.offset

    def _check_since(self, topic: str, since: Position, limit: int) -> None:
        page = self._page(topic, since=since, limit=limit)
        latest = self._latest[topic]
        kept = [entry.position for entry in self._of(topic)]
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

    async def _wait_for_deliveries(self) -> None:
        patience = time.monotonic() + _PATIENCE
        while len(self._delivered) < len(self._expected) and time.monotonic() < patience:
            await trio.to_thread.run_sync(time.sleep, 0.001)


async def _cancel_soon(scope: trio.CancelScope) -> None:
    await trio.lowlevel.checkpoint()
    scope.cancel()
