"""The hub's promise under any programme of joins, leaves, publications and delays.

Programmes run on virtual time over a slow broker, with fan-outs that yield after every offer and
Trio's scheduling order drawn by Hypothesis. Every subscriber's lines are then held against what
it was promised: from where it joined, everything once and in order, and nothing after it left.
"""

import random
from collections.abc import Sequence
from typing import Literal

import attrs
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.hub.fakes import Recorder, SlowBroker, line
from trio_gateway.hub.broker import Publication, Retention
from trio_gateway.hub.hub import Hub, HubLimits, Joined
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.positions import Position

TOPICS = ["chat:a", "chat:b"]


@attrs.frozen
class Step:
    """One action of one actor, after a delay in tenths of a second."""

    action: Literal["join", "hurried join", "leave", "leave all", "publish", "type"]
    topic: str = TOPICS[0]
    delay: int = 0
    limit: int = 100
    since: bool = False


@attrs.frozen
class World:
    """What is fixed for one programme."""

    seed: int
    max_delay: int
    lagging: bool
    max_held: int
    max_publications: int
    max_topics: int
    max_pending_bytes: int
    restarting: bool

    @property
    def restarts(self) -> bool:
        """Whether the hub is stopped and run again, over a broker that loses nothing by it."""
        return self.restarting and not self.lagging and self.max_publications == 1_000


def steps(*actions: str) -> st.SearchStrategy[list[Step]]:
    step = st.builds(
        Step,
        action=st.sampled_from(actions),
        topic=st.sampled_from(TOPICS),
        delay=st.integers(0, 3),
        limit=st.sampled_from([100, 100, 2, 0]),
        since=st.booleans(),
    )
    return st.lists(step, max_size=12)


readers = st.lists(
    steps("join", "join", "hurried join", "leave", "leave all"), min_size=1, max_size=4
)
writers = st.lists(steps("publish", "publish", "publish", "type"), min_size=1, max_size=3)
worlds = st.builds(
    World,
    seed=st.integers(0, 2**16),
    max_delay=st.integers(0, 5),
    lagging=st.booleans(),
    max_held=st.sampled_from([1, 3, 1_000]),
    max_publications=st.sampled_from([3, 1_000]),
    max_topics=st.sampled_from([1, 100]),
    max_pending_bytes=st.sampled_from([1, 2**18]),
    restarting=st.booleans(),
)


class Reader(Recorder):
    """A subscriber that follows its steps, and marks in its own lines what it was told."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__()
        self.name = name
        self.world = world
        self.seen: dict[str, Position] = {}

    def mark(self, words: str) -> None:
        self.offers.append(f"{words}\n".encode())

    async def follow(self, hub: Hub, script: Sequence[Step]) -> None:
        for step in script:
            await trio.sleep(step.delay / 10)
            match step.action:
                case "join":
                    await self.join(hub, step)
                case "hurried join":
                    with trio.move_on_after(0.2):
                        await self.join(hub, step)
                case "leave":
                    await hub.unsubscribe(step.topic, self)
                    self.mark(f"{step.topic} left")
                case _:
                    await hub.leave_all(self)
                    for topic in TOPICS:
                        self.mark(f"{topic} left")

    async def join(self, hub: Hub, step: Step) -> None:
        def greet(joined: Joined) -> list[bytes]:
            self.check(joined, step, since)
            position = joined.position
            return [f"{step.topic} joined {position.epoch} {position.offset}\n".encode()]

        since = self.seen.get(step.topic) if step.since else None
        # From the call on the old subscription is over, whether this join succeeds or not.
        self.mark(f"{step.topic} left")
        joined = await hub.subscribe(
            step.topic, self, user=self.name, since=since, limit=step.limit, greet=greet
        )
        self.seen[step.topic] = joined.position

    def check(self, joined: Joined, step: Step, since: Position | None) -> None:
        """Hold the page against what a join may say of it."""
        offsets = [publication.position.offset for publication in joined.publications]
        last = joined.position.offset
        assert len(offsets) <= step.limit
        assert offsets == list(range(last - len(offsets) + 1, last + 1)) or not joined.recovered
        assert {joined.position.epoch} >= {p.position.epoch for p in joined.publications}
        if since is not None and joined.recovered:
            assert since.epoch == joined.position.epoch
            assert offsets == list(range(since.offset + 1, last + 1))
        if since is not None and not joined.recovered:
            world = self.world
            assert (
                step.limit < 100
                or min(world.max_held, world.max_publications) < 1_000
                or (since.epoch != joined.position.epoch and world.max_topics == 1)
            )


def frame(publication: Publication) -> bytes:
    return f"{publication.topic} ".encode() + line(publication)


async def write(hub: Hub, name: int, script: Sequence[Step], typed: list[int]) -> None:
    for step in script:
        await trio.sleep(step.delay / 10)
        if step.action == "publish":
            await hub.publish(step.topic, b"x")
        else:
            typed.append(len(typed))
            hub.broadcast(step.topic, f"{step.topic} typing {typed[-1]}\n".encode())


def check_lines(reader: Reader, latest: dict[str, Position]) -> set[str]:
    """Hold all that a reader was offered against the promise; return where it still is."""
    inside: dict[str, Position] = {}
    typed = dict.fromkeys(TOPICS, -1)
    for text in reader.lines:
        topic, word, *rest = text.split()
        match word:
            case "left":
                inside.pop(topic, None)
            case "joined":
                assert topic not in inside
                inside[topic] = Position(rest[0], int(rest[1]))
            case "typing":
                assert topic in inside
                assert int(rest[0]) > typed[topic]
                typed[topic] = int(rest[0])
            case _:
                before = inside[topic]
                assert before.offset + 1 == int(word)
                inside[topic] = Position(before.epoch, int(word))
    for topic, position in inside.items():
        assert latest[topic] == position
    return set(inside)


async def keep_running(
    hub: Hub, world: World, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    if world.restarts:
        for _ in range(10):
            with trio.move_on_after(0.15):
                await hub.run()
            await trio.sleep(0.1)
    await hub.run(task_status=task_status)


async def run(world: World, read: list[list[Step]], written: list[list[Step]]) -> None:
    chance = random.Random(world.seed)

    async def pause(_: str) -> None:
        if world.max_delay and chance.random() < 0.7:
            await trio.sleep(chance.randint(0, world.max_delay) / 10)

    memory = MemoryBroker(
        retention=Retention(max_publications=world.max_publications), max_topics=world.max_topics
    )
    hub = Hub(
        SlowBroker(memory, pause, lag=pause if world.lagging else None),
        limits=HubLimits(
            turn_seconds=0,
            turn_check=1,
            max_held=world.max_held,
            max_pending_bytes=world.max_pending_bytes,
        ),
    )
    hub.encode_with("chat", frame)
    everybody = [Reader(f"r{number}", world) for number in range(len(read))]
    typed: list[int] = []
    async with trio.open_nursery() as running:
        async with trio.open_nursery() as actors:
            actors.start_soon(running.start, keep_running, hub, world)
            for reader, script in zip(everybody, read, strict=True):
                actors.start_soon(reader.follow, hub, script)
            for number, script in enumerate(written):
                actors.start_soon(write, hub, number, script, typed)
        await trio.sleep(100)
        latest = {topic: (await memory.history(topic, limit=0)).position for topic in TOPICS}
        live = [check_lines(reader, latest) for reader in everybody]
        statistics = hub.statistics()
        assert sum(map(len, live)) == statistics.subscriptions
        assert 0 == statistics.joining == statistics.gaps == statistics.failed
        assert {t: sum(t in topics for topics in live) for t in TOPICS} == {
            topic: hub.members(topic)[0] for topic in TOPICS
        }
        for reader in everybody:
            await hub.leave_all(reader)
        await trio.sleep(100)
        assert 0 == hub.statistics().topics == memory.statistics().subscribed
        assert [] == [reader.disconnected for reader in everybody if reader.disconnected]
        running.cancel_scope.cancel()


@settings(max_examples=200, deadline=None)
@given(worlds, readers, writers)
@example(
    World(0, 0, False, 1, 3, 1, 1, False),
    [[Step("join"), Step("leave"), Step("join", since=True)], [Step("join")]],
    [[Step("publish"), Step("publish"), Step("type"), Step("publish")]],
)
def test_nothing_missing_nothing_twice_nothing_after(
    world: World, read: list[list[Step]], written: list[list[Step]]
) -> None:
    """From its position a subscriber gets all, once, in order, until it leaves without a trace."""
    trio.run(run, world, read, written, clock=trio.testing.MockClock(autojump_threshold=0))
