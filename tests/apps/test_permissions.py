"""Who may do what: claims, hooks, and what the one who may not is told."""

from typing import Any

import pytest

from tests.apps.world import Client, FakeUpgrade, World
from trio_gateway.apps.chat import ChatApp
from trio_gateway.apps.identity import Action, Identity, by_claims, vouched_for
from trio_gateway.apps.notifications import NotificationApp

ROOM, TOPIC = "chat:blue", "topic:news"


@pytest.mark.parametrize(
    "claims, action, topic, allowed",
    [
        ({}, Action.SUBSCRIBE, ROOM, True),
        ({}, Action.PUBLISH, ROOM, True),
        ({}, Action.SUBSCRIBE, "user:ann", True),
        ({}, Action.SUBSCRIBE, "user:bob", False),
        ({"rooms": ["*"]}, Action.READ, "user:bob", False),
        ({"rooms": ["blue"]}, Action.CONNECT, "chat", True),
        ({"rooms": ["blue"]}, Action.SUBSCRIBE, ROOM, True),
        ({"rooms": ["blue"]}, Action.SUBSCRIBE, "chat:bluebird", False),
        ({"rooms": ["blue*"]}, Action.SUBSCRIBE, "chat:bluebird", True),
        ({"rooms": "blue"}, Action.READ, ROOM, True),
        ({"rooms": ["red"]}, Action.SUBSCRIBE, TOPIC, True),
        ({"rooms": ["red"]}, Action.READ, ROOM, False),
        ({"rooms": ["b[l]ue", "bl?e", "*lue", ".*"]}, Action.READ, ROOM, False),
        ({"topics": ["n*"]}, Action.SUBSCRIBE, TOPIC, True),
        ({"topics": []}, Action.SUBSCRIBE, TOPIC, False),
        ({"publish": False}, Action.PUBLISH, ROOM, False),
        ({"publish": False}, Action.SUBSCRIBE, ROOM, True),
        ({"publish": ["blue"]}, Action.PUBLISH, ROOM, True),
        ({"publish": ["red"]}, Action.PUBLISH, ROOM, False),
        ({"publish": ["blue"], "rooms": ["red"]}, Action.PUBLISH, ROOM, False),
        # What cannot be understood allows nothing.
        ({"rooms": None}, Action.SUBSCRIBE, ROOM, False),
        ({"rooms": {"blue": True}}, Action.SUBSCRIBE, ROOM, False),
        ({"rooms": [["blue"], 1]}, Action.SUBSCRIBE, ROOM, False),
        ({"publish": 1}, Action.PUBLISH, ROOM, False),
        ({"publish": "false"}, Action.PUBLISH, ROOM, False),
    ],
)
async def test_claims(claims: dict[str, Any], action: Action, topic: str, allowed: bool) -> None:
    """``rooms``, ``topics``, ``publish``; an absent one allows everything."""
    assert allowed is await by_claims(Identity("ann", claims), action, topic)


async def test_what_the_gateway_says_counts(world: World) -> None:
    """``?user=`` is nothing beside it."""
    upgrade = FakeUpgrade("c", {"user": "bob"})
    upgrade.identity = Identity("ann")
    assert Identity("ann") == await vouched_for(upgrade)


def closed_to(world: World, *forbidden: tuple[Action, str]) -> tuple[ChatApp, NotificationApp]:
    """Return applications where some things may not be done."""

    async def authorize(_identity: Identity, action: Action, topic: str) -> bool:
        return (action, topic) not in forbidden

    world.chat.authorize = world.notifications.authorize = authorize
    return world.chat, world.notifications


@pytest.mark.parametrize(
    "endpoint, forbidden",
    [
        (0, (Action.CONNECT, "chat")),
        (0, (Action.SUBSCRIBE, "chat:lobby")),
        (1, (Action.CONNECT, "notifications")),
        (1, (Action.SUBSCRIBE, "user:ann")),
    ],
)
async def test_who_may_not_come_in_is_told_before_the_upgrade(
    world: World, endpoint: int, forbidden: tuple[Action, str]
) -> None:
    """403: connecting, the first room, one's own stream."""
    app = closed_to(world, forbidden)[endpoint]
    upgrade = await world.upgrade(app.handle, {"user": "ann"})
    assert upgrade.rejected is not None
    assert (403, "forbidden") == (upgrade.rejected[0], upgrade.rejected[2]["error"])


@pytest.mark.parametrize(
    "command, forbidden",
    [
        ({"type": "join", "room": "blue"}, (Action.SUBSCRIBE, ROOM)),
        ({"type": "message", "text": "hi"}, (Action.PUBLISH, "chat:lobby")),
        ({"type": "message", "text": "hi", "room": "lobby"}, (Action.PUBLISH, "chat:lobby")),
        ({"type": "typing", "room": "lobby"}, (Action.PUBLISH, "chat:lobby")),
        ({"type": "history", "room": "blue"}, (Action.READ, ROOM)),
        ({"type": "members", "room": "blue"}, (Action.READ, ROOM)),
    ],
)
async def test_a_command_that_may_not_be_obeyed(
    world: World, command: dict[str, Any], forbidden: tuple[Action, str]
) -> None:
    """An error with its id, nothing done, and the connection stays."""
    app, _ = closed_to(world, forbidden)
    upgrade = await world.upgrade(app.handle, {"user": "ann"})
    client = Client(upgrade.connection)
    await client.all()
    answer = await client.ask(**command, id=7)
    assert ("error", 7, "forbidden") == (answer["type"], answer["id"], answer["code"])
    assert () == (await world.hub.history("chat:lobby", limit=9)).publications
    assert "left" == (await client.ask("leave", room="lobby"))["type"]


async def test_a_shared_topic_that_may_not_be_had(world: World) -> None:
    """The same for notifications."""
    _, app = closed_to(world, (Action.SUBSCRIBE, TOPIC))
    upgrade = await world.upgrade(app.handle, {"user": "ann"})
    client = Client(upgrade.connection)
    await client.all()
    assert "forbidden" == (await client.ask("subscribe", topic="news"))["code"]
    assert "subscribed" == (await client.ask("subscribe", topic="sport"))["type"]
