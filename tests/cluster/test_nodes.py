"""Gateways as processes on one Redis, with everything failing in turn."""

import os
import random
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from tests.cli.process import command, environment
from tests.cluster.member import Member
from tests.cluster.server import DURABLE, Server, free_port, redis_server

pytest.importorskip("coredis", reason="the extra redis is not installed")


@attrs.define(eq=False)
class Node:
    """A gateway that may be killed and started again on its port."""

    store: str
    port: int = attrs.Factory(free_port)
    process: trio.Process | None = None

    async def start(self) -> None:
        self.process = await trio.lowlevel.open_process(
            command(
                *("--store", self.store, "--port", str(self.port), "--api-token", "secret"),
                *("--max-connections-per-ip", "100000", "--log-format", "json"),
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        assert self.process.stdout is not None
        with trio.fail_after(30):
            first = await self.process.stdout.receive_some()
        assert first.startswith(b"listening on"), first

    async def kill(self) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                if process.stdout is not None:
                    await process.stdout.aclose()


@attrs.define(eq=False)
class Site:
    """Nodes on a Redis."""

    server: Server
    nodes: list[Node]

    def ports(self) -> list[int]:
        return [node.port for node in self.nodes if node.process is not None]


@asynccontextmanager
async def site(count: int) -> AsyncGenerator[Site, None]:
    with redis_server(*DURABLE) as server:
        found = Site(server, [Node(f"{server.url}?deadline=3&lease=3") for _ in range(count)])
        try:
            async with trio.open_nursery() as nursery:
                for node in found.nodes:
                    nursery.start_soon(node.start)
            yield found
        finally:
            for node in found.nodes:
                await node.kill()


async def storm(
    found: Site, *, clients: int, rooms: int, speakers: int, messages: int, gap: float, pause: float
) -> dict[str, int]:
    """Let members talk while nodes and Redis fail in turn; check what each of them has.

    Args:
        clients: over all nodes and rooms.
        rooms: each with the same number of members.
        speakers: of each room.
        messages: of each speaker.
        gap: seconds between two of them.
        pause: seconds for which Redis is stopped.
    """
    seed = int(os.environ.get("CLUSTER_SEED", random.randrange(2**32)))
    print(f"CLUSTER_SEED={seed} repeats what is chosen here")
    chance = random.Random(seed)
    members = [
        Member(f"user-{n}", f"room-{n % rooms}", found.ports, random.Random(chance.random()))
        for n in range(clients)
    ]
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.run)
        await settle(lambda: all(member.connections for member in members), "all are in")
        async with trio.open_nursery() as talk:

            async def speak(member: Member) -> None:
                for number in range(messages):
                    await member.say(f"{member.name}/{number}")
                    await trio.sleep(chance.uniform(0, 2 * gap))

            for member in members[: rooms * speakers]:
                talk.start_soon(speak, member)
            deeds = [kill_a_node, restart_redis, pause_redis]
            chance.shuffle(deeds)
            for deed in deeds:
                await trio.sleep(1.0)
                print(deed.__name__)
                await deed(found, chance, pause)
        ends: dict[str, int] = {}
        for member in members[: rooms * speakers]:
            ends[member.room] = max(ends.get(member.room, 0), *member.acknowledged.values())
        await settle(
            lambda: all(member.last >= ends[member.room] for member in members), "all have all"
        )
        nursery.cancel_scope.cancel()
    judge(members, rooms, speakers, messages)
    return {"returns": sum(member.connections - 1 for member in members)}


def judge(members: list[Member], rooms: int, speakers: int, messages: int) -> None:
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
        assert len(set(whole.values())) == len(whole) == speakers * messages
        for member in mine:
            for text, offset in member.acknowledged.items():
                assert whole[offset] == text
            assert member.seen == {o: t for o, t in whole.items() if o >= (member.first or 0)}


async def settle(condition: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(60) as scope:
        while not condition():  # noqa: ASYNC110 - it comes from other processes
            await trio.sleep(0.05)
    assert not scope.cancelled_caught, f"not in time: {what}"


async def kill_a_node(found: Site, chance: random.Random, _pause: float) -> None:
    node = chance.choice(found.nodes)
    await node.kill()
    await trio.sleep(0.5)
    await node.start()


async def restart_redis(found: Site, _chance: random.Random, _pause: float) -> None:
    found.server.kill()
    await trio.sleep(0.3)
    found.server.start()


async def pause_redis(found: Site, _chance: random.Random, pause: float) -> None:
    found.server.send_signal(signal.SIGSTOP)
    await trio.sleep(pause)
    found.server.send_signal(signal.SIGCONT)


async def test_two_nodes_lose_and_double_nothing() -> None:
    """Through a killed node, a killed Redis and a paused Redis: each message once, in order."""
    async with site(2) as found:
        await storm(found, clients=40, rooms=2, speakers=3, messages=25, gap=0.1, pause=1.5)


async def test_an_emptied_store_is_told_of() -> None:
    """Who comes back hears that not all is there, and goes on in the new epoch."""
    async with site(2) as found:
        members = [Member(f"user-{n}", "room", found.ports, random.Random(n)) for n in range(4)]
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
    assert 1 == len(epochs)
    assert 1 == len({member.epoch for member in members})
    assert all("not recovered" in problem for m in members for problem in m.problems[:1])
    assert all("after" in member.seen.values() for member in members)


@pytest.mark.long
@pytest.mark.parametrize("nodes", [2, 4])
async def test_a_thousand_clients_lose_and_double_nothing(nodes: int) -> None:
    """The same with 1,000 clients and a pause of five seconds, on two and on four nodes."""
    async with site(nodes) as found:
        await storm(found, clients=1_000, rooms=10, speakers=2, messages=25, gap=0.5, pause=5.0)
