"""A hub among others, with a cluster that is a list of what it was told."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio

from trio_gateway.hub.broker import Neighbour
from trio_gateway.hub.hub import Hub
from trio_gateway.hub.memory import MemoryBroker

from .fakes import Recorder, line

TOPIC = "chat:a"


class FakeCluster(MemoryBroker):
    """A memory broker that says it has other nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Any, ...]] = []
        self.neighbour: Neighbour | None = None

    def meet(self, neighbour: Neighbour) -> None:
        self.neighbour = neighbour

    def arrived(self, topic: str, user: str) -> None:
        self.told.append(("arrived", topic, user))

    def departed(self, topic: str, user: str) -> None:
        self.told.append(("departed", topic, user))

    def broadcast(self, topic: str, frame: bytes) -> None:
        self.told.append(("broadcast", topic, frame))

    async def members(self, topic: str, limit: int) -> tuple[int, list[str]]:
        return 7, ["far"][:limit]

    async def control(self, message: bytes) -> None:
        self.told.append(("control", message))


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
async def hub(cluster: FakeCluster, autojump_clock: object) -> AsyncGenerator[Hub, None]:
    made = Hub(cluster)
    made.encode_with(
        "chat", line, presence=lambda _, change: f"{change.count} {change.joined}\n".encode()
    )
    made.encode_with("user", line)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


def others(cluster: FakeCluster, joined: list[str], left: list[str]) -> None:
    assert cluster.neighbour is not None
    cluster.neighbour.others(TOPIC, joined, left)


async def test_a_node_speaks_of_first_and_last_connections(cluster: FakeCluster, hub: Hub) -> None:
    """Of each user once, and not of topics that have no presence."""
    one, two = Recorder(), Recorder()
    for subscriber in (one, two):
        await hub.subscribe(TOPIC, subscriber, user="ann")
    await hub.subscribe("user:ann", one, user="ann")
    await hub.unsubscribe(TOPIC, one)
    assert [("arrived", TOPIC, "ann")] == cluster.told
    await hub.leave_all(two)
    assert ("departed", TOPIC, "ann") == cluster.told[-1]


async def test_users_of_other_nodes_count_once(cluster: FakeCluster, hub: Hub) -> None:
    """Whether they are here too or not; listeners are told of those who were not."""
    await hub.subscribe(TOPIC, watcher := Recorder(), user="ann", presence=True)
    others(cluster, ["ann", "bob"], [])
    assert (2, ["ann", "bob"]) == hub.members(TOPIC)
    await trio.sleep(2)
    assert ["2 ('bob',)"] == watcher.lines
    await hub.subscribe(TOPIC, guest := Recorder(), user="bob")
    await hub.unsubscribe(TOPIC, guest)
    assert 2 == hub.members(TOPIC)[0]
    others(cluster, [], ["ann", "bob", "nobody"])
    assert (1, ["ann"]) == hub.members(TOPIC)


async def test_topics_that_nobody_here_is_in_are_looked_up(cluster: FakeCluster, hub: Hub) -> None:
    """The cluster knows; of a topic in use the hub does."""
    others(cluster, ["bob"], [])
    assert (7, ["far"]) == await hub.look_up_members(TOPIC)
    await hub.subscribe(TOPIC, Recorder(), user="ann")
    assert (1, ["ann"]) == await hub.look_up_members(TOPIC)


async def test_frames_go_out_and_come_in_once(cluster: FakeCluster, hub: Hub) -> None:
    """What another node sends is offered to all here and sent to nobody."""
    await hub.subscribe(TOPIC, ann := Recorder(), user="ann")
    cluster.told.clear()
    hub.broadcast(TOPIC, b"typing\n", exclude=ann)
    assert [("broadcast", TOPIC, b"typing\n")] == cluster.told
    assert cluster.neighbour is not None
    cluster.neighbour.ephemeral(TOPIC, b"from afar\n")
    await trio.sleep(1)
    assert ["from afar"] == ann.lines
    assert 1 == len(cluster.told)


async def test_an_order_to_disconnect_is_given_and_obeyed(cluster: FakeCluster, hub: Hub) -> None:
    """By the node it is given at and by the others; what nobody understands is passed over."""
    await hub.subscribe(TOPIC, ann := Recorder(), user="ann")
    await hub.subscribe(TOPIC, bob := Recorder(), user="bob")
    assert 1 == await hub.disconnect_user("ann", 4403, "enough")
    kind, order = cluster.told[-1]
    assert ("control", [(4403, "enough")]) == (kind, ann.disconnected)
    assert cluster.neighbour is not None
    cluster.neighbour.controlled(order.replace(b"ann", b"bob"))
    cluster.neighbour.controlled(b'{"do":"something new"}')
    assert [(4403, "enough")] == bob.disconnected
