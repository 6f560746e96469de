"""Two hours of chat in virtual time: the whole application over memory connections.

Clients come, talk, wander between rooms, are cut off in the middle of anything and come back with
``since`` and with the same keys; every twenty minutes the gateway drains and another takes its
place over the same store. In the end every acknowledged message is in the history once, every view
is whole, and nothing is left behind.
"""

import json
import random
from collections import Counter
from typing import Any

import trio
import trio.testing
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
)

from trio_gateway.apps.assembly import Application
from trio_gateway.apps.chat import topic_of
from trio_gateway.hub.broker import Retention
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.testing import OpenGateway, open_gateway

ROOMS = ("lobby", "tea")
DEPLOYMENTS = 6
SECONDS = 2 * 3600 / DEPLOYMENTS


class Talker:
    """One user with one connection at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.chance = random.Random(name)
        self.views: dict[str, tuple[str, int]] = {}
        self.inside: set[str] = set()
        self.seen: dict[tuple[str, str, int], str] = {}
        self.acked: dict[str, tuple[str, int]] = {}
        self.unacked: dict[str, str] = {}
        self.counted: Counter[str] = Counter()
        self.spoken = 0

    async def live(self, server: OpenGateway) -> None:
        """Be connected, again and again, until cancelled."""
        while True:
            room = self.chance.choice(ROOMS)
            query = f"/?user={self.name}&room={room}&presence=1"
            if room in self.views:
                query += "&since={}:{}".format(*self.views[room])
            self.inside.clear()
            try:
                async with server.open_websocket(query) as client, trio.open_nursery() as nursery:
                    nursery.start_soon(self.act, client, nursery.cancel_scope)
                    while True:
                        self.take(json.loads(await client.get_message()))
            except* (ConnectionClosed, ConnectionRejected, HandshakeError, OSError) as ended:
                self.counted[type(ended.exceptions[0]).__name__] += 1
            await trio.sleep(self.chance.random() * 10)

    async def act(self, client: WebSocketConnection, cut: trio.CancelScope) -> None:
        """Do something every now and then."""
        while True:
            await trio.sleep(self.chance.expovariate(1 / 15))
            room = self.chance.choice(ROOMS)
            deed = self.chance.choice(
                ["say"] * 6 + ["retry", "join", "join", "leave", "members", "cut", "reset"]
            )
            self.counted[deed] += 1
            match deed:
                case "say" if room in self.inside:
                    self.spoken += 1
                    key = f"{self.name}-{self.spoken}"
                    self.unacked[key] = room
                    await self.say(client, key, room)
                case "retry":
                    for key, where in list(self.unacked.items()):
                        if where in self.inside:
                            await self.say(client, key, where)
                case "join":
                    since = self.views.get(room)
                    at = {"since": {"epoch": since[0], "offset": since[1]}} if since else {}
                    self.inside.discard(room)
                    await self.send(client, type="join", room=room, **at)
                case "leave":
                    self.inside.discard(room)
                    await self.send(client, type="leave", room=room)
                case "members":
                    await self.send(client, type="members", room=room)
                case "reset":
                    client._stream.send_stream.reset()  # type: ignore[attr-defined] # no public way
                case "cut":
                    cut.cancel()
                case _:
                    pass

    async def say(self, client: WebSocketConnection, key: str, room: str) -> None:
        await self.send(client, type="message", room=room, text=key, key=key, id=key)

    async def send(self, client: WebSocketConnection, **command: Any) -> None:
        await client.send_message(json.dumps(command))

    def take(self, frame: dict[str, Any]) -> None:
        """Take a frame in, and hold it against what is known."""
        room = frame.get("room", "")
        self.counted[frame["type"]] += 1
        match frame["type"]:
            case "joined":
                position = frame["position"]
                offsets = [message["offset"] for message in frame["messages"]]
                before = self.views.get(room)
                if before is not None:
                    self.counted["recovered"] += 1
                    assert frame["recovered"]
                    assert before[0] == position["epoch"]
                    assert offsets == list(range(before[1] + 1, position["offset"] + 1))
                self.views[room] = position["epoch"], position["offset"]
                self.inside.add(room)
                for message in frame["messages"]:
                    self.see(position["epoch"], message)
            case "message" if room in self.inside:
                epoch, offset = self.views[room]
                assert frame["offset"] == offset + 1
                self.views[room] = epoch, offset + 1
                self.see(epoch, frame)
            case "ack":
                key = frame["id"]
                at = room, frame["offset"]
                assert self.acked.setdefault(key, at) == at
                self.unacked.pop(key, None)
            case "error":
                assert frame["code"] == "not_joined"
            case _:
                pass

    def see(self, epoch: str, message: dict[str, Any]) -> None:
        at = message["room"], epoch, message["offset"]
        assert at not in self.seen
        self.seen[at] = message["text"]


async def test_two_hours_of_chat(autojump_clock: trio.testing.MockClock) -> None:
    """Every view is whole, every acknowledged message is there once, and nothing is left."""
    broker = MemoryBroker(retention=Retention(max_publications=100_000, max_bytes=2**30))
    talkers = [Talker(f"user{number}") for number in range(8)]
    for deployment in range(DEPLOYMENTS):
        before = trio.lowlevel.current_statistics().tasks_living
        application = Application(broker)
        async with open_gateway(
            application.router, http=application.http, hub=application.hub
        ) as server:
            application.attach(server.gateway)
            async with trio.open_nursery() as nursery:
                for talker in talkers:
                    nursery.start_soon(talker.live, server)
                await trio.sleep(SECONDS)
                if deployment % 2:
                    await server.gateway.drain()
                nursery.cancel_scope.cancel()
            await trio.sleep(60)
            hub, gateway = application.hub.statistics(), server.gateway.statistics()
            assert (0, 0, 0) == (hub.topics, hub.subscriptions, hub.joining)
            assert (0, 0, 0) == (hub.gaps, hub.failed, hub.dropped)
            assert (0, 0, 0) == (gateway.connections, gateway.handlers, gateway.sockets)
            assert [(0, [])] * len(ROOMS) == [
                application.hub.members(topic_of(room)) for room in ROOMS
            ]
        assert before == trio.lowlevel.current_statistics().tasks_living
        assert 0 == broker.statistics().subscribed
    counted = sum((talker.counted for talker in talkers), Counter[str]())
    for what in ("recovered", "ack", "ConnectionClosed", "retry", "reset", "presence"):
        assert counted[what] > 20, counted
    for room in ROOMS:
        page = await broker.history(topic_of(room), limit=100_000)
        texts = [json.loads(publication.payload)["text"] for publication in page.publications]
        assert 1 == max(Counter(texts).values())
        for talker in talkers:
            assert all(
                texts[offset - 1] == text
                for (where, _, offset), text in talker.seen.items()
                if where == room
            )
            assert all(
                texts[offset - 1] == key
                for key, (where, offset) in talker.acked.items()
                if where == room
            )
