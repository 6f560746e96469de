"""The client's room: nothing lost, nothing twice, in order, whatever breaks."""

import math
from contextlib import AbstractAsyncContextManager
from typing import Any, Unpack

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.client.site import SETTINGS, URL, Line, Site, open_site, run
from tests.hub.fakes import no_pause
from trio_gateway.client import (
    ClientClosed,
    ClientOptions,
    ClientSettings,
    Closed,
    CommandRefused,
    Gap,
    Live,
    Message,
    NotAcknowledged,
    Room,
    State,
    Waiting,
    connect_chat,
)
from trio_gateway.hub.positions import Position

FAULTS = [
    Site.reset,
    Site.silence,
    Site.lose_acks,
    Site.restart,
    Site.drain,
    Site.busy,
    Site.garbage,
]


def chat(
    site: Site, user: str = "ann", **options: Unpack[ClientOptions]
) -> AbstractAsyncContextManager[Room]:
    defaults = ClientOptions(connect=site.connect, settings=SETTINGS)
    return connect_chat(URL, room="r", user=user, **(defaults | options))


async def take(room: Room, count: int) -> list[Message]:
    """Return the next messages; there is no gap among them."""
    taken: list[Message] = []
    while len(taken) < count:
        item = await room.__anext__()
        assert isinstance(item, Message), item
        taken.append(item)
    return taken


async def test_it_publishes_and_receives(autojump_clock: trio.testing.MockClock) -> None:
    """A position once it is stored, and everybody's messages with theirs."""
    states: list[State] = []
    async with open_site() as site:
        async with chat(site, on_state=states.append) as room:
            position = await room.publish("hello")
            assert 1 == position.offset
            assert "ann" == room.user
            await site.chat.publish(room="r", user="bob", text="hi")
            first, second = await take(room, 2)
            assert ("ann", "hello", position) == (first.user, first.text, first.position)
            assert ("bob", "hi") == (second.user, second.text)
            assert second.position == room.position
        assert isinstance(states[1], Live)
        assert Closed(None) == states[-1]
        with pytest.raises(ClientClosed):
            await room.publish("too late")
        with pytest.raises(ClientClosed):
            await room.__anext__()


@given(
    st.lists(st.tuples(st.floats(0, 40), st.sampled_from([*FAULTS, Site.leave_out])), max_size=6),
    st.floats(0, 3),
    st.integers(1, 8),
)
def test_breaks_lose_nothing(
    breaks: list[tuple[float, Any]], slowness: float, max_queued: int
) -> None:
    """Any schedule of breaks: each message once, in order, and each acknowledged one is stored."""

    async def scenario() -> None:
        settings = ClientSettings(max_queued=max_queued, publish_timeout=math.inf)
        acknowledged: dict[str, int] = {}
        async with open_site(max_page=5, lossy=True) as site, trio.open_nursery() as nursery:

            async def publish(user: str, count: int) -> None:
                async with chat(site, user, settings=settings) as room:
                    for number in range(count):
                        text = f"{user} {number}"
                        acknowledged[text] = (await room.publish(text)).offset
                        await trio.sleep(1.5)

            async def disturb() -> None:
                for pause, fault in breaks:
                    await trio.sleep(pause)
                    await fault(site)

            received: list[Message] = []
            async with chat(site, "reader", settings=settings) as reader:
                await reader.wait_live()
                nursery.start_soon(publish, "ann", 20)
                nursery.start_soon(publish, "bob", 20)
                nursery.start_soon(disturb)
                while len(received) < 40:
                    received += await take(reader, 1)
                    await trio.sleep(slowness)
            offsets = [message.position.offset for message in received]
            assert list(range(1, 41)) == offsets
            for user in ("ann", "bob"):
                said = [m.text for m in received if m.user == user]
                assert [f"{user} {number}" for number in range(20)] == said
            await trio.sleep(200)
            assert {m.text: m.position.offset for m in received} == acknowledged
            page = await site.broker.history("chat:r", limit=1000)
            assert 40 == len(page.publications)
            nursery.cancel_scope.cancel()

    run(scenario)


async def test_a_slow_consumer_may_publish(autojump_clock: trio.testing.MockClock) -> None:
    """Its queue is full and stays so, and its publications are still acknowledged."""
    async with open_site(max_page=10) as site, chat(site) as room:
        await room.wait_live()
        for number in range(500):
            await site.chat.publish(room="r", user="bob", text=str(number))
        assert 501 == (await room.publish("mine")).offset
        assert [*map(str, range(500)), "mine"] == [m.text for m in await take(room, 501)]
        assert 1 == len(site.lines)  # no reconnect was needed


async def test_what_is_trimmed_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """What the server no longer keeps is a ``Gap`` that says how many; what it keeps comes."""
    async with open_site(kept=700, max_page=10) as site, chat(site) as room:
        await room.publish("first")
        assert ["first"] == [m.text for m in await take(room, 1)]
        await site.stop()
        await site.start()
        for number in range(2, 5002):
            await site.chat.publish(room="r", user="bob", text=str(number))
        gap = await room.__anext__()
        assert isinstance(gap, Gap)
        assert (1, 4301, 4300) == (gap.after.offset, gap.position.offset, gap.lost)
        assert [*map(str, range(4302, 5002))] == [m.text for m in await take(room, 700)]


async def test_a_lost_history_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """A new epoch is a ``Gap`` of unknown size, and then what comes."""
    async with open_site() as site, chat(site) as room:
        await room.publish("old")
        await room.publish("older than the break and not yet taken")
        await take(room, 1)
        assert room.position is not None
        epoch = room.position.epoch
        await site.forget()
        position = await room.publish("new")
        assert epoch != position.epoch
        assert "older than the break and not yet taken" == (await take(room, 1))[0].text
        gap = await room.__anext__()
        assert isinstance(gap, Gap)
        assert gap.lost is None
        assert (epoch, position.epoch) == (gap.after.epoch, gap.position.epoch)
        assert [position] == [m.position for m in await take(room, 1)]


async def test_a_hole_in_the_stream_is_filled(autojump_clock: trio.testing.MockClock) -> None:
    """What the server itself missed comes in its place, more than a page of it too."""
    async with open_site(lossy=True, max_page=5) as site, chat(site) as room:
        await room.publish("1")
        for first, last in ((2, 5), (6, 40)):
            site.lossy.deaf = True
            for number in range(first, last):
                await site.chat.publish(room="r", user="bob", text=str(number))
            site.lossy.deaf = False
            await site.chat.publish(room="r", user="bob", text=str(last))
            await trio.sleep(1)
        assert [str(n) for n in range(1, 41)] == [m.text for m in await take(room, 40)]
        assert 1 == len(site.lines)


async def test_a_lost_history_is_told_in_mid_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A new epoch is a ``Gap`` without a break, and where a break comes it goes on from there."""
    async with open_site(lossy=True) as site, chat(site) as room:
        await room.wait_live()
        for number in range(3):
            await site.chat.publish(room="r", user="bob", text=str(number))
        await take(room, 2)
        for epoch in ("e2", "e3"):
            site.lossy.lose()
            await room.publish(epoch)
            await site.chat.publish(room="r", user="bob", text=f"more of {epoch}")
            await trio.sleep(1)
            if epoch == "e2":
                await take(room, 1)
            gap = await room.__anext__()
            assert isinstance(gap, Gap)
            assert (Position(epoch, 0), None) == (gap.position, gap.lost)
            said = await take(room, 2)
            assert [epoch, f"more of {epoch}"] == [m.text for m in said]
            assert Position(epoch, 1) == said[0].position
        assert 1 == len(site.lines)
        await site.reset()
        await room.publish("after the break")
        assert ["after the break"] == [m.text for m in await take(room, 1)]
        assert 2 == len(site.lines)


@given(st.integers(0, 60), st.integers(1, 4), st.floats(0, 0.2))
def test_a_lost_history_never_mixes_with_the_next(
    checkpoints: int, max_queued: int, slowness: float
) -> None:
    """Lost while the consumer is behind and reads the old one: nothing of that comes later."""

    async def scenario() -> None:
        settings = ClientSettings(max_queued=max_queued)
        async with (
            open_site(lossy=True, max_page=5) as site,
            chat(site, settings=settings) as room,
        ):
            await room.wait_live()
            for number in range(40):
                await site.chat.publish(room="r", user="bob", text=f"old {number}")
            received: list[Message | Gap] = []

            async def read() -> None:
                async for item in room:
                    received.append(item)
                    await trio.sleep(slowness)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                site.lossy.lose()
                for number in range(10):
                    await site.chat.publish(room="r", user="bob", text=f"new {number}")
                await trio.sleep(60)
                nursery.cancel_scope.cancel()
            (gap,) = [item for item in received if isinstance(item, Gap) and item.lost is None]
            before, after = received[: received.index(gap)], received[received.index(gap) + 1 :]
            said = [item.text for item in before if isinstance(item, Message)]
            assert [f"old {number}" for number in range(len(said))] == said
            said = [item.text for item in after if isinstance(item, Message)]
            assert len(said) == len(after)
            # What was not in the page that came with it belongs to what is lost.
            assert [f"new {number}" for number in range(gap.position.offset, 10)] == said
            assert 1 == len(site.lines)

    run(scenario)


async def test_a_page_of_the_next_history_is_none_of_this(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What is read before the server has noticed the loss itself is not taken for the old."""
    settings = ClientSettings(max_queued=1)
    async with open_site(lossy=True) as site, chat(site, settings=settings) as room:
        await room.wait_live()
        for number in range(20):
            await site.chat.publish(room="r", user="bob", text=f"old {number}")
        assert ["old 0"] == [m.text for m in await take(room, 1)]
        await trio.sleep(1)
        noticed = trio.Event()

        async def notice(step: str) -> None:
            site.lossy.pause = no_pause
            await noticed.wait()

        site.lossy.lose()
        site.lossy.pause = notice
        for number in range(30):
            await site.chat.publish(room="r", user="bob", text=f"new {number}")
        await trio.sleep(1)
        with trio.move_on_after(1):
            while True:
                assert (await take(room, 1))[0].text.startswith("old")
        noticed.set()
        gap = await room.__anext__()
        assert isinstance(gap, Gap)
        assert (Position("e2", 0), None) == (gap.position, gap.lost)
        assert [f"new {number}" for number in range(30)] == [m.text for m in await take(room, 30)]
        assert 1 == len(site.lines)


async def test_a_full_queue_still_hears_of_a_lost_history(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The gap waits in line, two epochs later too, and nothing after it is missed."""
    async with open_site() as site, chat(site) as room:
        await room.wait_live()
        for number in range(30):
            await site.chat.publish(room="r", user="bob", text=str(number))
        await trio.testing.wait_all_tasks_blocked()
        for text in ("between", "after"):
            await site.forget()
            await room.publish(text)
        assert [*map(str, range(8))] == [m.text for m in await take(room, 8)]
        gap = await room.__anext__()
        assert isinstance(gap, Gap)
        assert (8, None) == (gap.after.offset, gap.lost)
        assert ["after"] == [m.text for m in await take(room, 1)]


async def test_it_goes_on_from_a_position(autojump_clock: trio.testing.MockClock) -> None:
    """``since`` is what an earlier run has kept."""
    async with open_site() as site:
        async with chat(site) as room:
            for number in range(20):
                await room.publish(str(number))
            await take(room, 5)
            kept = room.position
        async with chat(site, since=kept) as room:
            assert [*map(str, range(5, 20))] == [m.text for m in await take(room, 15)]


async def test_a_silent_link_is_dead(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing for the heartbeat's interval and the grace: it connects anew."""
    async with open_site() as site, chat(site) as room:
        await room.wait_live()
        await trio.sleep(600)
        assert 1 == len(site.lines)
        await site.silence()
        begin = trio.current_time()
        await room.publish("x")
        assert trio.current_time() - begin <= 25 + 10 + 0.5
        assert 2 == len(site.lines)


async def test_a_server_without_a_heartbeat_is_pinged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """By the client, so that a silent link is found all the same."""
    async with open_site(heartbeat=math.inf) as site, chat(site) as room:
        await room.wait_live()
        await trio.sleep(600)
        assert 1 == len(site.lines)
        await site.silence()
        await trio.sleep(60)
        assert 2 == len(site.lines)
        assert isinstance(room.state, Live)


async def test_a_peer_that_takes_nothing_is_dead(autojump_clock: trio.testing.MockClock) -> None:
    """A send that gets nowhere breaks the link."""

    class Stuck(Line):
        async def send_all(self, data: Any) -> None:
            if site.lines[0] is self and self.silent:
                await trio.sleep_forever()
            await super().send_all(data)

    async with open_site() as site:

        async def connect() -> trio.abc.Stream:
            line = await site.connect()
            assert isinstance(line, Line)
            site.lines[-1] = stuck = Stuck(line.stream)
            return stuck

        async with chat(site, connect=connect) as room:
            await room.wait_live()
            await site.silence()
            await room.publish("x")
            assert 20 <= trio.current_time() <= 20.5


async def test_a_command_is_refused_once(autojump_clock: trio.testing.MockClock) -> None:
    """What the server will never take raises, and the connection stays."""
    async with open_site() as site, chat(site) as room:
        with pytest.raises(CommandRefused) as refused:
            await room.publish("")
        assert ("invalid_field", "text") == (refused.value.code, refused.value.field)
        await room.publish("x")
        assert 1 == len(site.lines)


async def test_a_publication_gives_up_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """With the key that makes another try safe, and what was in the way."""
    async with open_site() as site, chat(site) as room:
        await room.wait_live()
        await site.lose_acks()
        site.answers += [b""] * 100
        with pytest.raises(NotAcknowledged) as given_up:
            await room.publish("x", within=5)
        assert 5 == trio.current_time()
        site.answers.clear()
        key = given_up.value.key
        assert key is not None
        assert [1, 1] == [(await room.publish("x", key=key)).offset for _ in range(2)]


async def test_a_drain_is_obeyed(autojump_clock: trio.testing.MockClock) -> None:
    """1012's ``retry`` is the wait, not one more nor less."""
    waits: list[float] = []

    def note(state: State) -> None:
        if isinstance(state, Waiting):
            waits.append(state.until - trio.current_time())

    async with open_site() as site, chat(site, on_state=note) as room:
        await room.wait_live()
        await site.drain()
        await room.publish("x")
        assert 1 == len(waits)
        assert 1 <= waits[0] <= 2


@given(st.integers(0, 400), st.sampled_from([None, *FAULTS]))
def test_cancelled_anywhere_it_leaves_nothing(steps: int, fault: Any) -> None:
    """Whatever it is doing: no task, no open stream."""

    async def scenario() -> None:
        async with open_site() as site:
            scope = trio.CancelScope()

            class Counter(trio.abc.Instrument):
                left = steps

                def before_task_step(self, task: trio.lowlevel.Task) -> None:
                    self.left -= 1
                    if self.left < 0:
                        scope.cancel()

            counter = Counter()
            with scope:
                trio.lowlevel.add_instrument(counter)
                async with chat(site) as room:
                    await room.publish("a")
                    await take(room, 1)
                    if fault is not None:
                        await fault(site)
                    await room.publish("b")
                    await take(room, 1)
            if counter.left >= 0 or not scope.cancelled_caught:
                scope.cancel()
            trio.lowlevel.remove_instrument(counter)
            assert [] == site.live_lines()
            statistics = trio.lowlevel.current_statistics()
            await trio.testing.wait_all_tasks_blocked()
            assert statistics.tasks_living >= trio.lowlevel.current_statistics().tasks_living

    run(scenario)


async def test_a_link_that_is_silent_from_the_start_is_dead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Also when nothing has come since the welcome, and nothing is asked."""
    async with open_site() as site, chat(site) as room:
        await room.wait_live()
        await site.silence()
        await trio.sleep(25 + 10 + 0.5)
        assert 2 == len(site.lines)
        assert isinstance(room.state, Live)
