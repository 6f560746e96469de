"""Recovery over a store that does its worst: no client is ever missing something unknowingly.

Clients come, are cut and come back with ``since``, on virtual time, while others publish. The store
is slow, fails, trims, loses its history, and its stream lags and leaves out publications; then they
are cut by the hub, or brought back by it. Each client's view is then held against what was
published.
"""

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub.fakes import Recorder
from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.broker import Page, Publication
from trio_gateway.hub.hub import Greet, Hub, HubLimits, Joined, Rejoin, Subscriber
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position

TOPIC = "chat:lobby"
STORMY_SECONDS = 30


@attrs.frozen
class Weather:
    """How bad it gets: seconds of delay, and chances."""

    seed: int
    delay: float
    lag: float
    failing: float
    leaving_out: float
    losing: float
    kept: int
    limit: int
    max_held: int
    share_seconds: float


class WildStore(MemoryBroker):
    """One topic, with everything that was ever published to it: the truth."""

    def __init__(self, weather: Weather) -> None:
        super().__init__()
        self.weather = weather
        self.chance = random.Random(weather.seed)
        self.epoch = 0
        self.truth: dict[str, list[bytes]] = {"e0": []}
        self.subscribed = False
        self.calm = False
        self._send, self._receive = trio.open_memory_channel[Publication](100_000)

    @property
    def position(self) -> Position:
        epoch = f"e{self.epoch}"
        return Position(epoch, len(self.truth[epoch]))

    def lose(self) -> None:
        self.epoch += 1
        self.truth[f"e{self.epoch}"] = []

    async def weathered(self) -> None:
        """Take a while, and fail perhaps."""
        await trio.sleep(0 if self.calm else self.chance.random() * self.weather.delay)
        if not self.calm and self.chance.random() < self.weather.failing:
            raise StoreUnavailable("a storm")

    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        await self.weathered()
        if not self.calm and self.chance.random() < self.weather.losing:
            self.lose()
        self.truth[f"e{self.epoch}"].append(payload)
        position = self.position
        left_out = not self.calm and self.chance.random() < self.weather.leaving_out
        if self.subscribed and not left_out:
            self._send.send_nowait(Publication(TOPIC, position, payload))
        await self.weathered()
        return position

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        await self.weathered()
        position = self.position
        kept = min(self.weather.kept, position.offset)
        behind = -1 if since is None else position.offset - since.offset
        known = since is not None and since.epoch == position.epoch
        recovered = since is None or (known and 0 <= behind <= min(kept, limit))
        count = behind if since is not None and recovered else min(kept, limit)
        offsets = range(position.offset - count + 1, position.offset + 1)
        texts = self.truth[position.epoch]
        publications = tuple(
            Publication(TOPIC, Position(position.epoch, n), texts[n - 1]) for n in offsets
        )
        page = Page(publications, position, recovered, count < kept, position.offset - kept + 1)
        await self.weathered()
        return page

    async def subscribe(self, topic: str) -> None:
        await self.weathered()
        self.subscribed = True
        await self.weathered()

    async def unsubscribe(self, topic: str) -> None:
        await self.weathered()
        self.subscribed = False
        while self._receive.statistics().current_buffer_used:
            self._receive.receive_nowait()
        await self.weathered()

    async def run(
        self,
        deliver: Callable[[Publication], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()
        while True:
            if not self.calm:
                await trio.sleep(self.chance.random() * self.weather.lag)
            publication = await self._receive.receive()
            if self.subscribed:
                deliver(publication)
            # What has gathered may come at once.
            while self.chance.random() < 0.5:
                try:
                    publication = self._receive.receive_nowait()
                except trio.WouldBlock:
                    break
                deliver(publication)


class Client(Recorder):
    """Comes and goes, and keeps what it has seen and been told."""

    def __init__(self, hub: Hub, store: WildStore, number: int) -> None:
        super().__init__()
        self.hub = hub
        self.store = store
        self.user = f"u{number}"
        self.chance = random.Random(f"{store.weather.seed}/{number}")
        self.view: Position | None = None
        self.stale = 0
        self.failed = False

    async def live(self) -> None:
        while not self.store.calm:
            await self.come()
            await trio.sleep(self.chance.random() * 2)
            if self.chance.random() < 0.6:
                self.see()
                await self.hub.leave_all(self)
                self.joined = False
                self.offers.clear()
        while not self.inside:
            await self.come()

    @property
    def inside(self) -> bool:
        self.see()
        return self.view is not None and not self.disconnected and self.joined

    joined = False

    async def come(self) -> None:
        self.see()
        await self.hub.leave_all(self)
        self.joined = False
        self.offers.clear()
        self.disconnected.clear()
        since = self.view

        with trio.move_on_after(0.1 + self.chance.random() * 3):
            try:
                await self.hub.subscribe(
                    TOPIC,
                    self,
                    user=self.user,
                    since=since,
                    limit=self.store.weather.limit,
                    greet=self.greet,
                )
                self.joined = True
            except StoreUnavailable:
                await trio.sleep(self.chance.random())

    def greet(self, joined: Joined) -> list[bytes]:
        """Take note of what is said to be missed, on coming or in the middle of a stay."""
        self.see()
        since, last = self.view, joined.position
        offsets = [p.position.offset for p in joined.publications]
        assert len(offsets) <= self.store.weather.limit
        if since is None or not joined.recovered:
            self.stale += since is not None
            assert offsets == list(range(last.offset - len(offsets) + 1, last.offset + 1))
            self.view = Position(last.epoch, last.offset - len(offsets))
        else:
            assert since.epoch == last.epoch
            assert offsets == list(range(since.offset + 1, last.offset + 1))
        return [words(publication) for publication in joined.publications]

    def see(self) -> None:
        """Take in what was offered: the next each time, and as it was published."""
        for text in self.lines:
            epoch, number, payload = text.split()
            view = self.view
            assert view is not None
            assert Position(epoch, int(number)) == Position(view.epoch, view.offset + 1)
            assert payload.encode() == self.store.truth[epoch][int(number) - 1]
            self.view = Position(epoch, int(number))
        self.offers.clear()


def words(publication: Publication) -> bytes:
    epoch, offset = publication.position.epoch, publication.position.offset
    return f"{epoch} {offset} {publication.payload.decode()}\n".encode()


async def publish(hub: Hub, store: WildStore, number: int) -> None:
    chance = random.Random(f"{store.weather.seed}/p{number}")
    count = 0
    while not store.calm:
        await trio.sleep(chance.random())
        count += 1
        try:
            await hub.publish(TOPIC, f"{number}.{count}".encode())
        except StoreUnavailable:
            pass


@asynccontextmanager
async def greeting(_: str) -> AsyncGenerator[Greet, None]:
    def greet(subscriber: Subscriber, joined: Joined) -> list[bytes]:
        assert isinstance(subscriber, Client)
        subscriber.failed = True  # a hub contains what fails here
        assert subscriber.view is not None
        frames = subscriber.greet(joined)
        subscriber.failed = False
        return frames

    yield greet


async def run(weather: Weather, clients: int, publishers: int, *, staying: bool) -> None:
    store = WildStore(weather)
    limits = HubLimits(
        turn_seconds=0,
        turn_check=1,
        max_held=weather.max_held,
        share_seconds=weather.share_seconds,
    )
    hub = Hub(store, limits=limits)
    rejoin = Rejoin(greeting, limit=weather.limit) if staying else None
    hub.encode_with("chat", words, rejoin=rejoin)
    everybody = [Client(hub, store, number) for number in range(clients)]
    async with trio.open_nursery() as running:
        await running.start(hub.run)
        async with trio.open_nursery() as actors:
            for client in everybody:
                actors.start_soon(client.live)
            for number in range(publishers):
                actors.start_soon(publish, hub, store, number)
            await trio.sleep(STORMY_SECONDS)
            store.calm = True
        # The stream shows its last hole by what comes after it; who misses it comes back.
        await hub.publish(TOPIC, b"last")
        await trio.sleep(10)
        for client in everybody:
            if not client.inside:
                await client.come()
        await trio.sleep(10)
        for client in everybody:
            assert not client.failed
            assert client.inside
            assert client.view == store.position
        assert clients == hub.statistics().subscriptions == hub.members(TOPIC)[0]
        assert 0 == hub.statistics().joining == hub.statistics().failed
        for client in everybody:
            await hub.leave_all(client)
        await trio.sleep(10)
        assert (0, False) == (hub.statistics().topics, store.subscribed)
        running.cancel_scope.cancel()


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Weather,
        seed=st.integers(0, 2**16),
        delay=st.sampled_from([0, 0.2, 2.0]),
        lag=st.sampled_from([0, 0.5, 3.0]),
        failing=st.sampled_from([0, 0.2]),
        leaving_out=st.sampled_from([0, 0.1, 0.3]),
        losing=st.sampled_from([0, 0.05]),
        kept=st.sampled_from([3, 1_000]),
        limit=st.sampled_from([4, 100]),
        max_held=st.sampled_from([1, 3, 1_000]),
        share_seconds=st.sampled_from([0, 1.0, 5.0]),
    ),
    st.integers(1, 6),
    st.integers(1, 3),
    st.booleans(),
)
def test_every_view_is_whole_or_known_to_be_stale(
    weather: Weather, clients: int, publishers: int, staying: bool
) -> None:
    """What a client has is gapless and without a duplicate, or it was told to forget it."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(partial(run, weather, clients, publishers, staying=staying), clock=clock)
