"""Who is in a topic, and who is told of it."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.hub.fakes import Recorder, line, no_clock
from trio_gateway.hub.hub import Hub, HubLimits
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.hub.presence import Change, Roster
from trio_gateway.transport.outbox import Verdict

TOPIC = "chat:lobby"


def presence_line(topic: str, change: Change) -> bytes:
    members = "" if change.members is None else f" ={','.join(change.members)}"
    names = f" +{','.join(change.joined)} -{','.join(change.left)}{members}"
    return f"{change.count}{names if change.named else ''}\n".encode()


@pytest.fixture
async def hub(nursery: trio.Nursery) -> Hub:
    hub = Hub(MemoryBroker(), limits=HubLimits(max_presence_names=3), clock=no_clock)
    hub.encode_with("chat", line, presence=presence_line)
    hub.encode_with("mute", line)
    await nursery.start(hub.run)
    return hub


async def join(hub: Hub, user: str, *, presence: bool = False, topic: str = TOPIC) -> Recorder:
    recorder = Recorder()
    await hub.subscribe(topic, recorder, user=user, presence=presence)
    return recorder


async def test_members_are_distinct_users(hub: Hub) -> None:
    """A user with several connections is one member, until the last of them leaves."""
    first, second = await join(hub, "ann"), await join(hub, "ann")
    await join(hub, "bob")
    assert (2, ["ann", "bob"]) == hub.members(TOPIC, 10)
    assert (2, ["ann"]) == hub.members(TOPIC, 1)
    await hub.leave_all(first)
    assert 2 == hub.members(TOPIC)[0]
    await hub.leave_all(second)
    assert (1, ["bob"]) == hub.members(TOPIC)
    assert (0, []) == hub.members("chat:nobody")


async def test_changes_are_told_after_a_second_to_who_asked(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    """All changes of a second are one frame, for those with presence only."""
    watcher, other = await join(hub, "ann", presence=True), await join(hub, "bob")
    await trio.sleep(0.9)
    await join(hub, "cyd")
    await hub.leave_all(other)
    assert [] == watcher.lines
    await trio.sleep(0.2)
    assert (["2 +cyd -"], []) == (watcher.lines, other.lines)
    await trio.sleep(100)
    assert 1 == len(watcher.lines)


async def test_at_most_one_a_second(hub: Hub, autojump_clock: trio.testing.MockClock) -> None:
    """Under constant change there is one frame a second, and the last one tells the end."""
    watcher = await join(hub, "ann", presence=True)
    for number in range(35):
        guest = await join(hub, f"g{number}")
        await trio.sleep(0.1)
        if number % 2:
            await hub.leave_all(guest)
    await trio.sleep(5)
    assert 3 <= len(watcher.lines) <= 4
    assert f"{hub.members(TOPIC)[0]}" == watcher.lines[-1]


async def test_flapping_is_not_told(hub: Hub, autojump_clock: trio.testing.MockClock) -> None:
    """Who goes and returns within the second, or comes and goes, is not mentioned."""
    watcher, bob = await join(hub, "ann", presence=True), await join(hub, "bob")
    await trio.sleep(2)
    watcher.offers.clear()
    await hub.leave_all(bob)
    await join(hub, "bob")
    await hub.leave_all(await join(hub, "cyd"))
    await join(hub, "ann")
    await trio.sleep(2)
    assert [] == watcher.lines


async def test_a_crowd_is_a_count(hub: Hub, autojump_clock: trio.testing.MockClock) -> None:
    """Above the number of names there is the count alone; after it, all names again."""
    watcher = await join(hub, "ann", presence=True)
    guests = [await join(hub, f"g{number}") for number in range(3)]
    await trio.sleep(2)
    await hub.leave_all(guests[0])
    await trio.sleep(2)
    assert ["4", "3 + -g0 =ann,g1,g2"] == watcher.lines


async def test_many_changes_are_a_count(hub: Hub, autojump_clock: trio.testing.MockClock) -> None:
    """However many come and go, no more are remembered than the bound: the list stands for all."""
    watcher = await join(hub, "ann", presence=True)
    guests = [await join(hub, f"g{number}") for number in range(6)]
    await trio.sleep(2)
    for guest in guests:
        await hub.leave_all(guest)
    await trio.sleep(2)
    assert ["7", "1 + -g0,g1,g2 =ann"] == watcher.lines


async def test_a_kind_without_encoder_has_no_presence(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    """Asking for presence where there is none is no error and no timer."""
    watcher = await join(hub, "ann", presence=True, topic="mute:x")
    await join(hub, "bob", topic="mute:x")
    await trio.sleep(5)
    assert [] == watcher.lines


async def test_no_timer_without_a_listener(hub: Hub) -> None:
    """Nobody asked, nothing is scheduled."""
    await hub.leave_all(await join(hub, "watcher", presence=True))
    await join(hub, "ann")
    await join(hub, "bob")
    await trio.testing.wait_all_tasks_blocked(0)
    assert float("inf") == trio.lowlevel.current_statistics().seconds_to_next_deadline


async def test_a_listener_that_left_is_told_nothing(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    """Leaving before the second is over leaves the frame to the others."""
    watcher, other = [await join(hub, name, presence=True) for name in ("ann", "bob")]
    await join(hub, "cyd")
    await hub.leave_all(watcher)
    await trio.sleep(2)
    assert ([], ["2 +bob,cyd -ann"]) == (watcher.lines, other.lines)


async def test_messages_and_presence_are_one_offer(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    """What falls into one tick is one write, messages first."""
    watcher = await join(hub, "ann", presence=True)
    await join(hub, "bob")
    await trio.sleep(1)
    await hub.publish(TOPIC, b"x")
    await trio.sleep(1)
    assert [b"1 x\n2 +bob -\n"] == watcher.offers


async def test_an_encoder_that_raises_is_contained(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing presence encoder is logged and counted; messages go on."""

    def fail(*_: object) -> bytes:
        raise LookupError

    hub = Hub(MemoryBroker(), clock=no_clock)
    hub.encode_with("chat", line, presence=fail)
    await nursery.start(hub.run)
    watcher = await join(hub, "ann", presence=True)
    await join(hub, "bob")
    await trio.sleep(2)
    await hub.publish(TOPIC, b"x")
    await trio.sleep(1)
    assert (["1 x"], 1, 1) == (watcher.lines, hub.statistics().failed, len(caplog.records))


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("+-t"))))
def test_changes_add_up(steps: list[tuple[str, str]]) -> None:
    """Who applies every change to what it knew knows who is in; flapping is never told."""
    roster, connections, known = Roster(), dict.fromkeys("abcde", 0), set[str]()
    for user, step in steps:
        if step == "+":
            connections[user] += 1
            if roster.arrive(user):
                roster.note(user, was_in=False, max_names=10)
        elif step == "-" and connections[user]:
            connections[user] -= 1
            if roster.depart(user):
                roster.note(user, was_in=True, max_names=10)
        elif step == "t":
            actual = {user for user, count in connections.items() if count}
            change = roster.take(10)
            assert (known != actual) == (change is not None)
            if change is not None:
                assert len(actual) == change.count
                assert not known & set(change.joined)
                assert set(change.left) <= known
                known = known - set(change.left) | set(change.joined)
            assert actual == known


def test_a_roster_forgets_who_left() -> None:
    """After all have gone nothing is kept."""
    roster = Roster()
    assert roster.arrive("ann")
    assert not roster.arrive("ann")
    assert not roster.depart("ann")
    assert roster.depart("ann")
    assert (0, [], False) == (roster.count, roster.names(10), "ann" in roster)
    assert roster.take(10) is None
    assert roster.note("ann", was_in=True, max_names=0)
    assert Change(0, members=()) == roster.take(10)


class Listener(Recorder):
    """Knows who is in a topic by what it was told and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.names: set[str] | None = None

    def ask(self, hub: Hub) -> None:
        """Ask who is in; the answer comes after what was offered so far."""
        self.replay()
        self.count, names = hub.members(TOPIC, MAX_NAMES)
        self.names = set(names) if len(names) == self.count else None

    def replay(self) -> None:
        for frame in self.lines:
            count, *words = frame.split()
            self.count = int(count)
            for word in words:
                names = {name for name in word[1:].split(",") if name}
                if word[0] == "=":
                    self.names = names
                elif self.names is not None:
                    self.names = self.names | names if word[0] == "+" else self.names - names
            if not words:
                self.names = None
        self.offers.clear()


MAX_NAMES = 3
storms = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.sampled_from(["come", "come", "listen", "leave", "crash", "ask"]),
        st.sampled_from([0, 0, 0, 0.1, 0.4, 1.1]),
    ),
    max_size=40,
)


@given(storms)
def test_after_any_storm_every_listener_knows_who_is_in(
    storm: list[tuple[int, str, float]],
) -> None:
    """The count always, the names while they are few, whoever came, went or broke off when."""

    async def run() -> None:
        hub = Hub(MemoryBroker(), limits=HubLimits(max_presence_names=MAX_NAMES), clock=no_clock)
        hub.encode_with("chat", line, presence=presence_line)
        connections = [Listener() for _ in range(8)]
        listening: set[Listener] = set()
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            for number, step, pause in storm:
                listener = connections[number]
                match step:
                    case "come" | "listen":
                        listener.replay()
                        listener.verdict = Verdict.ACCEPTED
                        await hub.subscribe(
                            TOPIC, listener, user=f"u{number % 5}", presence=step == "listen"
                        )
                        listening.discard(listener)
                        if step == "listen":
                            listening.add(listener)
                            listener.ask(hub)
                    case "leave":
                        await hub.leave_all(listener)
                        listening.discard(listener)
                    case "crash":
                        listener.verdict = Verdict.CLOSED
                        hub.broadcast(TOPIC, b"")
                        await hub.leave_all(listener)
                        listening.discard(listener)
                    case _:
                        listener.ask(hub)
                await trio.sleep(pause)
            await trio.sleep(3)
            count, names = hub.members(TOPIC, 100)
            for listener in listening:
                listener.replay()
                assert count == listener.count
                assert count > MAX_NAMES or listener.names == set(names)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
