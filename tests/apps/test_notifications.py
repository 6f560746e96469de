"""Notifications, row by row of the wire page."""

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.apps.world import NOW_TEXT, FakeUpgrade, World
from trio_gateway.apps.identity import Identity
from trio_gateway.apps.notices import address
from trio_gateway.apps.notifications import NotificationApp, NotificationSettings
from trio_gateway.apps.session import SERVER, UpgradeLike
from trio_gateway.errors import StoreUnavailable
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.hub.broker import Retention
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position
from trio_gateway.wire import InvalidField


def note(offset: int, title: str, *, read: bool = False, **fields: Any) -> dict[str, Any]:
    """Return the frame of a notification."""
    return {
        "type": "notification",
        "offset": offset,
        "title": title,
        "body": "",
        "data": {},
        "time": NOW_TEXT,
        "read": read,
        **fields,
    }


async def notify(world: World, *titles: str, to: str = "ann") -> Position:
    """Send notifications and return the position of the last."""
    position = Position("", 0)
    for title in titles:
        position = await world.notifications.notify(to=to, title=title)
    return position


async def down(*_: object, **__: object) -> Any:
    """Stand in for a broker's method while the store is down."""
    await trio.lowlevel.checkpoint()
    raise StoreUnavailable("disk full")


# On connect.


async def test_connecting_gives_a_welcome(world: World) -> None:
    """All fields of the first frame, for a user who never got anything."""
    client = await world.listen("ann")
    epoch = (await world.hub.history("user:ann", limit=0)).position.epoch
    assert await client.all() == [
        {
            "type": "welcome",
            "user": "ann",
            "connection": "c1",
            "unread": 0,
            "position": {"epoch": epoch, "offset": 0},
            "recovered": True,
            "heartbeat": 25,
            "server": SERVER,
        }
    ]


async def test_what_came_while_away_waits(world: World) -> None:
    """It is counted in the welcome, comes only when asked for, and is in the list."""
    latest = await notify(world, "1", "2", "3")
    client = await world.listen("ann")
    (welcome,) = await client.all()
    assert (welcome["unread"], welcome["position"]) == (3, attrs.asdict(latest))
    listed = await client.ask("list")
    assert [n["title"] for n in listed["notifications"]] == ["1", "2", "3"]


async def test_since_gives_what_was_missed_oldest_first(world: World) -> None:
    """The welcome, the missed ones as frames of their own, then the new ones."""
    first = await notify(world, "1")
    await notify(world, "2", "3")
    client = await world.listen("ann", since=str(first))
    await notify(world, "4")
    welcome, *missed = await client.all()
    assert welcome["recovered"] is True
    assert missed == [note(2, "2"), note(3, "3"), note(4, "4")]


async def test_what_is_recovered_says_whether_it_was_read(world: World) -> None:
    """Read on another device while this one was away."""
    first = await notify(world, "1")
    await notify(world, "2", "3")
    await world.hub.advance("user:ann", "ann", 2)
    client = await world.listen("ann", since=str(first))
    welcome, *missed = await client.all()
    assert welcome["unread"] == 1
    assert missed == [note(2, "2", read=True), note(3, "3")]


@pytest.mark.parametrize("count, since", [(3, "gone:1"), (6, None)])
async def test_since_what_is_no_longer_in_hand_is_not_recovered(
    world: World, count: int, since: str | None
) -> None:
    """A lost epoch, or more than one answer may hold: the newest, and ``recovered`` false."""
    before = (await world.hub.history("user:ann", limit=0)).position
    await notify(world, *map(str, range(1, count + 1)))
    client = await world.listen("ann", since=since or str(before))
    welcome, *missed = await client.all()
    assert welcome["recovered"] is False
    assert [n["offset"] for n in missed] == list(range(max(1, count - 4), count + 1))


async def test_a_recovery_too_large_in_bytes_is_cut_and_told(world: World) -> None:
    """The newest that fit, ``recovered`` false."""
    app = world.notifications
    app.settings = attrs.evolve(app.settings, max_page_bytes=1000)
    before = (await world.hub.history("user:ann", limit=0)).position
    for n in range(4):
        await app.notify(to="ann", title=str(n), body="x" * 300)
    client = await world.listen("ann", since=str(before))
    welcome, *missed = await client.all()
    assert welcome["recovered"] is False
    assert [n["offset"] for n in missed] == [3, 4]


async def test_a_malformed_since_is_refused_before_the_upgrade(world: World) -> None:
    """A 400 whose JSON names the parameter."""
    upgrade = await world.upgrade(world.notifications.handle, {"user": "a", "since": "x"})
    assert upgrade.rejected is not None
    status, _, body = upgrade.rejected
    assert (status, body["error"]) == (400, "invalid_field")
    assert body["message"].startswith("the query parameter since ")


async def test_whoever_is_not_authenticated_is_refused(world: World) -> None:
    """The hook's refusal is the answer."""

    async def nobody(upgrade: UpgradeLike) -> Identity | Refusal:
        return Refusal(401, "unauthorized", "no")

    app = NotificationApp(Hub(MemoryBroker()), authenticate=nobody)
    upgrade = await world.upgrade(app.handle, {})
    assert upgrade.rejected is not None
    assert upgrade.rejected[0] == 401


async def test_read_elsewhere_while_connecting_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read between the welcome's count and the subscription is not lost on this connection."""
    await notify(world, "1", "2")
    subscribe = world.broker.subscribe

    async def late(topic: str) -> None:
        await world.hub.advance("user:ann", "ann", 2)
        await subscribe(topic)

    monkeypatch.setattr(world.broker, "subscribe", late)
    client = await world.listen("ann")
    welcome, told = await client.all()
    assert welcome["unread"] == 2
    assert told == {"type": "unread", "count": 0, "offset": 2}


async def test_without_the_store_the_connection_is_closed_to_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error frame, then 1013: reconnect with backoff and resume."""
    monkeypatch.setattr(world.broker, "history", down)
    client = await world.listen("ann")
    (error,) = await client.all()
    assert (error["type"], error["code"]) == ("error", "store_unavailable")
    assert client.connection.closed == (1013, "store unavailable")
    assert world.ended == ["c1"]


# notification


async def test_a_notification_reaches_each_of_its_users_connections(world: World) -> None:
    """All fields; and nobody else's connections."""
    phone, laptop, bob = (
        await world.listen("ann"),
        await world.listen("ann"),
        await world.listen("bob"),
    )
    for client in (phone, laptop, bob):
        await client.receive()
    await world.notifications.notify(
        to="ann", title="Hi <b>", body='"there"', data={"n": [1, None]}, key="k"
    )
    expected = note(1, "Hi <b>", body='"there"', data={"n": [1, None]})
    assert await phone.all() == [expected]
    assert await laptop.all() == [expected]
    assert await bob.all() == []


async def test_a_key_makes_a_retry_safe(world: World) -> None:
    """Stored and delivered once; the same position both times; another user's key is another."""
    client = await world.listen("ann")
    await client.receive()
    first = await world.notifications.notify(to="ann", title="1", key="k")
    assert first == await world.notifications.notify(to="ann", title="1", key="k")
    assert len(await client.all()) == 1
    await world.notifications.notify(to="bob", title="1", key="k")
    assert (await world.hub.history("user:bob", limit=0)).position.offset == 1


# read


async def test_read_tells_each_of_the_users_connections_the_count(world: World) -> None:
    """All up to the offset are read; the count is what is left."""
    await notify(world, "1", "2", "3")
    phone, laptop, bob = (
        await world.listen("ann"),
        await world.listen("ann"),
        await world.listen("bob"),
    )
    for client in (phone, laptop, bob):
        await client.receive()
    await phone.send("read", offset=2)
    assert await phone.all() == [{"type": "unread", "count": 1, "offset": 2}]
    assert await laptop.all() == [{"type": "unread", "count": 1, "offset": 2}]
    assert await bob.all() == []
    await phone.send("read", offset=3, id=9)
    assert await phone.all() == [{"type": "unread", "id": 9, "count": 0, "offset": 3}]
    assert await laptop.all() == [{"type": "unread", "count": 0, "offset": 3}]


async def test_what_was_read_stays_read(world: World) -> None:
    """A smaller offset changes nothing."""
    await notify(world, "1", "2", "3")
    client = await world.listen("ann")
    await client.receive()
    assert (await client.ask("read", offset=3))["count"] == 0
    assert await client.ask("read", offset=1) == {"type": "unread", "count": 0, "offset": 3}


async def test_nothing_is_read_before_it_is_there(world: World) -> None:
    """An offset beyond the latest means the latest: the next one arrives unread."""
    await notify(world, "1")
    client = await world.listen("ann")
    await client.receive()
    assert await client.ask("read", offset=1000) == {"type": "unread", "count": 0, "offset": 1}
    await notify(world, "2")
    assert await client.receive() == note(2, "2")
    assert (await client.ask("list"))["notifications"][1]["read"] is False


async def test_unread_survives_the_connection(world: World) -> None:
    """The next welcome counts from the cursor."""
    await notify(world, "1", "2", "3")
    client = await world.listen("ann")
    await client.receive()
    await client.ask("read", offset=1)
    client.connection.end()
    assert (await (await world.listen("ann")).receive())["unread"] == 2


async def test_what_was_trimmed_is_not_unread(nursery: trio.Nursery) -> None:
    """Counted is what is kept and was not read: in the welcome, and when some are read."""
    broker = MemoryBroker(retention=Retention(max_publications=5))
    hub = Hub(broker)
    await nursery.start(hub.run)
    world = World(hub, broker, nursery)
    await notify(world, *map(str, range(8)))
    phone = await world.listen("ann")
    assert (await phone.receive())["unread"] == 5
    await notify(world, "8", "9")
    laptop = await world.listen("ann")
    assert (await laptop.receive())["unread"] == 5
    await phone.all()
    assert await phone.ask("read", offset=2) == {"type": "unread", "count": 5, "offset": 2}
    assert await phone.ask("read", offset=8) == {"type": "unread", "count": 2, "offset": 8}
    assert [frame["count"] for frame in await laptop.all()] == [5, 2]


async def test_what_is_trimmed_while_connecting_is_told(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The welcome may count what just went: the next frame puts it right."""
    broker = MemoryBroker(retention=Retention(max_publications=2))
    hub = Hub(broker)
    await nursery.start(hub.run)
    world = World(hub, broker, nursery)
    await notify(world, "1", "2")
    subscribe = broker.subscribe

    async def late(topic: str) -> None:
        await subscribe(topic)
        await notify(world, "3")

    monkeypatch.setattr(broker, "subscribe", late)
    welcome, told = await (await world.listen("ann")).all()
    assert welcome["unread"] == 3
    assert told == {"type": "unread", "count": 2, "offset": 0}


# list


async def test_list_pages_back_with_read_flags(world: World) -> None:
    """Each page oldest first, ``more`` until the beginning."""
    await notify(world, *"1234567")
    client = await world.listen("ann")
    await client.receive()
    await client.ask("read", offset=6)
    assert await client.ask("list", id="l", limit=2) == {
        "type": "list",
        "id": "l",
        "notifications": [note(6, "6", read=True), note(7, "7")],
        "more": True,
    }
    page = await client.ask("list", before=6, limit=1000)
    assert [n["offset"] for n in page["notifications"]] == [1, 2, 3, 4, 5]
    assert page["more"] is False


async def test_a_list_cut_in_bytes_says_that_there_is_more(world: World) -> None:
    """One is always given."""
    app = world.notifications
    app.settings = attrs.evolve(app.settings, max_page_bytes=1)
    await notify(world, "1", "2")
    client = await world.listen("ann")
    await client.receive()
    page = await client.ask("list")
    assert ([n["offset"] for n in page["notifications"]], page["more"]) == ([2], True)


# subscribe, unsubscribe


async def test_a_shared_topic_is_received_besides_the_users_own(world: World) -> None:
    """Its notifications say which topic they are of, since offsets are each stream's own."""
    client = await world.listen("ann")
    await client.receive()
    answer = await client.ask("subscribe", topic="news", id=1)
    epoch = answer["position"]["epoch"]
    assert answer == {
        "type": "subscribed",
        "id": 1,
        "topic": "news",
        "position": {"epoch": epoch, "offset": 0},
        "recovered": True,
    }
    await world.notifications.notify(topic="news", title="shared")
    await notify(world, "own")
    assert sorted(await client.all(), key=lambda n: "topic" not in n) == [
        note(1, "shared", topic="news"),
        note(1, "own"),
    ]


async def test_a_shared_topic_recovers_too(world: World) -> None:
    """``subscribed``, what ``since`` missed, then what is new."""
    first = await world.notifications.notify(topic="news", title="1")
    await world.notifications.notify(topic="news", title="2")
    client = await world.listen("ann")
    await client.receive()
    await client.send("subscribe", topic="news", since=attrs.asdict(first))
    await world.notifications.notify(topic="news", title="3")
    answer, *notes = await client.all()
    assert (answer["recovered"], answer["position"]["offset"]) == (True, 2)
    assert notes == [note(2, "2", topic="news"), note(3, "3", topic="news")]


async def test_unsubscribe_ends_a_shared_topic(world: World) -> None:
    """Answered with ``unsubscribed``, also when there was nothing to end."""
    client = await world.listen("ann")
    await client.receive()
    await client.ask("subscribe", topic="news")
    expected = {"type": "unsubscribed", "id": 2, "topic": "news"}
    assert expected == await client.ask("unsubscribe", topic="news", id=2)
    assert expected == await client.ask("unsubscribe", topic="news", id=2)
    await world.notifications.notify(topic="news", title="gone?")
    assert await client.all() == []


async def test_the_users_own_stream_cannot_be_had_by_another_name(world: World) -> None:
    """``subscribe`` reaches shared topics only: "user:bob" is the topic of that name."""
    client = await world.listen("ann")
    await client.receive()
    await client.ask("subscribe", topic="user:bob")
    await client.ask("subscribe", topic="bob")
    await notify(world, "secret", to="bob")
    assert await client.all() == []


async def test_only_so_many_topics_can_be_subscribed(world: World) -> None:
    """The third of two is an error; subscribing again is not, and delivers once."""
    client = await world.listen("ann")
    await client.receive()
    for topic in ("a", "b", "b"):
        assert (await client.ask("subscribe", topic=topic))["type"] == "subscribed"
    error = await client.ask("subscribe", topic="c", id=3)
    assert (error["type"], error["id"], error["code"]) == ("error", 3, "too_many_topics")
    await world.notifications.notify(topic="b", title="once")
    assert await client.all() == [note(1, "once", topic="b")]


# Anything else.


@pytest.mark.parametrize(
    "text, code",
    [
        ("hello", "bad_json"),
        ("[1]", "not_an_object"),
        ('{"type":"message","text":"hi"}', "unknown_type"),
        ('{"type":"read"}', "invalid_field"),
        (b"\x00", "unsupported"),
    ],
)
async def test_anything_else_gets_an_error_and_the_connection_stays(
    world: World, text: str | bytes, code: str
) -> None:
    """As in the chat."""
    client = await world.listen("ann")
    await client.receive()
    await client.send_text(text)
    error = await client.receive()
    assert (error["type"], error["code"]) == ("error", code)
    assert (await client.ask("list"))["type"] == "list"


@pytest.mark.parametrize("command", [{"type": "read", "offset": 1}, {"type": "list"}])
async def test_a_store_that_is_down_is_an_error_and_no_end(
    world: World, monkeypatch: pytest.MonkeyPatch, command: dict[str, Any]
) -> None:
    """Code ``store_unavailable``; afterwards all works again."""
    await notify(world, "1")
    client = await world.listen("ann")
    await client.receive()
    with monkeypatch.context() as patch:
        for name in ("history", "advance"):
            patch.setattr(world.broker, name, down)
        assert (await client.ask(**command, id=1))["code"] == "store_unavailable"
    assert (await client.ask(**command))["type"] in ("unread", "list")


# The end.


async def test_the_end_of_a_connection_unsubscribes_it(world: World) -> None:
    """Nothing is left in the hub, whether the peer closed or a reply found the end."""
    phone, laptop = await world.listen("ann"), await world.listen("ann")
    await phone.ask("subscribe", topic="news")
    phone.connection.end()
    laptop.connection.closed = (1006, None)
    await laptop.send("list")
    assert sorted(world.ended) == ["c1", "c2"]
    assert world.hub.statistics().subscriptions == 0


async def test_a_cancelled_handler_unsubscribes(world: World) -> None:
    """Cancellation is an end too."""
    upgrade = FakeUpgrade("x", {"user": "ann"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.notifications.handle, upgrade)
        await trio.testing.wait_all_tasks_blocked()
        assert world.hub.statistics().subscriptions == 1
        nursery.cancel_scope.cancel()
    assert world.hub.statistics().subscriptions == 0


# notify


@pytest.mark.parametrize(
    "fields, named",
    [
        ({}, "to"),
        ({"to": "a", "topic": "b"}, "to"),
        ({"to": ""}, "to"),
        ({"to": "x" * 65}, "to"),
        ({"topic": "\x7f"}, "topic"),
        ({"to": "a", "title": ""}, "title"),
        ({"to": "a", "title": "x" * 1025}, "title"),
        ({"to": "a", "body": "x" * 16385}, "body"),
        ({"to": "a", "data": {"x": "y" * 32768}}, "data"),
        ({"to": "a", "data": {"x": object()}}, "data"),
        ({"to": "a", "key": ""}, "key"),
    ],
)
async def test_notify_keeps_the_rules(world: World, fields: dict[str, Any], named: str) -> None:
    """The field is named and nothing is stored."""
    fields.setdefault("title", "t")
    with pytest.raises(InvalidField) as caught:
        await world.notifications.notify(**fields)
    assert named == caught.value.field
    assert world.broker.statistics().topics == 0


def test_a_user_and_a_topic_of_one_name_are_two() -> None:
    """Streams of users and shared topics cannot meet."""
    assert address("news", None) == "user:news"
    assert address(None, "news") == "topic:news"


def test_settings_that_cannot_be_meant_are_refused() -> None:
    """Where they are made, not later."""
    with pytest.raises(ValueError, match="max_topics"):
        NotificationSettings(max_topics=0)
