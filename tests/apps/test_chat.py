"""The chat, row by row of the wire page."""

import json
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.apps.world import NOW_TEXT, Client, FakeUpgrade, World
from trio_gateway.apps.chat import ChatApp, ChatSettings, scoped_key, to_json
from trio_gateway.apps.identity import Identity
from trio_gateway.apps.session import SERVER, UpgradeLike
from trio_gateway.errors import StoreUnavailable
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.hub.broker import Page, Publication
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position
from trio_gateway.wire import InvalidField


def message(offset: int, user: str, text: str, room: str = "lobby") -> dict[str, Any]:
    """Return the frame of a message."""
    return {
        "type": "message",
        "room": room,
        "offset": offset,
        "user": user,
        "text": text,
        "time": NOW_TEXT,
    }


async def position(world: World, room: str = "lobby") -> dict[str, Any]:
    """Return a room's position as JSON has it."""
    return attrs.asdict((await world.hub.history(f"chat:{room}", limit=0)).position)


# Connecting.


async def test_connecting_gives_welcome_and_then_joined(world: World) -> None:
    """The two frames that every chat connection begins with, all fields named."""
    client = await world.connect("ann")
    assert await client.receive() == {
        "type": "welcome",
        "user": "ann",
        "connection": "c1",
        "room": "lobby",
        "heartbeat": 25,
        "server": SERVER,
    }
    assert await client.receive() == {
        "type": "joined",
        "room": "lobby",
        "position": await position(world),
        "members": 1,
        "recovered": True,
        "messages": [],
    }
    assert await client.all() == []


async def test_the_server_names_itself_with_its_version() -> None:
    """``trio-gateway/VERSION``."""
    name, _, version = SERVER.partition("/")
    assert name == "trio-gateway"
    assert version


async def test_the_query_picks_the_first_room(world: World) -> None:
    """``?room=NAME`` is joined instead of the lobby."""
    client = await world.connect("ann", room="tea & cake")
    welcome, joined = await client.all()
    assert welcome["room"] == joined["room"] == "tea & cake"


async def test_the_query_recovers_the_first_room(world: World) -> None:
    """``?since=EPOCH:OFFSET`` gives what came after it."""
    for text in "abc":
        await world.chat.publish(room="lobby", user="bob", text=text)
    epoch = (await position(world))["epoch"]
    client = await world.connect("ann", since=f"{epoch}:1")
    _, joined = await client.all()
    assert joined["recovered"] is True
    assert joined["messages"] == [message(2, "bob", "b"), message(3, "bob", "c")]
    assert joined["position"] == {"epoch": epoch, "offset": 3}


async def test_the_query_asks_for_presence(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """``?presence=true`` is ``"presence": true`` of the first join."""
    ann = await world.connect("ann", presence="true")
    await ann.all()
    await world.connect("bob")
    await trio.sleep(2)
    assert [frame["type"] for frame in await ann.all()] == ["presence"]


@pytest.mark.parametrize(
    "query, named",
    [
        ({"user": ""}, "user"),
        ({"user": "x" * 65}, "user"),
        ({"user": "a\nb"}, "user"),
        ({"user": "ann", "room": ""}, "room"),
        ({"user": "ann", "room": "x" * 129}, "room"),
        ({"user": "ann", "since": "yesterday"}, "since"),
    ],
)
async def test_a_query_that_breaks_a_rule_is_refused_before_the_upgrade(
    world: World, query: dict[str, str], named: str
) -> None:
    """A 400 whose JSON names the parameter; nothing is accepted."""
    upgrade = await world.upgrade(world.chat.handle, query)
    assert upgrade.rejected is not None
    status, headers, body = upgrade.rejected
    assert status == 400
    assert headers == {b"Content-Type": b"application/json"}
    assert body["error"] == "invalid_field"
    assert body["message"].startswith(f"the query parameter {named} ")
    assert world.ended == [upgrade.connection.id]


async def test_whoever_is_not_authenticated_is_refused(world: World) -> None:
    """The refusal of the hook, with its own headers, is what the peer reads."""

    async def nobody(upgrade: UpgradeLike) -> Identity | Refusal:
        return Refusal(401, "unauthorized", "no", (("WWW-Authenticate", "Bearer"),))

    app = ChatApp(Hub(MemoryBroker()), authenticate=nobody)
    upgrade = await world.upgrade(app.handle, {})
    assert upgrade.rejected == (
        401,
        {b"Content-Type": b"application/json", b"WWW-Authenticate": b"Bearer"},
        {"error": "unauthorized", "message": "no"},
    )


async def test_without_a_name_one_is_a_guest(world: World) -> None:
    """The made-up name is told in the welcome and used in messages."""
    upgrade = await world.upgrade(world.chat.handle, {})
    client = Client(upgrade.connection)
    user = (await client.receive())["user"]
    await client.receive()
    await client.send_text("hi")
    assert await client.receive() == message(1, user, "hi")


# join


async def test_join_answers_and_carries_the_id(world: World) -> None:
    """``joined`` of a second room; the first stays."""
    client = await world.join("ann")
    assert await client.ask("join", room="tea", id="j1") == {
        "type": "joined",
        "id": "j1",
        "room": "tea",
        "position": await position(world, "tea"),
        "members": 1,
        "recovered": True,
        "messages": [],
    }
    await world.chat.publish(room="lobby", user="bob", text="still here?")
    assert await client.receive() == message(1, "bob", "still here?")


async def test_join_counts_the_members(world: World) -> None:
    """Users, not connections: two tabs of one user are one member."""
    await world.join("ann")
    await world.join("ann")
    client = await world.connect("bob")
    assert (await client.all())[1]["members"] == 2


async def test_join_since_gives_what_was_missed_then_what_is_new(world: World) -> None:
    """No gap, no duplicate, and ``joined`` before the live messages."""
    client = await world.join("ann")
    await world.chat.publish(room="tea", user="bob", text="1")
    since = await position(world, "tea")
    await world.chat.publish(room="tea", user="bob", text="2")
    await client.send("join", room="tea", since=since)
    await world.chat.publish(room="tea", user="bob", text="3")
    joined, live = await client.all()
    assert joined["recovered"] is True
    assert joined["messages"] == [message(2, "bob", "2", "tea")]
    assert joined["position"] == {**since, "offset": 2}
    assert live == message(3, "bob", "3", "tea")


async def test_join_since_a_lost_position_is_not_recovered(world: World) -> None:
    """Another epoch: the newest page, and ``recovered`` false."""
    client = await world.join("ann")
    await world.chat.publish(room="tea", user="bob", text="1")
    joined = await client.ask("join", room="tea", since={"epoch": "gone", "offset": 1})
    assert joined["recovered"] is False
    assert joined["messages"] == [message(1, "bob", "1", "tea")]


async def test_join_since_too_long_ago_is_not_recovered(world: World) -> None:
    """More was missed than one answer may hold: the newest page, and ``recovered`` false."""
    client = await world.join("ann")
    since = await position(world, "tea")
    for n in range(6):
        await world.chat.publish(room="tea", user="bob", text=str(n))
    joined = await client.ask("join", room="tea", since=since)
    assert joined["recovered"] is False
    assert [m["offset"] for m in joined["messages"]] == [2, 3, 4, 5, 6]


async def test_a_recovery_too_large_in_bytes_is_cut_and_told(world: World) -> None:
    """Few but huge messages must not fill the outbox: the newest that fit, ``recovered`` false."""
    world.chat.settings = attrs.evolve(world.chat.settings, max_page_bytes=1000)
    client = await world.join("ann")
    since = await position(world, "tea")
    for n in range(4):
        await world.chat.publish(room="tea", user="bob", text=str(n) * 300)
    joined = await client.ask("join", room="tea", since=since)
    assert joined["recovered"] is False
    assert [m["offset"] for m in joined["messages"]] == [3, 4]


async def test_joining_again_answers_again_and_delivers_once(world: World) -> None:
    """A client that lost track rejoins with ``since``; it is not subscribed twice."""
    client = await world.join("ann")
    since = await position(world)
    await client.send("message", text="1")
    await client.all()
    joined = await client.ask("join", room="lobby", since=since)
    assert joined["messages"] == [message(1, "ann", "1")]
    assert joined["members"] == 1
    await world.chat.publish(room="lobby", user="bob", text="2")
    assert await client.all() == [message(2, "bob", "2")]


async def test_only_so_many_rooms_can_be_joined(world: World) -> None:
    """The fourth of three is an error; joining one of the three again is not."""
    client = await world.join("ann")
    for room in ("a", "b"):
        assert (await client.ask("join", room=room))["type"] == "joined"
    error = await client.ask("join", room="c", id=1)
    assert (error["type"], error["id"], error["code"]) == ("error", 1, "too_many_rooms")
    assert (await client.ask("join", room="a"))["type"] == "joined"
    assert (await client.ask("leave", room="lobby"))["type"] == "left"
    assert (await client.ask("join", room="c"))["type"] == "joined"


# leave


async def test_leave_answers_and_ends_the_deliveries(world: World) -> None:
    """After ``left``, nothing of the room comes any more."""
    client = await world.join("ann")
    assert await client.ask("leave", room="lobby", id=2) == {
        "type": "left",
        "id": 2,
        "room": "lobby",
    }
    await world.chat.publish(room="lobby", user="bob", text="gone?")
    assert await client.all() == []
    assert world.chat.members("lobby")["count"] == 0


async def test_leaving_a_room_one_is_not_in_is_answered_too(world: World) -> None:
    """A retry of ``leave`` is safe: what was asked for is so."""
    client = await world.join("ann")
    assert await client.ask("leave", room="tea") == {"type": "left", "room": "tea"}


async def test_after_leaving_the_current_room_the_one_before_is_current(world: World) -> None:
    """The last joined of those that remain; with none, an error."""
    client = await world.join("ann")
    await client.ask("join", room="tea")
    await client.ask("leave", room="tea")
    await client.send_text("back")
    assert await client.receive() == message(1, "ann", "back")
    await client.ask("leave", room="lobby")
    await client.send_text("hello?")
    assert (await client.receive())["code"] == "not_joined"


# message


async def test_a_message_goes_to_everyone_in_the_room_the_sender_too(world: World) -> None:
    """One frame each, the same for all, and no ack without an id."""
    ann, bob, eve = await world.join("ann"), await world.join("bob"), await world.join("eve")
    await eve.ask("leave", room="lobby")
    await ann.send("message", room="lobby", text="hi")
    assert await ann.all() == [message(1, "ann", "hi")]
    assert await bob.all() == [message(1, "ann", "hi")]
    assert await eve.all() == []


async def test_a_message_with_an_id_is_acknowledged_to_its_sender(world: World) -> None:
    """The ack carries id, room and offset, and goes to nobody else."""
    ann, bob = await world.join("ann"), await world.join("bob")
    await ann.send("message", text="hi", id=7)
    frames = await ann.all()
    assert {"type": "ack", "id": 7, "room": "lobby", "offset": 1} in frames
    assert message(1, "ann", "hi") in frames
    assert len(frames) == 2
    assert await bob.all() == [message(1, "ann", "hi")]


async def test_the_ack_follows_the_store(
    world: World, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """While the store is busy there is no ack; once the message is in, there is one."""
    publish = world.broker.publish

    async def slowly(topic: str, payload: bytes, *, key: str | None = None) -> Position:
        await trio.sleep(5)
        return await publish(topic, payload, key=key)

    monkeypatch.setattr(world.broker, "publish", slowly)
    client = await world.join("ann")
    await client.send("message", text="hi", id=7)
    assert await client.all() == []
    await trio.sleep(6)
    assert sorted(frame["type"] for frame in await client.all()) == ["ack", "message"]


async def test_a_key_makes_a_retry_safe(world: World) -> None:
    """Stored and delivered once, acknowledged twice with the first offset."""
    client = await world.join("ann")
    await client.send("message", text="hi", key="k", id=1)
    await client.send("message", text="other", id=2)
    await client.send("message", text="hi", key="k", id=3)
    frames = await client.all()
    acks = [(f["id"], f["offset"]) for f in frames if f["type"] == "ack"]
    assert acks == [(1, 1), (2, 2), (3, 1)]
    assert [f["text"] for f in frames if f["type"] == "message"] == ["hi", "other"]


async def test_a_key_is_its_users_and_its_rooms_own(world: World) -> None:
    """The same key of another user, or in another room, is another key."""
    ann, bob = await world.join("ann"), await world.join("bob")
    await ann.send("message", text="a", key="k", id=1)
    await bob.send("message", text="b", key="k", id=1)
    await ann.ask("join", room="tea")
    await ann.send("message", room="tea", text="c", key="k", id=1)
    assert len((await world.chat.history("lobby"))["messages"]) == 2
    assert len((await world.chat.history("tea"))["messages"]) == 1


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_keys_of_different_users_never_meet(a: tuple[str, str], b: tuple[str, str]) -> None:
    """Whatever colons and digits names and keys contain, the pair decides."""
    assert (a == b) == (scoped_key(*a) == scoped_key(*b))


async def test_a_frame_that_is_no_json_object_is_a_message_to_the_current_room(
    world: World,
) -> None:
    """The last joined room is the current one; the text is the frame to the letter."""
    client = await world.join("ann")
    await client.ask("join", room="tea")
    for offset, text in enumerate(("hello", "[1]", '"quoted"', "42", "a {"), 1):
        await client.send_text(text)
        assert await client.receive() == message(offset, "ann", text, "tea")


async def test_joining_again_makes_a_room_the_current_one(world: World) -> None:
    """It is then the last joined."""
    client = await world.join("ann")
    await client.ask("join", room="tea")
    await client.ask("join", room="lobby")
    await client.send("message", text="hi")
    assert await client.receive() == message(1, "ann", "hi", "lobby")


async def test_a_message_to_a_room_not_joined_is_an_error(world: World) -> None:
    """Nothing is stored."""
    client = await world.join("ann")
    error = await client.ask("message", room="tea", text="hi", id=1)
    assert (error["type"], error["id"], error["code"]) == ("error", 1, "not_joined")
    assert (await position(world, "tea"))["offset"] == 0


async def test_text_survives_as_it_was_typed(world: World) -> None:
    """Quotes, markup, controls, emoji and what looks like our own JSON are just text."""
    client = await world.join("ann")
    for text in ('"}],{"type":"x"', "<b>&amp;", "a\x00\n\t", "😀", "\u2028\u202e"):
        await client.send("message", text=text)
        assert (await client.receive())["text"] == text


# history


async def test_history_pages_back(world: World) -> None:
    """The newest page first, each page oldest first, ``more`` until the beginning."""
    client = await world.join("ann")
    for n in range(1, 8):
        await world.chat.publish(room="tea", user="bob", text=str(n))
    first = await client.ask("history", room="tea", limit=3, id=1)
    assert first == {
        "type": "history",
        "id": 1,
        "room": "tea",
        "messages": [message(n, "bob", str(n), "tea") for n in (5, 6, 7)],
        "more": True,
        "position": await position(world, "tea"),
    }
    second = await client.ask("history", room="tea", before=5, limit=4)
    assert [m["offset"] for m in second["messages"]] == [1, 2, 3, 4]
    assert second["more"] is False
    third = await client.ask("history", room="tea", before=1)
    assert (third["messages"], third["more"]) == ([], False)


async def test_a_page_has_a_bound(world: World) -> None:
    """A greedy limit gives one page, not everything."""
    client = await world.join("ann")
    for n in range(7):
        await world.chat.publish(room="lobby", user="bob", text=str(n))
    await client.all()
    page = await client.ask("history", room="lobby", limit=1_000_000)
    assert [m["offset"] for m in page["messages"]] == [3, 4, 5, 6, 7]
    assert page["more"] is True


async def test_a_page_cut_in_bytes_says_that_there_is_more(world: World) -> None:
    """Paging goes on from the oldest message that fitted; one is always given."""
    world.chat.settings = attrs.evolve(world.chat.settings, max_page_bytes=1)
    client = await world.join("ann")
    for n in range(2):
        await world.chat.publish(room="tea", user="bob", text=str(n))
    page = await client.ask("history", room="tea")
    assert [m["offset"] for m in page["messages"]] == [2]
    assert page["more"] is True


async def test_the_history_of_a_room_that_never_was_is_empty(world: World) -> None:
    """Asking creates nothing."""
    client = await world.join("ann")
    page = await client.ask("history", room="nowhere")
    assert (page["messages"], page["more"], page["position"]["offset"]) == ([], False, 0)


# members


async def test_members_are_counted_and_named(world: World) -> None:
    """Each user once."""
    ann = await world.join("ann")
    await world.join("bob")
    await world.join("bob")
    assert await ann.ask("members", room="lobby", id="m") == {
        "type": "members",
        "id": "m",
        "room": "lobby",
        "count": 2,
        "members": ["ann", "bob"],
    }


async def test_names_have_a_cap_and_the_count_has_none(world: World) -> None:
    """The count is exact when the names are not all given."""
    world.chat.settings = attrs.evolve(world.chat.settings, max_members=2)
    ann = await world.join("ann")
    for user in ("bob", "eve", "kim"):
        await world.join(user)
    answer = await ann.ask("members", room="lobby")
    assert (answer["count"], answer["members"]) == (4, ["ann", "bob"])


# typing


async def test_typing_is_told_to_the_others_and_not_stored(world: World) -> None:
    """The sender hears nothing, the history stays empty."""
    ann, bob = await world.join("ann"), await world.join("bob")
    await ann.send("typing", room="lobby", id=1)
    assert await bob.all() == [{"type": "typing", "room": "lobby", "user": "ann"}]
    assert await ann.all() == []
    assert (await position(world))["offset"] == 0


async def test_typing_in_a_room_not_joined_is_an_error(world: World) -> None:
    """And nobody in that room hears of it."""
    ann, bob = await world.join("ann", room="tea"), await world.join("bob")
    assert (await ann.ask("typing", room="lobby"))["code"] == "not_joined"
    assert await bob.all() == []


async def test_a_ping_is_answered(world: World) -> None:
    """For clients that can see no ping of the protocol; nobody else hears of it."""
    ann, bob = await world.join("ann"), await world.join("bob")
    assert {"type": "pong", "id": "alive"} == await ann.ask("ping", id="alive")
    assert [] == await bob.all()


# presence


async def test_presence_tells_who_came_and_went(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """Only who asked is told, once a second, with the net change."""
    ann = await world.connect("ann")
    await ann.all()
    await ann.ask("join", room="lobby", presence=True)
    bob = await world.join("bob")
    await trio.sleep(1.5)
    assert await ann.all() == [
        {"type": "presence", "room": "lobby", "count": 2, "joined": ["bob"], "left": []}
    ]
    bob.connection.end()
    await trio.sleep(1.5)
    assert await ann.all() == [
        {"type": "presence", "room": "lobby", "count": 1, "joined": [], "left": ["bob"]}
    ]
    assert await bob.all() == []


async def test_a_crowd_is_a_number(world: World, autojump_clock: trio.testing.MockClock) -> None:
    """Above 100 members the count stands alone."""
    ann = await world.join("ann", presence="true")
    for n in range(101):
        await world.connect(f"user{n}")
    await trio.sleep(1.5)
    frames = await ann.all()
    assert frames[-1] == {"type": "presence", "room": "lobby", "count": 102}


async def test_rejoining_keeps_the_wish_for_presence_unless_it_says_otherwise(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """``presence`` left out is as it was; false ends it."""
    ann = await world.join("ann", presence="true")
    await ann.ask("join", room="lobby")
    await world.join("bob")
    await trio.sleep(2)
    assert [frame["type"] for frame in await ann.all()] == ["presence"]
    await ann.ask("join", room="lobby", presence=False)
    await world.join("eve")
    await trio.sleep(2)
    assert await ann.all() == []


# Anything malformed.


@pytest.mark.parametrize(
    "text, code",
    [
        ("{", "bad_json"),
        ('{"type":"dance"}', "unknown_type"),
        ("{}", "unknown_type"),
        ('{"type":"join"}', "invalid_field"),
        ("", "invalid_field"),
        ("x" * 65537, "invalid_field"),
    ],
)
async def test_anything_malformed_gets_an_error_and_the_connection_stays(
    world: World, text: str, code: str
) -> None:
    """The next command is obeyed as if nothing had happened."""
    client = await world.join("ann")
    await client.send_text(text)
    error = await client.receive()
    assert (error["type"], error["code"]) == ("error", code)
    assert error["message"]
    assert (await client.ask("members", room="lobby"))["type"] == "members"


async def test_an_error_carries_the_commands_id(world: World) -> None:
    """The client can tell which of its commands it was."""
    client = await world.join("ann")
    error = await client.ask("history", room="lobby", limit="many", id="h")
    assert error == {
        "type": "error",
        "id": "h",
        "code": "invalid_field",
        "message": "limit must be a whole number from 1",
        "field": "limit",
    }


async def test_a_binary_message_is_unsupported_and_the_connection_stays(world: World) -> None:
    """It is an error frame, no close."""
    client = await world.join("ann")
    await client.send_text(b"\x00\xff")
    assert (await client.receive())["code"] == "unsupported"
    await client.send_text("hi")
    assert await client.receive() == message(1, "ann", "hi")


async def test_many_commands_at_once_are_answered_in_order(world: World) -> None:
    """Replies come in the order of the commands."""
    client = await world.join("ann")
    for n in range(50):
        client.connection.to_app.send_nowait(
            json.dumps({"type": "members", "room": "lobby", "id": n})
        )
    assert [frame["id"] for frame in await client.all()] == list(range(50))


# The store.


async def test_a_store_that_is_down_is_an_error_and_no_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code ``store_unavailable`` for what needs the store; afterwards all works again."""
    client = await world.join("ann")

    async def down(*_: object, **__: object) -> Any:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable("disk full")

    with monkeypatch.context() as patch:
        for name in ("publish", "history", "subscribe"):
            patch.setattr(world.broker, name, down)
        for command in (
            {"type": "message", "text": "hi"},
            {"type": "history", "room": "lobby"},
            {"type": "join", "room": "tea"},
        ):
            error = await client.ask(**command, id=1)
            assert (error["type"], error["id"], error["code"]) == ("error", 1, "store_unavailable")
            assert "disk full" not in error["message"]
        late = await world.connect("bob", room="tea")
        welcome, error = await late.all()
        assert (welcome["type"], error["code"]) == ("welcome", "store_unavailable")
    assert (await late.ask("join", room="lobby"))["type"] == "joined"
    await client.send_text("hi")
    assert await client.receive() == message(1, "ann", "hi")


async def test_a_rejoin_that_fails_leaves_the_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told that it is not in any more, and can come back."""
    client = await world.join("ann")

    async def down(*_: object, **__: object) -> Page:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(world.broker, "history", down)
        assert (await client.ask("join", room="lobby"))["code"] == "store_unavailable"
    assert (await client.ask("message", room="lobby", text="hi"))["code"] == "not_joined"
    assert world.chat.members("lobby")["count"] == 0
    assert (await client.ask("join", room="lobby"))["type"] == "joined"


# The end.


async def test_the_end_of_a_connection_leaves_all_rooms(world: World) -> None:
    """Members go down, the handler returns, nothing is left in the hub."""
    client = await world.join("ann")
    await client.ask("join", room="tea")
    client.connection.end()
    await trio.testing.wait_all_tasks_blocked()
    assert world.ended == ["c1"]
    assert world.hub.statistics().subscriptions == 0


async def test_an_end_in_the_middle_of_a_reply_is_an_end_like_any_other(world: World) -> None:
    """ConnectionClosed out of a send does not escape the handler."""
    client = await world.join("ann")
    client.connection.closed = (1006, None)
    await client.send("members", room="lobby")
    assert world.ended == ["c1"]
    assert world.hub.statistics().subscriptions == 0


async def test_a_cancelled_handler_leaves_all_rooms(world: World) -> None:
    """Cancellation is an end too."""
    upgrade = FakeUpgrade("x", {"user": "ann"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat.handle, upgrade)
        await trio.testing.wait_all_tasks_blocked()
        assert world.chat.members("lobby")["count"] == 1
        nursery.cancel_scope.cancel()
    assert world.chat.members("lobby")["count"] == 0


# Publishing from Python and from the HTTP API.


async def test_publish_returns_the_position(world: World) -> None:
    """The epoch and the offset of the stored message."""
    first = await world.chat.publish(room="tea", user="bot", text="1")
    second = await world.chat.publish(room="tea", user="bot", text="2")
    assert attrs.asdict(second) == await position(world, "tea")
    assert (first.epoch, first.offset + 1) == (second.epoch, second.offset)


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"room": ""}, "room"),
        ({"user": "\n"}, "user"),
        ({"text": ""}, "text"),
        ({"text": "é" * 32769}, "text"),
        ({"key": ""}, "key"),
    ],
)
async def test_publish_keeps_the_rules_of_the_wire(
    world: World, fields: dict[str, str], named: str
) -> None:
    """A backend may not store what a client could not have sent."""
    with pytest.raises(InvalidField) as caught:
        await world.chat.publish(**{"room": "a", "user": "b", "text": "c", **fields})
    assert named == caught.value.field


def test_a_frame_is_spliced_from_the_stored_bytes() -> None:
    """Whatever the room's name, the frame is the stored object with three fields in front."""
    stored = b'{"user":"u","text":"t","time":"now"}'
    publication = Publication('chat:a":b\\', Position("e", 3), stored)
    expected = {"type": "message", "room": 'a":b\\', "offset": 3, **json.loads(stored)}
    assert expected == json.loads(to_json(publication))


def test_settings_that_cannot_be_meant_are_refused() -> None:
    """Where they are made, not later."""
    with pytest.raises(ValueError, match="max_rooms"):
        ChatSettings(max_rooms=0)
    with pytest.raises(ValueError, match="default_room must have"):
        ChatSettings(default_room="")
    with pytest.raises(TypeError, match="max_page"):
        ChatSettings(max_page="many")  # type: ignore[arg-type]  # what is being tested
