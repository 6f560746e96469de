"""How much one client may ask, on virtual time."""

import pytest
import trio
from trio.testing import MockClock

from tests.apps.world import Client, World
from trio_gateway.apps.limits import ClientLimits
from trio_gateway.hub.hub import Hub, HubLimits
from trio_gateway.hub.memory import MemoryBroker
from trio_gateway.settings import Rates

OFF = Rates(
    messages_per_second=None,
    messages_per_second_per_user=None,
    bytes_per_second=None,
    joins_per_second=None,
    api_requests_per_second=None,
)


@pytest.fixture
def limited(world: World) -> ClientLimits:
    """Five messages a second of a connection, eight of a user; 100 bytes; two joins."""
    limits = ClientLimits(
        Rates(
            messages_per_second=5,
            messages_per_second_per_user=8,
            bytes_per_second=1000,
            joins_per_second=2,
            burst_seconds=2,
        )
    )
    world.chat.limits = world.notifications.limits = limits
    return limits


async def say(client: Client, count: int) -> list[str]:
    """Say so much at once; return what kinds of frames came of it."""
    for number in range(count):
        await client.send("message", text=f"{number}", id=number)
    return [frame["type"] for frame in await client.all()]


async def test_a_burst_and_then_the_rate(
    world: World, limited: ClientLimits, autojump_clock: MockClock
) -> None:
    """Ten at once, then five a second; one too many is refused with the time to wait."""
    ann = await world.join("ann")
    assert 10 == (await say(ann, 10)).count("ack")
    refused = await ann.ask("message", text="one too many", id="x")
    assert {
        "type": "error",
        "id": "x",
        "code": "rate_limited",
        "message": "too many messages; send it again later",
        "retry": 200,
    } == refused
    await trio.sleep(refused["retry"] / 1000)
    assert 1 == (await say(ann, 1)).count("ack")
    await trio.sleep(1)
    assert (5, 1) == ((kinds := await say(ann, 6)).count("ack"), kinds.count("error"))
    assert {"messages": 2} == limited.counted
    assert 0 < (await world.hub.history("chat:lobby")).position.offset == 16


async def test_who_goes_on_is_closed(
    world: World, limited: ClientLimits, autojump_clock: MockClock
) -> None:
    """As many again as may come at once are refused with words; then it is 4429."""
    ann = await world.join("ann")
    kinds = await say(ann, 20)
    assert (10, 10) == (kinds.count("ack"), kinds.count("error"))
    assert ann.connection.closed is None
    await say(ann, 1)
    assert (4429, "retry 2000") == ann.connection.closed
    assert ["c1"] == world.ended


async def test_a_little_too_fast_is_never_closed(
    world: World, limited: ClientLimits, autojump_clock: MockClock
) -> None:
    """A client one message in ten above the rate loses that one, for as long as it likes."""
    ann = await world.join("ann")
    acknowledged = 0
    for number in range(1_100):
        await ann.send("message", text="hello", id=number)
        acknowledged += sum(frame["type"] == "ack" for frame in await ann.all())
        await trio.sleep(1 / 5.5)
    assert ann.connection.closed is None
    assert acknowledged == pytest.approx(1_000, abs=12)


async def test_people_notice_nothing(
    world: World, limited: ClientLimits, autojump_clock: MockClock
) -> None:
    """Whoever stays within the rate is never refused."""
    ann = await world.join("ann")
    for _ in range(50):
        await trio.sleep(1)
        assert ["error"] * 0 == [kind for kind in await say(ann, 5) if kind == "error"]
    assert {} == limited.counted


async def test_everything_counts(
    world: World, limited: ClientLimits, autojump_clock: MockClock
) -> None:
    """Plain text, binary and nonsense cost as much as commands do; a refusal keeps the id."""
    ann = await world.join("ann")
    kinds: list[str | bytes] = ["hello", b"\0", "{", '{"type":"members","room":"lobby"}']
    for number in range(10):
        await ann.send_text(kinds[number % 4])
    await ann.all()
    for message in kinds[:3]:
        await ann.send_text(message)
        (error,) = await ann.all()
        assert ("rate_limited", None) == (error["code"], error.get("id"))


async def test_the_connections_of_a_user_share(
    world: World, limited: ClientLimits, autojump_clock: MockClock
) -> None:
    """Sixteen at once from both together; another user is not held up."""
    first, second = await world.join("ann"), await world.listen("ann")
    other = await world.join("bob")
    assert 10 == (await say(first, 10)).count("ack")
    await second.all()
    for _ in range(8):
        await second.send("list")
    kinds = [frame["type"] for frame in await second.all()]
    assert (6, 2) == (kinds.count("list"), kinds.count("error"))
    assert {"messages_per_user": 2} == limited.counted
    assert 10 == (await say(other, 10)).count("ack")


async def test_bytes_hold_up_reading(
    world: World, limited: ClientLimits, autojump_clock: MockClock
) -> None:
    """Too many bytes are not refused: what comes behind them waits."""
    ann = await world.join("ann")
    start = trio.current_time()
    for number in range(4):
        await ann.send("message", text="é" * 490, id=number)
    acknowledged: list[float] = []
    while len(acknowledged) < 4:
        with trio.fail_after(60):
            if (await ann.connection.from_app.receive())["type"] == "ack":
                acknowledged.append(trio.current_time() - start)
    size = len('{"type": "message", "text": "", "id": 0}') + 490 * len("\\u00e9")
    # 2,000 bytes at once, then 1,000 a second: each message waits until it is paid for.
    expected = [max(0, (count * size - 2000) / 1000) for count in (1, 2, 3, 4)]
    assert acknowledged == pytest.approx(expected)
    assert limited.counted["bytes"] == sum(wait > 0 for wait in expected)


async def test_joins(world: World, limited: ClientLimits, autojump_clock: MockClock) -> None:
    """Four joins at once besides the first room's; then two a second; rooms and topics."""
    ann = await world.join("ann")
    for room in ("a", "b", "a", "b"):
        assert "joined" == (await ann.ask("join", room=room))["type"]
    refused = await ann.ask("join", room="b", id=7)
    assert ("rate_limited", 7, 500) == (refused["code"], refused["id"], refused["retry"])
    await trio.sleep(0.5)
    assert "joined" == (await ann.ask("join", room="b"))["type"]
    bob = await world.listen("bob")
    await bob.all()
    answers = [await bob.ask("subscribe", topic="news") for _ in range(5)]
    assert ["subscribed"] * 4 + ["error"] == [answer["type"] for answer in answers]
    assert {"joins": 2} == limited.counted


async def test_rooms_of_a_gateway(nursery: trio.Nursery) -> None:
    """A room that others are in can be joined; a new one only while there is room for it."""
    hub = Hub(MemoryBroker(), limits=HubLimits(max_topics=2))
    await nursery.start(hub.run)
    world = World(hub, MemoryBroker(), nursery)
    ann = await world.join("ann")
    assert "joined" == (await ann.ask("join", room="second"))["type"]
    assert "no_more_rooms" == (await ann.ask("join", room="third"))["code"]
    bob = await world.join("bob", room="second")
    assert "joined" == (await bob.ask("join", room="lobby"))["type"]
    assert ["welcome", "error"] == [
        f["type"] for f in await (await world.connect("eve", room="x")).all()
    ]
    bell = await world.listen("bell")  # a user's own stream is bounded by the connections
    assert "welcome" == (await bell.receive())["type"]
    assert "no_more_topics" == (await bell.ask("subscribe", topic="news"))["code"]
    assert 3 == hub.statistics().crowded_out


async def test_no_limits(world: World, autojump_clock: MockClock) -> None:
    """Each can be turned off."""
    world.chat.limits = limits = ClientLimits(OFF)
    ann = await world.join("ann")
    kinds = await say(ann, 500)
    assert (500, {}) == (kinds.count("ack"), limits.counted)
    for _ in range(300):
        assert "joined" == (await ann.ask("join", room="a"))["type"]
    assert 0 == limits.take_api_request("192.0.2.1", 0.0)


def test_api_requests() -> None:
    """Each address has its own share."""
    limits = ClientLimits(Rates(api_requests_per_second=2, burst_seconds=1))
    answers = [limits.take_api_request("192.0.2.1", 5.0) for _ in range(3)]
    assert [0, 0, 0.5] == answers
    assert 0 == limits.take_api_request("192.0.2.2", 5.0)
    assert {"api_requests": 1} == limits.counted
