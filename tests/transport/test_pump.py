"""The pump: bounded reads, stale events, broken sockets, overload; each socket for itself."""

import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.transport.fakes import LOCAL, Recorder, link_setup, nothing, on_virtual_time, url
from trio_gateway.transport.link import LinkSetup
from trio_gateway.transport.listeners import duplicate
from trio_gateway.transport.pollers import ERROR, HANGUP, READ, WRITE, Poller, open_poller
from trio_gateway.transport.pump import ListeningSocket, Pump, SocketLink
from trio_gateway.transport.signal import Signal
from trio_gateway.transport.sockets import Socket
from trio_gateway.transport.timers import Timers

LOBBY = -1


class FakePoller:
    """A poller that says what a test wants it to say, true or not."""

    def __init__(self) -> None:
        self.watched: dict[int, int] = {}
        self.forgotten: list[int] = []
        self.asked_for: list[int] = []
        self.closed = False
        self.inner: FakePoller | None = None
        self._ready: list[tuple[int, int]] = []
        self._said = Signal()

    def register(self, fd: int, events: int) -> None:
        assert fd not in self.watched
        self.watched[fd] = events

    def modify(self, fd: int, events: int) -> None:
        assert fd in self.watched
        self.watched[fd] = events

    def unregister(self, fd: int) -> None:
        del self.watched[fd]

    def nest(self) -> "tuple[int, FakePoller]":
        assert self.inner is None
        self.inner = FakePoller()
        return LOBBY, self.inner

    def forget(self, fd: int) -> None:
        os.fstat(fd)  # an OSError: it is closed already
        del self.watched[fd]
        self.forgotten.append(fd)

    def poll(self, max_events: int) -> list[tuple[int, int]]:
        self.asked_for.append(max_events)
        ready, self._ready = self._ready[:max_events], self._ready[max_events:]
        return ready

    async def wait(self) -> None:
        if self._ready:
            self._said.set()
        await self._said.wait()

    def close(self) -> None:
        self.closed = True

    def have(self, *events: tuple[int, int]) -> None:
        """Report these, in this order, when asked."""
        self._ready.extend(events)

    async def say(self, *events: tuple[int, int]) -> None:
        """Report these, in this order, and let the pump act on them."""
        self.have(*events)
        self._said.set()
        await wait_all_tasks_blocked()


@attrs.define
class Peer:
    """A link in the pump, and the other end of its socket."""

    link: SocketLink
    receiver: Recorder
    sock: socket.socket
    fd: int


class World:
    """A pump with socket pairs."""

    def __init__(self, poller: Poller, setup: LinkSetup) -> None:
        self.pump = Pump(poller)
        (self.lobby,) = self.pump.ends.values()
        self.setup = setup
        self.peers: list[Peer] = []

    def connect(
        self,
        reaction: Callable[[str], object] | None = None,
        *,
        setup: LinkSetup | None = None,
        send_buffer: int | None = None,
        new: bool = False,
    ) -> Peer:
        ours, theirs = socket.socketpair()
        if send_buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        for sock in (ours, theirs):
            sock.setblocking(False)
        link = SocketLink(ours, self.pump, setup or self.setup, peer="", local="")
        link.receiver = receiver = Recorder(reaction)
        if not new:
            link.let_in()
        self.peers.append(Peer(link, receiver, theirs, ours.fileno()))
        return self.peers[-1]

    def close(self) -> None:
        for peer in self.peers:
            peer.link.abort()
            peer.sock.close()
        assert [self.lobby] == list(self.pump.ends.values())
        self.pump.close()
        assert {} == self.pump.ends


@pytest.fixture
def poller() -> FakePoller:
    return FakePoller()


@pytest.fixture
async def world(nursery: trio.Nursery, poller: FakePoller) -> Any:
    world = World(poller, link_setup(max_read=4))
    nursery.start_soon(world.pump.run)
    yield world
    world.close()
    assert ({}, True) == (poller.watched, poller.closed)


@pytest.fixture
async def real(nursery: trio.Nursery) -> Any:
    """A world whose poller is this platform's."""
    poller = open_poller()
    assert poller is not None
    world = World(poller, link_setup())
    nursery.start_soon(world.pump.run)
    yield world
    nursery.cancel_scope.cancel()
    world.close()


async def test_one_read_a_turn(world: World, poller: FakePoller) -> None:
    """An event is one read of at most so many bytes; the rest comes with the next."""
    peer = world.connect()
    peer.sock.send(b"abcdef")
    await poller.say((peer.fd, READ))
    assert [b"abcd"] == peer.receiver.events
    await poller.say((peer.fd, READ))
    assert [b"abcd", b"ef"] == peer.receiver.events


async def test_stale_events(world: World, poller: FakePoller) -> None:
    """Events that are not true, or of descriptors nobody knows, do nothing."""
    peer = world.connect()
    await poller.say((peer.fd, READ), (peer.fd, READ | WRITE), (peer.fd, ERROR), (9999, READ))
    assert ([], False) == (peer.receiver.events, peer.link.ended)


async def test_turns_are_bounded(world: World, poller: FakePoller) -> None:
    """No turn takes more than 64 events, however many there are."""
    peer = world.connect()
    peer.sock.send(b"x" * 400)
    await poller.say(*[(peer.fd, READ)] * 100)
    assert {64} == set(poller.asked_for)
    assert 100 == len(peer.receiver.events)


async def test_newcomers_do_not_come_first(world: World, poller: FakePoller) -> None:
    """However many have sent something, a turn sees to 8, between those who are in."""
    inner = poller.inner
    assert inner is not None
    there, newcomer = world.connect(), world.connect(new=True)
    assert ([there.fd], [newcomer.fd]) == (list(poller.watched), list(inner.watched))
    inner.have(*[(newcomer.fd, READ)] * 100)
    there.sock.send(b"x")
    await poller.say((LOBBY, READ), (there.fd, READ))
    assert [b"x"] == there.receiver.events
    assert [8] == inner.asked_for


async def test_a_newcomer_is_let_in(world: World, poller: FakePoller) -> None:
    """What it was watched for in the lobby it is watched for among the others; once."""
    inner = poller.inner
    assert inner is not None
    peer = world.connect(new=True)
    peer.link.pause()
    peer.link.let_in()
    peer.link.let_in()
    assert ({}, {peer.fd: 0}) == (inner.watched, poller.watched)
    peer.link.resume()
    peer.sock.send(b"x")
    await poller.say((peer.fd, READ))
    assert [b"x"] == peer.receiver.events
    gone = world.connect(new=True)
    gone.link.abort()
    gone.link.let_in()
    assert ([gone.fd], {}) == (inner.forgotten, inner.watched)


async def test_the_end_of_the_input(world: World, poller: FakePoller) -> None:
    """It is told once, and reading is not asked for any more; what we send still goes out."""
    peer = world.connect()
    peer.sock.shutdown(socket.SHUT_WR)
    await poller.say((peer.fd, READ))
    assert (["eof"], 0) == (peer.receiver.events, poller.watched[peer.fd])
    peer.link.resume()
    assert 0 == poller.watched[peer.fd]
    peer.link.outbox.write(b"bye")
    assert b"bye" == peer.sock.recv(9)


async def test_both_directions_are_over(world: World, poller: FakePoller) -> None:
    """An event behind the end of the input is the end of the link: nobody asked for it."""
    peer = world.connect()
    peer.sock.close()
    await poller.say((peer.fd, READ | HANGUP))
    assert ["eof"] == peer.receiver.events
    await poller.say((peer.fd, HANGUP))
    assert (["eof", "lost"], True) == (peer.receiver.events, peer.link.ended)


async def test_a_broken_socket(world: World, poller: FakePoller) -> None:
    """A read that fails ends the link, and takes the socket out of the poll first."""
    peer = world.connect()
    peer.link.outbox.write(b"never read: closing resets")
    peer.sock.close()
    await poller.say((peer.fd, READ | ERROR | HANGUP))
    assert (["lost"], [peer.fd]) == (peer.receiver.events, poller.forgotten)


async def test_a_broken_send(world: World) -> None:
    """A write that fails ends the link."""
    peer = world.connect()
    peer.sock.close()
    peer.link.outbox.write(b"hello")
    assert ["lost"] == peer.receiver.events


async def test_pausing(world: World, poller: FakePoller) -> None:
    """A paused link is watched for nothing, and for reading again once resumed."""
    peer = world.connect()
    peer.link.pause()
    peer.link.pause()
    assert 0 == poller.watched[peer.fd]
    peer.link.resume()
    assert READ == poller.watched[peer.fd]
    peer.link.abort()
    peer.link.pause()
    peer.link.want_write()
    assert peer.fd not in poller.watched


async def test_what_does_not_fit(world: World, poller: FakePoller) -> None:
    """Writing is asked for while something waits, beside reading or alone, and never longer."""
    peer = world.connect(send_buffer=4096)
    data = bytes(range(256)) * 200
    peer.link.outbox.write(data)
    assert READ | WRITE == poller.watched[peer.fd]
    peer.link.pause()
    assert WRITE == poller.watched[peer.fd]
    peer.link.resume()
    received = b""
    while len(received) < len(data):
        received += peer.sock.recv(65_536)
        await poller.say((peer.fd, WRITE))
    assert (data, READ) == (received, poller.watched[peer.fd])


async def test_reading_may_end_a_link_that_could_write(world: World, poller: FakePoller) -> None:
    """Of an event for both, nothing is written once reading has ended the link."""

    def abort(_: str) -> None:
        peer.link.abort()

    peer = world.connect(abort, send_buffer=4096)
    peer.link.outbox.write(bytes(50_000))
    peer.sock.send(b"x")
    await poller.say((peer.fd, READ | WRITE))
    assert [b"x", "lost"] == peer.receiver.events


async def test_a_number_that_is_used_again_in_one_turn(world: World, poller: FakePoller) -> None:
    """An event of a closed socket does not disturb the new one that got its number."""
    successors: list[Peer] = []

    def replace(_: str) -> None:
        second.link.abort()
        successors.append(world.connect())

    first = world.connect(lambda event: replace(event) if event == "feed" else None)
    second = world.connect()
    second.sock.close()
    first.sock.send(b"x")
    await poller.say((first.fd, READ), (second.fd, READ | ERROR | HANGUP))
    (successor,) = successors
    assert second.fd == successor.fd
    assert ([], False) == (successor.receiver.events, successor.link.ended)
    successor.sock.send(b"y")
    await poller.say((successor.fd, READ))
    assert [b"y"] == successor.receiver.events


async def test_an_exception_ends_one_link(
    world: World, poller: FakePoller, caplog: pytest.LogCaptureFixture
) -> None:
    """The others of the same turn are served as if nothing had been."""

    def fail(event: str) -> None:
        if event == "feed":
            raise RuntimeError("no")

    peers = [world.connect(), world.connect(fail), world.connect()]
    for peer in peers:
        peer.sock.send(b"x")
    await poller.say(*((peer.fd, READ) for peer in peers))
    assert [[b"x"], [b"x", "lost"], [b"x"]] == [peer.receiver.events for peer in peers]
    assert 1 == len(caplog.records)


async def test_an_exception_where_there_should_be_none(
    world: World, poller: FakePoller, caplog: pytest.LogCaptureFixture
) -> None:
    """Even one that is not the receiver's ends that link alone."""
    other = world.connect()
    peer = world.connect(setup=link_setup(max_read=-1))  # recv() raises ValueError
    other.sock.send(b"x")
    await poller.say((peer.fd, READ), (other.fd, READ))
    assert (["lost"], [b"x"]) == (peer.receiver.events, other.receiver.events)
    assert ["a socket failed"] == [record.message for record in caplog.records]


async def test_lingering_over_a_socket(world: World, poller: FakePoller) -> None:
    """The peer sees our end of file, may say more, and is gone with its own."""
    peer = world.connect()
    peer.link.outbox.write(b"bye")
    peer.link.finish()
    assert (b"bye", b"") == (peer.sock.recv(9), peer.sock.recv(9))
    peer.sock.send(b"more")
    await poller.say((peer.fd, READ))
    assert not peer.link.ended
    peer.sock.close()
    await poller.say((peer.fd, READ))
    assert peer.link.ended


async def test_finishing_when_the_peer_has_reset(world: World) -> None:
    """An end of file that cannot be sent ends the link."""
    listening = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listening.getsockname())
    ours, address = listening.accept()
    listening.close()
    ours.setblocking(False)
    port = ours.getsockname()[1]
    link = SocketLink(ours, world.pump, world.setup, peer=address, local=LOCAL)
    before = url(link.local)
    reset(theirs)
    link.finish()
    assert link.ended
    assert (f"ws://127.0.0.1:{port}", "ws://192.0.2.1:443") == (before, url(link.local))


def reset(sock: socket.socket) -> None:
    """Close a TCP socket with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_a_reset_is_noticed_while_paused(real: World) -> None:
    """Out of the poll, a peer that breaks off is still seen, on a real TCP socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listening.getsockname())
    ours, address = listening.accept()
    listening.close()
    ours.setblocking(False)
    link = SocketLink(ours, real.pump, real.setup, peer=address, local="")
    link.receiver = receiver = Recorder()
    link.pause()
    theirs.send(b"unread")
    await wait_all_tasks_blocked()
    assert [] == receiver.events
    reset(theirs)
    with trio.fail_after(5):
        while not link.ended:
            await trio.lowlevel.checkpoint()
    assert "lost" == receiver.events[-1]


PROGRAMS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(1, 300)),
        st.tuples(st.sampled_from(["pause", "resume", "turn"]), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("answer"), st.integers(0, 2), st.integers(1, 20_000)),
        st.tuples(st.sampled_from(["hang up", "abort", "fail"]), st.integers(0, 2), st.just(0)),
    ),
    max_size=30,
)


@given(PROGRAMS)
def test_bytes_come_and_go(program: list[tuple[str, int, int]]) -> None:
    """Three sockets, paused, resumed, ended: each gets its own bytes, in order and once."""
    poller = open_poller()
    assert poller is not None
    logging.getLogger("trio_gateway").disabled = True
    try:
        on_virtual_time(_bytes_come_and_go, program, poller)
    finally:
        logging.getLogger("trio_gateway").disabled = False


async def _bytes_come_and_go(program: list[tuple[str, int, int]], poller: Poller) -> None:
    world = World(poller, link_setup(max_read=64))
    failing: set[int] = set()

    def reaction(number: int) -> Callable[[str], None]:
        def react(event: str) -> None:
            if event == "feed" and number in failing:
                raise RuntimeError("no")

        return react

    peers = [world.connect(reaction(number), send_buffer=4096) for number in range(3)]
    sent, answered, answers = ([bytearray() for _ in peers] for _ in range(3))
    broken: set[int] = set()  # nothing more is promised
    counter = 0

    def bytes_of(size: int) -> bytes:
        nonlocal counter
        counter += size
        return bytes((counter + index) % 251 for index in range(size))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.pump.run)
        for operation, number, size in program:
            peer = peers[number]
            try:
                match operation:
                    case "send":
                        data = bytes_of(size)
                        sent[number] += data[: peer.sock.send(data)]
                    case "answer":
                        answers[number] += (data := bytes_of(size))
                        peer.link.outbox.write(data)
                    case "pause":
                        peer.link.pause()
                    case "resume":
                        peer.link.resume()
                    case "hang up":
                        peer.sock.shutdown(socket.SHUT_WR)
                    case "fail":
                        failing.add(number)
                        broken.add(number)
                    case "abort":
                        broken.add(number)
                        peer.link.abort()
                    case _:
                        await wait_all_tasks_blocked()
            except OSError:
                assert number in broken or peer.link.eof or operation == "send"
        for peer in peers:
            peer.link.resume()
        before = -1
        while sum(map(len, answered)) > before:
            before = sum(map(len, answered))
            await wait_all_tasks_blocked()
            for number, peer in enumerate(peers):
                try:
                    answered[number] += peer.sock.recv(65_536)
                except OSError:
                    pass
        for number, peer in enumerate(peers):
            received = b"".join(event for event in peer.receiver.events if isinstance(event, bytes))
            assert sent[number].startswith(received)
            assert answers[number].startswith(answered[number])
            if number not in broken:
                assert (bytes(sent[number]), answers[number]) == (received, answered[number])
                assert not peer.link.ended
        nursery.cancel_scope.cancel()
    world.close()


class Scripted(socket.socket):
    """A listening socket whose next accepts fail as a test says."""

    errors: list[int]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


@attrs.define
class Door:
    """A listening socket in a pump with fake pollers; ``poller`` is the lobby's."""

    outer: FakePoller
    poller: FakePoller
    listening: ListeningSocket
    sock: Scripted
    fd: int
    accepted: list[tuple[Any, Any, Any]]
    knocking: list[socket.socket] = attrs.Factory(list)
    failing: bool = False
    crowded: bool = False

    def knock(self, times: int) -> None:
        for _ in range(times):
            self.knocking.append(socket.create_connection(self.sock.getsockname()))

    async def open(self) -> None:
        self.poller.have((self.fd, READ))
        await self.outer.say((LOBBY, READ))


@pytest.fixture
async def door(nursery: trio.Nursery, poller: FakePoller) -> Any:
    timers = Timers()
    pump = Pump(poller)
    nursery.start_soon(timers.run)
    nursery.start_soon(pump.run)
    sock = Scripted()
    sock.errors = []
    sock.bind(("127.0.0.1", 0))
    sock.listen(100)
    sock.setblocking(False)

    accepted: list[tuple[Any, Any, Any]] = []

    def accept(sock: Socket, peer: Any, local: Any) -> None:
        accepted.append((sock, peer, local))
        if this.failing:
            raise RuntimeError("no")

    fd = sock.fileno()
    assert poller.inner is not None
    listening = ListeningSocket(sock, pump, timers, accept, lambda: this.crowded)
    this = Door(poller, poller.inner, listening, sock, fd, accepted)
    yield this
    this.listening.close()
    assert ({}, 0) == (this.poller.watched, len(timers))
    pump.close()
    assert {} == pump.ends
    for each in [*this.knocking, *(sock for sock, _, _ in accepted)]:
        each.close()


async def test_accepting(door: Door) -> None:
    """All that wait are accepted, ready for the pump, with both addresses."""
    door.knock(2)
    address = door.sock.getsockname()
    await door.open()
    assert [(knock.getsockname(), address) for knock in door.knocking] == [
        (peer, local) for _, peer, local in door.accepted
    ]
    for sock, _, _ in door.accepted:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_accepts_are_bounded(door: Door) -> None:
    """A turn accepts 32; the others have to wait for the next, and existing sockets do not."""
    door.knock(40)
    await door.open()
    assert 32 == len(door.accepted)
    await door.open()
    assert 40 == len(door.accepted)


async def test_giving_way(door: Door, autojump_clock: MockClock) -> None:
    """Before each batch for which there is no room here, others have a moment to take it."""
    door.crowded = True
    door.knock(40)
    for accepted in (32, 40):
        await door.open()
        assert 0 == door.poller.watched[door.fd]
        await trio.sleep(0.2)
        assert READ == door.poller.watched[door.fd]
        await door.open()
        assert accepted == len(door.accepted)
    door.crowded = False
    door.knock(1)
    await door.open()
    assert 41 == len(door.accepted)


async def test_peers_that_left_in_the_queue(door: Door) -> None:
    """An accept that fails for the peer's reasons costs the next in line nothing."""
    door.knock(1)
    door.sock.errors = [errno.ECONNABORTED, errno.EPROTO, errno.EPERM]
    await door.open()
    assert 1 == len(door.accepted)


async def test_a_socket_that_cannot_be_taken(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """It is closed and logged; the next one is accepted."""
    door.failing = True
    door.knock(2)
    await door.open()
    assert [-1, -1] == [sock.fileno() for sock, _, _ in door.accepted]
    assert ["a new connection could not be taken"] * 2 == [
        record.message for record in caplog.records
    ]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_overload(
    door: Door, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """Out of descriptors or memory the listener rests for a moment and says so once a second."""
    door.sock.errors = [number] * 25  # six seconds
    while door.sock.errors:
        assert READ == door.poller.watched[door.fd]
        await door.open()
        assert 0 == door.poller.watched[door.fd]
        await trio.sleep(0.25)
    text = f"cannot accept connections: {os.strerror(number)}; trying again"
    assert [text] * len(caplog.records) == [record.message for record in caplog.records]
    assert 7 == len(caplog.records)
    assert not any(record.exc_info for record in caplog.records)
    door.knock(1)
    await door.open()
    assert 1 == len(door.accepted)


async def test_a_unix_socket(world: World, poller: FakePoller, tmp_path: Path) -> None:
    """It is listened on and accepted from like any other, without TCP's options."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "gateway"))
    sock.listen()
    sock.setblocking(False)
    accepted: list[tuple[Any, Any, Any]] = []

    def accept(*arguments: Any) -> None:
        accepted.append(arguments)

    fd = sock.fileno()
    listening = ListeningSocket(sock, world.pump, Timers(), accept)
    with socket.socket(socket.AF_UNIX) as knock:
        knock.connect(str(tmp_path / "gateway"))
        assert poller.inner is not None
        poller.inner.have((fd, READ))
        await poller.say((LOBBY, READ))
    ((ours, peer, local),) = accepted
    assert ("", str(tmp_path / "gateway")) == (peer, local)
    ours.close()
    listening.close()


async def test_closing_while_resting(
    door: Door, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener that is closed does not come back when its rest is over."""
    door.sock.errors = [errno.EMFILE]
    await door.open()
    door.listening.close()
    door.listening.close()
    await trio.sleep(1)
    assert ({}, [door.fd]) == (door.poller.watched, door.poller.forgotten)
    assert 1 == len(caplog.records)  # the overload


async def test_a_listening_socket_that_was_shut_down(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of once and let go: its poller would report it for ever."""
    door.sock.errors = [errno.EINVAL]
    await door.open()
    assert ([door.fd], 1) == (door.poller.forgotten, len(caplog.records))


async def test_an_exception_does_not_end_a_listener(door: Door) -> None:
    """Nor does the pump's giving up on it."""
    door.listening.abort()
    door.knock(1)
    await door.open()
    assert 1 == len(door.accepted)


@pytest.fixture
def original() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


async def test_a_closed_listener_is_not_watched_any_more(
    real: World, original: socket.socket
) -> None:
    """Though the socket it was duplicated from is open and somebody knocks: the pump rests.

    An epoll watches a socket until its last descriptor is closed; a gateway that drained spun.
    """
    copy = duplicate(trio.socket.from_stdlib_socket(original))
    listening = ListeningSocket(copy, real.pump, Timers(), nothing)
    listening.close()
    with socket.create_connection(original.getsockname()):
        assert [] == real.pump.lobby.poll(64)
