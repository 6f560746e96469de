"""What clients hear when the store's stream has left something out: nobody is disconnected."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.apps.world import NOW_TEXT, Client, World
from tests.hub.fakes import LossyBroker
from trio_gateway.apps.limits import ClientLimits
from trio_gateway.apps.session import SERVER
from trio_gateway.errors import CloseCode
from trio_gateway.hub.hub import Hub
from trio_gateway.settings import Rates


class LossyWorld(World):
    """A world whose store can be made to leave out and to lose."""

    def __init__(self, hub: Hub, store: LossyBroker, nursery: trio.Nursery) -> None:
        super().__init__(hub, store, nursery)
        self.store = store

    async def say(self, *texts: str, room: str = "lobby", deaf: bool = False) -> None:
        """Publish messages, which the stream leaves out if it is deaf."""
        self.store.deaf = deaf
        for text in texts:
            await self.chat.publish(room=room, user="bob", text=text)
        self.store.deaf = False

    async def notify(
        self, *titles: str, to: str = "ann", topic: str | None = None, deaf: bool = False
    ) -> None:
        """The same of notifications."""
        self.store.deaf = deaf
        for title in titles:
            user = to if topic is None else None
            await self.notifications.notify(to=user, topic=topic, title=title)
        self.store.deaf = False


class Steps:
    """Does something the next time that a store comes to a step, and stops there if it is told."""

    def __init__(self) -> None:
        self.then: dict[str, Callable[[], Awaitable[None]]] = {}

    async def __call__(self, step: str) -> None:
        action = self.then.pop(step, None)
        if action is not None:
            await action()


@pytest.fixture
async def steps() -> Steps:
    return Steps()


@pytest.fixture
async def world(nursery: trio.Nursery, steps: Steps) -> LossyWorld:
    store = LossyBroker(steps)
    hub = Hub(store)
    await nursery.start(hub.run)
    return LossyWorld(hub, store, nursery)


def message(offset: int, text: str, room: str = "lobby") -> dict[str, Any]:
    said = {"type": "message", "room": room, "offset": offset, "user": "bob", "text": text}
    return {**said, "time": NOW_TEXT}


def joined(
    epoch: str, offset: int, messages: list[Any], *, recovered: bool, members: int = 1
) -> dict[str, Any]:
    told = {"type": "joined", "room": "lobby", "position": {"epoch": epoch, "offset": offset}}
    return {**told, "members": members, "recovered": recovered, "messages": messages}


def notification(offset: int, title: str, *, read: bool = False, **more: str) -> dict[str, Any]:
    told = {"type": "notification", "offset": offset, "title": title, "body": "", "data": {}}
    return {**told, **more, "time": NOW_TEXT, "read": read}


def short(frames: list[Any]) -> list[Any]:
    """Tell frames by what is different about them."""
    return [frame.get("offset", frame.get("recovered", frame["type"])) for frame in frames]


async def test_a_room_is_joined_again_unasked(world: LossyWorld) -> None:
    """What was missed comes in a ``joined`` without an id, then what is new; the same for all."""
    ann, eve = await world.join("ann"), await world.join("eve")
    await world.say("a")
    await ann.all()
    await world.say("b", "c", deaf=True)
    await world.say("d")
    missed = [message(n, text) for n, text in ((2, "b"), (3, "c"), (4, "d"))]
    assert [joined("e1", 4, missed, recovered=True, members=2)] == await ann.all()
    await world.say("e")
    assert [message(5, "e")] == await ann.all()
    assert [1, True, 5] == short(await eve.all())
    assert None is ann.connection.closed is eve.connection.closed


async def test_a_lost_history_is_told_unasked(world: LossyWorld) -> None:
    """An emptied store: the epoch changes, ``recovered`` is false, and nobody is cut."""
    ann = await world.join("ann")
    await world.say("a")
    await ann.all()
    world.store.lose()
    await world.say("b")
    assert [joined("e2", 1, [message(1, "b")], recovered=False)] == await ann.all()
    assert ["ack", "message"] == sorted(
        frame["type"] for frame in [await ann.ask("message", id=1, text="c"), *await ann.all()]
    )
    assert ann.connection.closed is None


async def test_more_than_fits_is_stale(world: LossyWorld) -> None:
    """What is over a page, in messages or in bytes, is not all: the client is told."""
    ann = await world.join("ann")
    await world.say(*"abcdef", deaf=True)
    await world.say("g")
    newest = [message(offset, text) for offset, text in enumerate("cdefg", 3)]
    assert [joined("e1", 7, newest, recovered=False)] == await ann.all()
    world.chat.settings = attrs.evolve(world.chat.settings, max_page_bytes=200)
    await world.say("h", "i", deaf=True)
    await world.say("j")
    assert [joined("e1", 10, [message(10, "j")], recovered=False)] == await ann.all()


async def test_each_room_by_itself(world: LossyWorld) -> None:
    """One room's gap is nothing to the others, nor to the order of joining."""
    ann = await world.join("ann")
    await ann.ask("join", room="tea")
    await world.say("x", room="tea", deaf=True)
    await world.say("a")
    await world.say("y", room="tea")
    first, second = await ann.all()
    assert (message(1, "a"), "tea", True) == (first, second["room"], second["recovered"])
    await ann.send_text("to the room joined last")
    assert ["tea"] == [frame["room"] for frame in await ann.all()]


async def test_it_is_no_join_of_the_clients(world: LossyWorld) -> None:
    """The limit on joins does not count it."""
    world.chat.limits = ClientLimits(Rates(joins_per_second=0.001, burst_seconds=1000))
    ann = await world.join("ann")
    for _ in range(5):
        await world.say("x", deaf=True)
        await world.say("y")
        assert [True] == short(await ann.all())
    assert "left" == (await ann.ask("leave", room="lobby"))["type"]
    assert "joined" == (await ann.ask("join", room="lobby"))["type"]


async def test_commands_go_on_meanwhile(world: LossyWorld, steps: Steps) -> None:
    """While the history is read: acknowledgements in order, and messages with the ``joined``."""
    ann = await world.join("ann")
    gate = trio.Event()
    await world.say("a", deaf=True)
    steps.then["after history"] = gate.wait
    await world.say("b")
    for id in (1, 2):
        await ann.send("message", id=id, room="lobby", text=f"mine {id}")
    await ann.send("typing", room="lobby")
    await ann.send("members", id=3, room="lobby")
    frames = await ann.all()
    assert [("ack", 1), ("ack", 2), ("members", 3)] == [(f["type"], f["id"]) for f in frames]
    assert ["ann"] == frames[-1]["members"]
    gate.set()
    (again,) = await ann.all()
    assert ["a", "b", "mine 1", "mine 2"] == [m["text"] for m in again["messages"]]


async def test_who_leaves_meanwhile_hears_no_more(world: LossyWorld, steps: Steps) -> None:
    """Behind ``left`` there is nothing of the room; the next ``joined`` answers a command."""
    ann = await world.join("ann")
    gate = trio.Event()
    await world.say("a", deaf=True)
    steps.then["after history"] = gate.wait
    await world.say("b")
    assert "left" == (await ann.ask("leave", id=1, room="lobby"))["type"]
    gate.set()
    assert [] == await ann.all()
    assert 2 == (await ann.ask("join", id=2, room="lobby"))["id"]
    assert [] == await ann.all()


async def test_who_joins_meanwhile_is_answered_once(world: LossyWorld, steps: Steps) -> None:
    """The answer to the command is the only ``joined``."""
    ann = await world.join("ann")
    gate = trio.Event()
    await world.say("a", deaf=True)
    steps.then["after history"] = gate.wait
    await world.say("b")
    await ann.send("join", id=1, room="lobby", since={"epoch": "e1", "offset": 0})
    gate.set()
    (answer,) = await ann.all()
    assert (1, True, 2) == (answer["id"], answer["recovered"], len(answer["messages"]))


async def test_who_ends_meanwhile_leaves_nothing(world: LossyWorld, steps: Steps) -> None:
    """A connection that is closed on the way back is no member and holds no topic."""
    ann = await world.join("ann")
    gate = trio.Event()
    await world.say("a", deaf=True)
    steps.then["after history"] = gate.wait
    await world.say("b")
    ann.connection.end(1012, "retry 1000")
    await trio.testing.wait_all_tasks_blocked()
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert [] == await ann.all()
    assert (0, 0) == (world.hub.statistics().topics, world.hub.statistics().joining)


async def test_presence_is_kept(
    world: LossyWorld, autojump_clock: trio.testing.MockClock, steps: Steps
) -> None:
    """Nobody is told that anybody left, and who asked for presence goes on hearing it."""
    ann = await world.join("ann", presence="1")
    bob = await world.join("bob", presence="1")
    await trio.sleep(5)
    await ann.all()
    await bob.all()
    world.store.lose()
    await world.say("a")
    await trio.sleep(5)
    for one in (ann, bob):
        again, presence = await one.all()
        assert ("joined", 2) == (again["type"], again["members"])
        assert (2, [], [], ["ann", "bob"]) == (
            *(presence["count"], presence["joined"], presence["left"], presence["members"]),
        )
    await world.join("eve")
    await trio.sleep(5)
    assert ["eve"] == (await ann.all())[-1]["joined"]


async def test_a_user_is_welcomed_again(world: LossyWorld) -> None:
    """Each of the user's connections: how many are unread, where it stands, what was missed."""
    ann, twin = await world.listen("ann"), await world.listen("ann")
    await world.notify("a", "b")
    await ann.send("read", offset=1)
    await ann.all()
    await twin.all()
    await world.notify("c", deaf=True)
    await world.notify("d")
    for one in (ann, twin):
        assert [
            {
                "type": "welcome",
                "user": "ann",
                "connection": one.connection.id,
                "unread": 3,
                "position": {"epoch": "e1", "offset": 4},
                "recovered": True,
                "heartbeat": 25,
                "server": SERVER,
            },
            notification(3, "c"),
            notification(4, "d"),
        ] == await one.all()
    await world.notify("e")
    assert [5] == short(await ann.all())
    assert None is ann.connection.closed is twin.connection.closed


async def test_a_user_whose_history_is_lost(world: LossyWorld) -> None:
    """The count begins anew with the epoch, and what there is comes with the welcome."""
    ann = await world.listen("ann")
    await world.notify("a", "b")
    await ann.send("read", offset=2)
    await ann.all()
    world.store.lose()
    await world.notify("c")
    welcome, c = await ann.all()
    assert (False, 1, {"epoch": "e2", "offset": 1}) == (
        *(welcome["recovered"], welcome["unread"], welcome["position"]),
    )
    assert notification(1, "c") == c
    assert {"type": "unread", "id": 1, "count": 0, "offset": 1} == await ann.ask(
        "read", id=1, offset=1
    )


async def test_what_is_read_elsewhere_meanwhile_is_told(world: LossyWorld, steps: Steps) -> None:
    """Read at another node, whose word is lost with all the rest: the count is put right."""
    ann = await world.listen("ann")
    await world.notify("a", "b", deaf=True)
    await ann.all()

    async def read_elsewhere() -> None:
        await world.store.advance("user:ann", "ann", 3)

    steps.then["after history"] = _after(1, "after history", read_elsewhere, steps)
    await world.notify("c")
    welcome, *missed, unread = await ann.all()
    assert (3, [1, 2, 3]) == (welcome["unread"], short(missed))
    assert {"type": "unread", "count": 0, "offset": 3} == unread


def _after(
    times: int, step: str, action: Callable[[], Awaitable[None]], steps: Steps
) -> Callable[[], Awaitable[None]]:
    """Wait for a step to come again."""

    async def again() -> None:
        steps.then[step] = action if times == 1 else _after(times - 1, step, action, steps)

    return again


async def test_a_count_that_cannot_be_checked_is_not_left_standing(
    world: LossyWorld, steps: Steps, autojump_clock: trio.testing.MockClock
) -> None:
    """The store fails in the middle of a welcome: who was told is disconnected and resumes."""
    ann = await world.listen("ann")
    await ann.all()
    await world.notify("a", deaf=True)

    async def fail() -> None:
        world.store.down = True

    steps.then["before cursor"] = _after(1, "before cursor", fail, steps)
    await world.notify("b")
    await trio.sleep(1)
    assert ann.connection.closed is not None
    assert CloseCode.TRY_AGAIN_LATER == ann.connection.closed[0]
    world.store.down = False
    back = await world.listen("ann", since="e1:0")
    assert [True, 1, 2] == short(await back.all())


async def test_a_store_that_is_down_is_waited_for(
    world: LossyWorld, autojump_clock: trio.testing.MockClock
) -> None:
    """Chat and notifications stay connected, obey what they can, and are told in the end."""
    ann, bob = await world.join("ann"), await world.listen("bob")
    await bob.all()
    world.store.lose()
    world.store.down, world.store.available = True, False
    await world.say("a")
    await world.notify("b", to="bob")
    await trio.sleep(300)
    assert "store_unavailable" == (await ann.ask("history", room="lobby"))["code"]
    assert "store_unavailable" == (await bob.ask("list"))["code"]
    world.store.down, world.store.available = False, True
    await trio.sleep(10)
    assert [joined("e2", 1, [message(1, "a")], recovered=False)] == await ann.all()
    assert [False, 1] == short(await bob.all())
    assert None is ann.connection.closed is bob.connection.closed


async def test_a_shared_topic_is_subscribed_again(world: LossyWorld) -> None:
    """With a ``subscribed`` without an id, and what was missed behind it."""
    ann = await world.listen("ann")
    await ann.all()
    await ann.ask("subscribe", id=1, topic="news")
    await world.notify("a", topic="news", deaf=True)
    await world.notify("b", topic="news")
    told = {"type": "subscribed", "topic": "news", "position": {"epoch": "e1", "offset": 2}}
    assert [
        {**told, "recovered": True},
        notification(1, "a", topic="news"),
        notification(2, "b", topic="news"),
    ] == await ann.all()
    world.store.lose()
    await world.notify("c", topic="news")
    told["position"] = {"epoch": "e2", "offset": 1}
    assert [
        {**told, "recovered": False},
        notification(1, "c", topic="news"),
    ] == await ann.all()
    assert "unsubscribed" == (await ann.ask("unsubscribe", topic="news"))["type"]
    await world.notify("d", topic="news")
    assert [] == await ann.all()


async def test_rooms_of_thousands_share_a_frame(
    world: LossyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One frame is made for all of them, and one read."""
    clients: list[Client] = [await world.join(f"user-{n}") for n in range(100)]
    made = 0
    encode = world.chat.encode_missed

    def count(*arguments: Any) -> tuple[bytes, bool]:
        nonlocal made
        made += 1
        return encode(*arguments)

    monkeypatch.setattr(world.chat, "encode_missed", count)
    await world.say("a", deaf=True)
    reads = world.store.reads
    await world.say("b")
    for client in clients:
        assert [True] == short((await client.all())[-1:])
    assert (1, 1) == (made, world.store.reads - reads)
