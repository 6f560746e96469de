"""The upgrade: one decision, in one piece, whoever tries and whatever has become of the peer."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketRequest

from tests.handshake.heads import ACCEPT, handshake, read_head
from tests.transport.fakes import PEER, FakeLink, link_setup, url
from trio_gateway.connection.connection import Connection
from trio_gateway.errors import (
    InvalidResponse,
    UpgradeAbandoned,
    UpgradeAlreadyDecided,
    UpgradeState,
)
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.handshake.upgrade import Upgrade
from trio_gateway.settings import Heartbeat, Limits
from trio_gateway.transport.timers import Timers

DRAINING = Refusal(503, "draining", "the gateway is going away")
HELLO = b"\x81\x85\0\0\0\0hello"  # a client's text frame
CHAT = b"Sec-WebSocket-Protocol: chat, superchat"


class Desk:
    """A gateway for one upgrade."""

    def __init__(self) -> None:
        self.decisions: list[UpgradeState] = []
        self.overdues = 0
        self.preventions = 0
        self.closes = 0

    def open(self, upgrade: Upgrade, subprotocol: str | None) -> Connection:
        return Connection(
            upgrade.link,
            head=upgrade.head,
            subprotocol=subprotocol,
            limits=Limits(),
            heartbeat=Heartbeat(),
            desk=self,
        )

    def admit_user(self, upgrade: Upgrade, user: str) -> None:
        """Everybody may have as many connections as they like."""

    def decided(self, upgrade: Upgrade) -> None:
        self.decisions.append(upgrade.state)

    def overdue(self, upgrade: Upgrade) -> None:
        self.overdues += 1
        upgrade.refuse(DRAINING)

    def prevented(self) -> None:
        self.preventions += 1

    def closed(self, connection: Connection) -> None:
        self.closes += 1


class World:
    """An upgrade that has begun."""

    def __init__(
        self,
        *fields: bytes,
        target: str = "/",
        rest: bytes = b"",
        max_early_bytes: int = 1024,
        timers: Timers | None = None,
        peer: Any = PEER,
    ) -> None:
        self.desk = Desk()
        self.link = FakeLink(link_setup(timers=timers), peer=peer)
        head = read_head(handshake(*fields, target=target))
        assert head.websocket is not None
        self.upgrade = Upgrade(
            self.link,
            head,
            head.websocket,
            params={"room": "lobby"},
            limits=Limits(max_early_bytes=max_early_bytes),
            desk=self.desk,
        )
        self.upgrade.begin(rest, decision_timeout=30)

    def read_head(self) -> list[bytes]:
        """Return the lines of what was answered, and check that it is one answer."""
        head, _, rest = self.link.read().partition(b"\r\n\r\n")
        assert b"" == rest
        return head.split(b"\r\n")

    def read_answer(self) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """Return the status line, the fields and the body of the answer."""
        head, _, body = self.link.read().partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines)
        assert len(lines) == len(fields)
        return status, fields, body


async def test_accepting() -> None:
    """The 101 is RFC 6455's; the connection is open and the link's next phase."""
    world = World()
    connection = await world.upgrade.accept()
    assert [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + ACCEPT,
    ] == world.read_head()
    assert world.upgrade.connection is connection is world.link.receiver
    assert (UpgradeState.ACCEPTED, None) == (world.upgrade.state, connection.closed)
    assert [UpgradeState.ACCEPTED] == world.desk.decisions


async def test_accepting_with_a_subprotocol_and_headers() -> None:
    """One of those offered, and headers as they were given."""
    world = World(CHAT)
    headers = [(b"X-Session", b"abc"), (b"Set-Cookie", b"a=b"), (b"set-cookie", b"c=\xe9")]
    connection = await world.upgrade.accept(subprotocol="superchat", extra_headers=headers)
    assert [
        b"Sec-WebSocket-Protocol: superchat",
        b"X-Session: abc",
        b"Set-Cookie: a=b",
        b"set-cookie: c=\xe9",
    ] == world.read_head()[4:]
    assert "superchat" == connection.subprotocol


async def test_early_frames() -> None:
    """What came behind the request and before the decision are the first messages."""
    world = World(rest=HELLO)
    world.link.feed(HELLO[:4])
    world.link.feed(HELLO[4:] + HELLO[:1])
    connection = await world.upgrade.accept()
    world.link.feed(HELLO[1:])
    for _ in range(3):
        assert "hello" == await connection.get_message()


async def test_early_bytes_are_bounded() -> None:
    """A peer that says a lot before the decision is not read any more until it falls."""
    world = World(max_early_bytes=20)
    world.link.feed(HELLO)
    assert not world.link.paused
    world.link.feed(HELLO)
    assert world.link.paused
    connection = await world.upgrade.accept()
    assert not world.link.paused
    assert ["hello"] * 2 == [await connection.get_message() for _ in range(2)]


async def test_accepting_a_peer_that_has_sent_its_last() -> None:
    """A half-closed socket is accepted, its frames delivered, and closed with 1006."""
    world = World()
    world.link.feed(HELLO)
    world.link.feed_eof()
    connection = await world.upgrade.accept()
    assert "hello" == await connection.get_message()
    with pytest.raises(ConnectionClosed):
        await connection.get_message()
    assert connection.closed is not None
    assert (1006, True) == (connection.closed.code, world.link.ended)


async def test_rejecting() -> None:
    """One line of JSON names the status; the socket is closed when the peer has had it."""
    world = World(rest=HELLO)
    await world.upgrade.reject(403, extra_headers=[(b"X-Why", b"no")])
    status, fields, body = world.read_answer()
    assert (b"HTTP/1.1 403 Forbidden", b"no") == (status, fields[b"X-Why"])
    assert (b"close", b"%d" % len(body)) == (fields[b"Connection"], fields[b"Content-Length"])
    assert (b"application/json", "forbidden") == (
        fields[b"Content-Type"],
        json.loads(body)["error"],
    )
    assert (True, False) == (world.link.eof_sent, world.link.ended)
    world.link.feed(HELLO)
    world.link.feed_eof()
    assert (True, b"", None) == (world.link.ended, world.link.read(), world.upgrade.connection)
    assert [UpgradeState.REJECTED] == world.desk.decisions


@pytest.mark.parametrize(
    "status, headers, body, expected",
    [
        (400, [], b"no", (b"no", b"text/plain; charset=utf-8", b"2")),
        (400, [], b"", (b"", None, b"0")),
        (400, [(b"content-type", b"image/png")], b"\x89", (b"\x89", None, b"1")),
        (400, [(b"Content-Type", b"image/png")], None, (b"", b"image/png", b"0")),
        (204, [], b"gone", (b"", None, None)),
        (205, [], b"gone", (b"", None, b"0")),
        (304, [], None, (b"", None, None)),
        (599, [], b"?", (b"?", b"text/plain; charset=utf-8", b"1")),
    ],
)
async def test_rejecting_with_a_body(
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes | None,
    expected: tuple[bytes, bytes | None, bytes | None],
) -> None:
    """The body as it is, with its length; none where the status has none (RFC 9110 §8.6)."""
    world = World()
    await world.upgrade.reject(status, extra_headers=headers, body=body)
    line, fields, received = world.read_answer()
    assert line.startswith(b"HTTP/1.1 %d " % status)
    assert expected == (received, fields.get(b"Content-Type"), fields.get(b"Content-Length"))


def accept(**arguments: Any) -> Callable[[Upgrade], Awaitable[object]]:
    return lambda upgrade: upgrade.accept(**arguments)


def reject(*positional: Any, **arguments: Any) -> Callable[[Upgrade], Awaitable[object]]:
    return lambda upgrade: upgrade.reject(*positional, **arguments)


DECISIONS = {"accept": accept(), "reject": reject(404)}
IMPOSSIBLE: dict[str, Callable[[Upgrade], Awaitable[object]]] = {
    "a subprotocol that was not offered": accept(subprotocol="mqtt"),
    "a subprotocol in other letters": accept(subprotocol="Chat"),
    "a subprotocol in bytes": accept(subprotocol=b"chat"),
    "an empty subprotocol": accept(subprotocol=""),
    "a line break in a value": accept(extra_headers=[(b"X-A", b"b\r\nX-C: d")]),
    "a bare line feed in a value": accept(extra_headers=[(b"X-A", b"b\nc")]),
    "NUL in a value": accept(extra_headers=[(b"X-A", b"\0")]),
    "a line break in a name": accept(extra_headers=[(b"X-A\r\nX-B", b"c")]),
    "a colon in a name": accept(extra_headers=[(b"X-A:", b"c")]),
    "a space in a name": accept(extra_headers=[(b"X A", b"c")]),
    "no name": accept(extra_headers=[(b"", b"c")]),
    "a name in text": accept(extra_headers=[("X-A", b"c")]),
    "a value in text": accept(extra_headers=[(b"X-A", "c")]),
    "an accept of one's own": accept(extra_headers=[(b"Sec-WebSocket-Accept", b"abc")]),
    "a subprotocol as a header": accept(extra_headers=[(b"sec-websocket-protocol", b"chat")]),
    "an extension as a header": accept(extra_headers=[(b"Sec-WebSocket-Extensions", b"x")]),
    "a length of a 101": accept(extra_headers=[(b"Content-Length", b"0")]),
    "chunks of a 101": accept(extra_headers=[(b"Transfer-Encoding", b"chunked")]),
    "an upgrade of a 101": accept(extra_headers=[(b"Upgrade", b"h2c")]),
    "rejecting with 101": reject(101),
    "rejecting with 100": reject(100),
    "rejecting with 199": reject(199),
    "rejecting with 600": reject(600),
    "rejecting with 0": reject(0),
    "rejecting with True": reject(True),
    "rejecting with a text": reject("404"),
    "rejecting with nothing": reject(None),
    "rejecting with a body in text": reject(404, body="no"),
    "rejecting with a line break": reject(404, extra_headers=[(b"X-A", b"b\r\n\r\nhi")]),
    "rejecting with a length": reject(404, extra_headers=[(b"Content-length", b"5")], body=b"x"),
    "rejecting and keeping alive": reject(404, extra_headers=[(b"Connection", b"keep-alive")]),
}


@pytest.mark.parametrize("attempt", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
async def test_an_answer_that_may_not_be_sent(
    attempt: Callable[[Upgrade], Awaitable[object]],
) -> None:
    """The caller is told, no byte is written, and the upgrade can still be decided."""
    world = World(CHAT)
    with pytest.raises(InvalidResponse) as told:
        await attempt(world.upgrade)
    assert isinstance(told.value, ValueError)
    assert (b"", UpgradeState.PENDING, []) == (
        world.link.read(),
        world.upgrade.state,
        world.desk.decisions,
    )
    await world.upgrade.accept(subprotocol="chat")
    assert b"HTTP/1.1 101 Switching Protocols" == world.read_head()[0]


@pytest.mark.parametrize("second", DECISIONS.values(), ids=DECISIONS.keys())
@pytest.mark.parametrize("first", DECISIONS.values(), ids=DECISIONS.keys())
async def test_a_second_decision(
    first: Callable[[Upgrade], Awaitable[object]],
    second: Callable[[Upgrade], Awaitable[object]],
) -> None:
    """Whoever decides again is told what stands; no byte is written, nobody is disturbed."""
    world = World()
    await first(world.upgrade)
    state, answer = world.upgrade.state, world.link.read()
    with pytest.raises(UpgradeAlreadyDecided, match=f"already {state.value}") as told:
        await second(world.upgrade)
    assert state is told.value.state is world.upgrade.state
    assert not isinstance(told.value, UpgradeAbandoned)
    assert answer
    assert (b"", [state], 1) == (world.link.read(), world.desk.decisions, world.desk.preventions)
    assert not world.link.ended


async def test_deciding_from_two_tasks_at_once() -> None:
    """Of ten tasks one decides, nine are told."""
    world = World()
    told: list[UpgradeAlreadyDecided] = []

    async def decide(attempt: Callable[[Upgrade], Awaitable[object]]) -> None:
        try:
            await attempt(world.upgrade)
        except UpgradeAlreadyDecided as error:
            told.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(decide, list(DECISIONS.values())[number % 2])
    assert (9, 9, 1) == (len(told), world.desk.preventions, len(world.desk.decisions))
    assert 1 == world.link.read().count(b"HTTP/1.1 ")


@pytest.mark.parametrize("attempt", DECISIONS.values(), ids=DECISIONS.keys())
async def test_a_cancelled_decision(attempt: Callable[[Upgrade], Awaitable[object]]) -> None:
    """It has not been made: no byte is written, and somebody else may decide."""
    world = World()
    with trio.CancelScope() as scope:
        scope.cancel()
        await attempt(world.upgrade)
    assert scope.cancelled_caught
    assert (b"", UpgradeState.PENDING) == (world.link.read(), world.upgrade.state)
    await world.upgrade.accept()


@pytest.mark.parametrize("attempt", DECISIONS.values(), ids=DECISIONS.keys())
async def test_deciding_when_the_peer_is_gone(
    attempt: Callable[[Upgrade], Awaitable[object]],
) -> None:
    """The upgrade is abandoned; that is no second decision, and it is a closed connection."""
    world = World()
    world.link.abort()
    assert UpgradeState.ABANDONED is world.upgrade.state
    for _ in range(2):
        with pytest.raises(UpgradeAbandoned, match="the peer left") as told:
            await attempt(world.upgrade)
        assert isinstance(told.value, ConnectionClosed)
        assert told.value.reason is not None
        assert 1006 == told.value.reason.code
    assert ([UpgradeState.ABANDONED], 0) == (world.desk.decisions, world.desk.preventions)


async def test_a_peer_that_is_gone_when_it_is_accepted() -> None:
    """A 101 that cannot be written abandons the upgrade; there is no connection."""
    world = World()
    world.link.broken = True
    with pytest.raises(UpgradeAbandoned):
        await world.upgrade.accept()
    assert (UpgradeState.ABANDONED, None) == (world.upgrade.state, world.upgrade.connection)
    assert ([UpgradeState.ABANDONED], True) == (world.desk.decisions, world.link.ended)


async def test_a_peer_that_is_gone_when_it_is_rejected() -> None:
    """An answer that cannot be written is nobody's fault."""
    world = World()
    world.link.broken = True
    await world.upgrade.reject(404)
    assert ([UpgradeState.REJECTED], True) == (world.desk.decisions, world.link.ended)


async def test_a_peer_that_leaves_after_the_decision() -> None:
    """The decision stands."""
    world = World()
    await world.upgrade.reject(404)
    world.link.abort()
    assert [UpgradeState.REJECTED] == world.desk.decisions


async def test_refusing() -> None:
    """The gateway's own rejection is a decision like any other, and says whether it was one."""
    world = World()
    assert world.upgrade.refuse(DRAINING)
    assert DRAINING.render() == world.link.read()
    assert not world.upgrade.refuse(DRAINING)
    assert (b"", [UpgradeState.REJECTED]) == (world.link.read(), world.desk.decisions)
    with pytest.raises(UpgradeAlreadyDecided):
        await world.upgrade.accept()


async def test_refusing_what_is_accepted() -> None:
    """Nothing happens to a connection."""
    world = World()
    connection = await world.upgrade.accept()
    world.link.read()
    assert not world.upgrade.refuse(DRAINING)
    assert (b"", None) == (world.link.read(), connection.closed)


async def test_a_decision_that_takes_too_long(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The desk is told at the deadline, and may decide; the handler is told when it tries."""
    timers = Timers()
    nursery.start_soon(timers.run)
    world = World(timers=timers)
    await trio.sleep(29)
    assert 0 == world.desk.overdues
    await trio.sleep(2)
    assert 1 == world.desk.overdues
    assert DRAINING.render() == world.link.read()
    with pytest.raises(UpgradeAlreadyDecided):
        await world.upgrade.accept()


async def test_a_decision_in_time_ends_its_deadline(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The deadline of the decision does not reach into the connection's life."""
    timers = Timers()
    nursery.start_soon(timers.run)
    world = World(timers=timers)
    connection = await world.upgrade.accept()
    world.link.read()
    await trio.sleep(24)
    assert (0, b"", None) == (world.desk.overdues, world.link.read(), connection.closed)


async def test_what_a_handler_sees() -> None:
    """trio-websocket's names, and the path's and the query's values."""
    world = World(
        CHAT, b"Cookie: a=b", target="/rooms/lobby?user=J%C3%BCrgen&x=1&x=2&empty=&plus=a+b"
    )
    upgrade = world.upgrade
    assert isinstance(upgrade, WebSocketRequest)
    assert "/rooms/lobby?user=J%C3%BCrgen&x=1&x=2&empty=&plus=a+b" == upgrade.path
    assert {"user": "Jürgen", "x": "2", "empty": "", "plus": "a b"} == upgrade.query
    assert {"room": "lobby"} == upgrade.params
    assert ("chat", "superchat") == upgrade.proposed_subprotocols
    names = [name for name, _ in upgrade.headers]
    assert (b"cookie", b"a=b") in upgrade.headers
    assert not {b"host", b"sec-websocket-protocol"} & set(names)
    assert (b"host", b"gateway.test") in upgrade.head.headers
    assert ("ws://192.0.2.7:50000", "ws://192.0.2.1:443") == (
        url(upgrade.remote),
        url(upgrade.local),
    )


@pytest.mark.parametrize("peer", ["", None, ("192.0.2.7", 99999)])
async def test_addresses_never_raise(peer: object) -> None:
    """Whatever the socket, before and after its end."""
    world = World(peer=peer)
    assert world.upgrade.remote
    world.link.abort()
    assert world.upgrade.remote
    assert world.upgrade.local


async def test_waiting_for_the_end_of_the_link() -> None:
    """The event is set with the end, and at once after it."""
    world = World()
    before = world.upgrade.link_ended
    assert not before.is_set()
    world.link.abort()
    assert before.is_set()
    assert world.upgrade.link_ended.is_set()


def test_every_public_name_is_ours() -> None:
    """The base class's ``__init__`` is not called, so nothing of it may be reached."""
    theirs = {name for name in vars(WebSocketRequest) if not name.startswith("_")}
    assert theirs
    assert theirs <= vars(Upgrade).keys()
