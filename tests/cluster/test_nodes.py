"""Nodes on one Redis that lose and double nothing, with everything failing in turn."""

import os
import random
import sys
from collections.abc import Sequence

import pytest
import trio

from tests.cluster.deeds import DEEDS
from tests.cluster.member import Member
from tests.cluster.site import Site, settle, site

pytest.importorskip("coredis", reason="the extra redis is not installed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


async def storm(
    found: Site, *, clients: int, rooms: int, speakers: int, gap: float, pause: float
) -> None:
    """Let members talk while nodes and Redis fail in turn; check what each of them has.

    Args:
        clients: over all nodes and rooms.
        rooms: each with the same number of members.
        speakers: of each room; they talk until all is over.
        gap: seconds between two messages of one.
        pause: seconds for which Redis is stopped.
    """
    seed = int(os.environ.get("CLUSTER_SEED", random.randrange(2**32)))
    print(f"CLUSTER_SEED={seed} repeats what is chosen here")
    chance = random.Random(seed)
    members = [
        Member(
            f"user-{n}",
            f"room-{n % rooms}",
            found.ports,
            random.Random(chance.random()),
            ended=found.ended,
        )
        for n in range(clients)
    ]
    over = trio.Event()
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.run)
        await settle(lambda: all(member.connections for member in members), "all are in")
        async with trio.open_nursery() as talk:

            async def speak(member: Member) -> None:
                while not over.is_set():
                    await member.say(f"{member.name}/{len(member.acknowledged)}")
                    await trio.sleep(member.chance.uniform(0, 2 * gap))

            for member in members[: rooms * speakers]:
                talk.start_soon(speak, member)
            for deed in chance.sample(DEEDS, len(DEEDS)):
                await trio.sleep(0.5)
                print(deed.__name__)
                await deed(found, chance, pause)
            await trio.sleep(0.5)
            over.set()
        ends: dict[str, int] = {}
        for member in members[: rooms * speakers]:
            ends[member.room] = max(ends.get(member.room, 0), *member.acknowledged.values())
        await settle(
            lambda: all(member.last >= ends[member.room] for member in members), "all have all"
        )
        nursery.cancel_scope.cancel()
    print(f"ends: {found.ends}")
    judge(members)


def judge(members: Sequence[Member]) -> None:
    """Check that every member has every message once, in the order of offsets."""
    assert [] == [problem for member in members for problem in member.problems][:10]
    for room in {member.room for member in members}:
        mine = [member for member in members if member.room == room]
        whole: dict[int, str] = {}
        for member in mine:
            assert list(member.seen) == sorted(member.seen)
            for offset, text in member.seen.items():
                assert whole.setdefault(offset, text) == text
        # Nothing that was acknowledged is missing, nothing is there twice.
        acknowledged = {t: o for member in mine for t, o in member.acknowledged.items()}
        assert acknowledged == {text: offset for offset, text in whole.items()}
        assert len(acknowledged) == len(whole)
        for member in mine:
            assert member.seen == {o: t for o, t in whole.items() if o >= (member.first or 0)}


def listener(name: str, *messages: tuple[int, str]) -> Member:
    member = Member(name, "room", list, random.Random(0), first=1, last=0)
    for offset, text in messages:
        member._note({"offset": offset, "text": text})
    return member


def test_the_judge_accepts_what_is_whole() -> None:
    """Whoever came later has the rest of it."""
    speaker = listener("a", (1, "x"), (2, "y"))
    speaker.acknowledged = {"x": 1, "y": 2}
    late = Member("b", "room", list, random.Random(0), first=2, last=1)
    late._note({"offset": 2, "text": "y"})
    judge([speaker, late])


@pytest.mark.parametrize(
    "messages",
    [
        [(1, "x")],
        [(2, "y")],
        [(1, "x"), (2, "y"), (2, "y")],
        [(2, "y"), (1, "x")],
        [(1, "x"), (2, "y"), (3, "x")],
        [(1, "x"), (2, "z")],
    ],
    ids=["end lost", "begin lost", "doubled", "out of order", "stored twice", "another"],
)
def test_the_judge_sees_what_is_wrong(messages: list[tuple[int, str]]) -> None:
    """Whatever one member has that is not what another was acknowledged."""
    speaker = listener("a", (1, "x"), (2, "y"))
    speaker.acknowledged = {"x": 1, "y": 2}
    with pytest.raises(AssertionError):
        judge([speaker, listener("b", *messages)])


async def test_two_nodes_lose_and_double_nothing() -> None:
    """Through kills, a pause and a rolling restart: each message once, in order."""
    async with site(2) as found:
        await storm(found, clients=40, rooms=2, speakers=3, gap=0.1, pause=1.5)


async def test_an_emptied_store_is_told_of() -> None:
    """All hear that not everything is there and go on in the new epoch; nobody is disconnected."""
    ends: list[str] = []
    async with site(2) as found:
        members = [Member(f"user-{n}", "room", found.ports, random.Random(n)) for n in range(4)]
        for member in members:
            member.ended = lambda _port, how: ends.append(how)
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(member.run)
            await settle(lambda: all(member.connections for member in members), "all are in")
            await members[0].say("before")
            await settle(lambda: all(member.seen for member in members), "all have it")
            assert found.server.ask("FLUSHALL").startswith("+OK")
            epochs = {member.epoch for member in members}
            await members[0].say("after")
            await settle(lambda: all(m.epoch not in epochs for m in members), "a new epoch")
            nursery.cancel_scope.cancel()
    assert [] == ends
    assert 1 == len(epochs)
    assert 1 == len({member.epoch for member in members})
    assert all("not recovered" in problem for m in members for problem in m.problems[:1])
    assert all("after" in member.seen.values() for member in members)


@pytest.mark.long
@pytest.mark.parametrize("nodes", [2, 4])
async def test_a_thousand_clients_lose_and_double_nothing(nodes: int) -> None:
    """The same with 1,000 clients and a pause of five seconds, on two and on four nodes."""
    async with site(nodes) as found:
        await storm(found, clients=1_000, rooms=10, speakers=2, gap=1.0, pause=5.0)
