"""A link: one receiver at a time, one end, and what was held is given back then."""

import logging
from unittest import mock

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.transport.fakes import (
    PEER,
    FakeLink,
    Recorder,
    Thing,
    link_setup,
    on_virtual_time,
    url,
)
from trio_gateway.settings import Timeouts
from trio_gateway.transport.link import Link, LinkSetup, Receiver
from trio_gateway.transport.outbox import Verdict
from trio_gateway.transport.timers import Timers

TIMEOUTS = Timeouts(closing_timeout=8, linger_timeout=2, send_timeout=20)
MIB = 1024 * 1024


class Ends:
    """Who has ended."""

    def __init__(self) -> None:
        self.links: list[Link] = []

    def __call__(self, link: Link) -> None:
        self.links.append(link)


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
async def setup(nursery: trio.Nursery, ends: Ends) -> LinkSetup:
    timers = Timers()
    nursery.start_soon(timers.run)
    return link_setup(timers=timers, timeouts=TIMEOUTS, ended=ends)


def receiving(link: FakeLink) -> Recorder:
    """Return the link's receiver from now on."""
    receiver = Recorder()
    link.receiver = receiver
    return receiver


async def test_the_phase_gets_what_comes(setup: LinkSetup) -> None:
    """Bytes in order; the end of the input once, however often the source says it."""
    link = FakeLink(setup)
    receiver = receiving(link)
    link.feed(b"one")
    link.feed(b"two")
    link.feed_eof()
    link.feed_eof()
    link.stalled()
    assert ([b"one", b"two", "eof", "stalled"], True) == (receiver.events, link.eof)


async def test_a_phase_needs_to_mind_nothing(setup: LinkSetup) -> None:
    """A receiver that overrides nothing takes every call; it is what a link begins with."""
    link = FakeLink(setup)
    link.feed(b"nobody is there yet")
    link.feed_eof()
    link.expire()
    link.stalled()
    link.enter(Receiver())
    link.abort()
    assert 1 == link.closes


async def test_entering_a_phase(setup: LinkSetup) -> None:
    """The next phase is read for, and gets what came behind the last one."""
    link = FakeLink(setup)
    link.pause()
    receiver = Recorder()
    link.enter(receiver, b"rest")
    link.enter(Recorder())
    assert ([b"rest"], False) == (receiver.events, link.paused)


async def test_entering_a_phase_after_the_end_of_the_input(setup: LinkSetup) -> None:
    """A phase that begins when the peer has said all is told so, behind the rest."""
    link = FakeLink(setup)
    link.feed_eof()
    receiver = Recorder()
    link.enter(receiver, b"rest")
    assert [b"rest", "eof"] == receiver.events


async def test_a_phase_that_goes_on_at_its_first_bytes_hears_of_no_end(setup: LinkSetup) -> None:
    """The end of the input is told to the phase that is there then."""
    link, second = FakeLink(setup), Recorder()
    link.feed_eof()
    first = Recorder(lambda event: link.enter(second))
    link.enter(first, b"rest")
    assert ([b"rest"], ["eof"]) == (first.events, second.events)


async def test_abort(setup: LinkSetup, ends: Ends) -> None:
    """The phase is told, what is held given back, the socket closed, the gateway told: once."""
    link, things = FakeLink(setup, capacity=0), [Thing(), Thing()]
    receiver = receiving(link)
    for thing in things:
        link.hold(thing)
    link.outbox.write(b"never sent")
    link.deadline(1)
    link.abort()
    link.abort()
    link.finish()
    link.feed(b"late")
    link.feed_eof()
    link.expire()
    link.stalled()
    link.deadline(1)
    assert ["lost"] == receiver.events
    assert (1, [1, 1], [link]) == (link.closes, [thing.closes for thing in things], ends.links)
    assert (True, 0, Verdict.CLOSED) == (link.ended, len(setup.timers), link.outbox.write(b"x"))
    assert b"" == link.read()


async def test_holding_on_to_a_link_that_is_gone(setup: LinkSetup) -> None:
    """What is given to a link too late is given back at once."""
    link, thing = FakeLink(setup), Thing()
    link.abort()
    link.hold(thing)
    assert 1 == thing.closes


@pytest.mark.parametrize("event", ["feed", "eof", "expired", "stalled"])
async def test_an_exception_in_a_phase_ends_its_link(
    setup: LinkSetup, ends: Ends, caplog: pytest.LogCaptureFixture, event: str
) -> None:
    """It is logged with the peer's address and goes no further."""
    link, thing = FakeLink(setup), Thing()
    link.hold(thing)

    def fail(happening: str) -> None:
        if happening == event:
            raise RuntimeError("no")

    receiver = link.receiver = Recorder(fail)
    {
        "feed": lambda: link.feed(b"x"),
        "eof": link.feed_eof,
        "expired": link.expire,
        "stalled": link.stalled,
    }[event]()
    assert ([b"x" if event == "feed" else event, "lost"], [link]) == (receiver.events, ends.links)
    assert (1, 1) == (link.closes, thing.closes)
    (record,) = caplog.records
    assert "connection from 192.0.2.7 failed" == record.message
    assert record.exc_info is not None


async def test_an_exception_at_the_end(
    setup: LinkSetup, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    """A phase that fails in its last call keeps neither the socket nor what is held."""
    link, thing = FakeLink(setup), Thing()
    link.hold(thing)

    def fail(_: str) -> None:
        raise RuntimeError("no")

    link.receiver = Recorder(fail)
    link.abort()
    assert (1, 1, [link]) == (link.closes, thing.closes, ends.links)
    assert ["the end of a connection failed"] == [record.message for record in caplog.records]


async def test_a_phase_may_end_its_link(setup: LinkSetup, ends: Ends) -> None:
    """Aborting from inside each call, the last one included, ends the link once."""
    link = FakeLink(setup)
    link.receiver = Recorder(lambda _: link.abort())
    link.feed(b"x")
    assert (1, [link]) == (link.closes, ends.links)


async def test_a_broken_socket_ends_its_link(setup: LinkSetup, ends: Ends) -> None:
    """A send that fails is the end, in the middle of whatever sent."""
    link = FakeLink(setup)
    receiver = receiving(link)
    link.broken = True
    assert Verdict.CLOSED is link.outbox.write(b"hello")
    assert (["lost"], [link]) == (receiver.events, ends.links)


async def test_deadlines(setup: LinkSetup, autojump_clock: MockClock) -> None:
    """The last deadline counts; one that was taken back does not."""
    link = FakeLink(setup)
    receiver = receiving(link)
    link.deadline(100)
    link.deadline(1)
    await trio.sleep(2)
    assert ["expired"] == receiver.events
    link.deadline(1)
    link.no_deadline()
    await trio.sleep(200)
    assert ["expired"] == receiver.events


async def test_finishing_lingers_for_the_peer(setup: LinkSetup, autojump_clock: MockClock) -> None:
    """The last bytes go out, then our end of file, and the socket waits for the peer's."""
    link = FakeLink(setup, capacity=3)
    receiver = receiving(link)
    link.pause()
    link.outbox.write(b"goodbye")
    link.finish()
    assert (False, False, b"goo") == (link.paused, link.eof_sent, link.read())
    link.feed(b"nobody wants this")
    link.make_room()
    assert (b"dbye", True, False) == (link.read(), link.eof_sent, link.ended)
    link.feed(b"nor this")
    await trio.sleep(1)
    assert not link.ended
    link.feed_eof()
    assert (True, 1, []) == (link.ended, link.closes, receiver.events)


async def test_a_peer_that_never_hangs_up(setup: LinkSetup, autojump_clock: MockClock) -> None:
    """Lingering lasts for the linger timeout, whatever the peer goes on sending."""
    link = FakeLink(setup)
    link.finish()
    for _ in range(3):
        link.feed(b"more")
        await trio.sleep(0.5)
    assert not link.ended
    await trio.sleep(1)
    assert link.ended


async def test_a_peer_that_never_reads(setup: LinkSetup, autojump_clock: MockClock) -> None:
    """What cannot be sent is given up at the closing timeout."""
    link = FakeLink(setup, capacity=0)
    link.outbox.write(b"goodbye")
    link.finish()
    await trio.sleep(7.9)
    assert not link.ended
    await trio.sleep(0.3)
    assert link.ended


async def test_a_peer_that_reads_slowly(setup: LinkSetup, autojump_clock: MockClock) -> None:
    """It is given the closing timeout again for as long as it goes on reading."""
    link = FakeLink(setup, capacity=0)
    link.outbox.write(bytes(100))
    link.finish()
    for _ in range(5):
        await trio.sleep(7)
        link.make_room(10)
    assert not link.ended
    await trio.sleep(16.3)
    assert (True, 50, False) == (link.ended, len(link.read()), link.eof_sent)


async def test_a_stall_ends_a_finishing_link(setup: LinkSetup) -> None:
    """Told of no progress before the closing timeout, it gives up as well."""
    link = FakeLink(setup, capacity=0)
    link.outbox.write(b"goodbye")
    link.finish()
    link.stalled()
    assert link.ended


async def test_a_peer_that_floods_a_lingering_link(setup: LinkSetup) -> None:
    """Sixteen megabytes are read and forgotten; more is not waited for."""
    link = FakeLink(setup)
    link.finish()
    for _ in range(16):
        link.feed(bytes(MIB))
    assert not link.ended
    link.feed(b"x")
    assert link.ended


async def test_finishing_without_lingering(setup: LinkSetup) -> None:
    """The socket is closed with its last byte."""
    link = FakeLink(setup, capacity=0)
    link.outbox.write(b"goodbye")
    link.finish(linger=False)
    link.finish()
    assert not link.ended
    link.make_room()
    assert (True, b"goodbye", False) == (link.ended, link.read(), link.eof_sent)


@pytest.mark.parametrize("before", [False, True])
async def test_finishing_when_the_peer_has_hung_up(setup: LinkSetup, before: bool) -> None:
    """After the end of the input there is nobody to linger for, but the last bytes still go."""
    link = FakeLink(setup, capacity=0)
    link.outbox.write(b"goodbye")
    if before:
        link.feed_eof()
    link.finish()
    link.feed_eof()
    assert not link.ended
    link.make_room()
    assert (True, b"goodbye") == (link.ended, link.read())


class EofFails(FakeLink):
    """A socket whose peer is gone when it is told that no more will come."""

    def _send_eof(self) -> None:
        self.abort()


async def test_finishing_on_a_socket_that_breaks(setup: LinkSetup, ends: Ends) -> None:
    """An end of file that cannot be sent ends the link, and leaves no deadline."""
    link = EofFails(setup)
    link.finish()
    assert ([link], 0) == (ends.links, len(setup.timers))


@pytest.mark.parametrize(
    "peer, address, remote",
    [
        (PEER, "192.0.2.7", "ws://192.0.2.7:50000"),
        (("2001:db8::7", 50_000, 0, 0), "2001:db8::7", "ws://[2001:db8::7]:50000"),
        ("", "unix", "unix:"),
        (None, "unix", "unix:"),
        ((), "unix", "unix:"),
    ],
)
def test_who_is_there(peer: object, address: str, remote: str) -> None:
    """Both ends have a name for people and one for limits, on every kind of socket."""
    link = FakeLink(peer=peer)
    assert (address, remote) == (link.address, url(link.remote))
    assert "ws://192.0.2.1:443" == url(link.local)


OPERATIONS = st.sampled_from(
    [
        *["feed", "eof", "finish", "finish at once", "abort", "expire", "stalled"],
        *["hold", "enter", "send", "make room", "break", "deadline", "no deadline", "pass"],
    ]
)
REACTIONS = st.dictionaries(
    st.sampled_from(["feed", "eof", "lost", "expired", "stalled"]),
    st.sampled_from(["raise", "abort", "finish", "finish at once", "enter", "send", "hold"]),
    max_size=3,
)


@given(
    st.lists(st.tuples(OPERATIONS, st.integers(0, 30), REACTIONS), max_size=25),
    st.booleans(),
)
@example([("send", 2, {}), ("finish", 0, {}), ("make room", 1, {})], True)
def test_any_life(program: list[tuple[str, int, dict[str, str]]], slow: bool) -> None:
    """Whatever happens in whichever order, a link ends once and gives everything back once."""
    with mock.patch.object(logging.getLogger("trio_gateway"), "disabled", new=True):
        on_virtual_time(Life(slow=slow).live, program)


class Life:
    """A link, and all that has been near it.

    Arguments:
        slow: the peer takes no byte until there is room made.
    """

    def __init__(self, *, slow: bool) -> None:
        self.slow = slow
        self.ends = Ends()
        self.timers = Timers()
        self.things: list[Thing] = []
        self.receivers = [Recorder()]
        self.written = bytearray()
        self.link: FakeLink

    async def live(self, program: list[tuple[str, int, dict[str, str]]]) -> None:
        self.link = FakeLink(
            link_setup(timers=self.timers, timeouts=TIMEOUTS, ended=self.ends),
            capacity=0 if self.slow else 10**9,
        )
        self.link.receiver = self.receivers[0]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.timers.run)
            finished = False
            for operation, amount, reactions in program:
                if operation == "pass":
                    await trio.sleep(amount / 4)
                else:
                    self.do(operation, amount, reactions)
                    await wait_all_tasks_blocked()
                finished = finished or operation.startswith("finish")
                self.check()
            if not finished:
                self.link.abort()
            # Twice: at the first deadline the peer may have taken some of what waited.
            await trio.sleep(2 * TIMEOUTS.closing_timeout + TIMEOUTS.linger_timeout + 1)
            assert self.link.ended
            self.check()
            nursery.cancel_scope.cancel()

    def do(self, operation: str, amount: int, reactions: dict[str, str]) -> None:
        link = self.link
        match operation:
            case "feed":
                link.feed(bytes(amount + 1))
            case "eof":
                link.feed_eof()
            case "finish":
                link.finish()
            case "finish at once":
                link.finish(linger=False)
            case "abort":
                link.abort()
            case "expire":
                if link.timer_tick:  # the wheel would not call for nothing
                    link.no_deadline()
                    link.expire()
            case "stalled":
                if link.outbox.size:
                    link.stalled()
            case "hold":
                self.things.append(Thing())
                link.hold(self.things[-1])
            case "enter":
                if not link.ended and self.has_a_phase():
                    self.receivers.append(Recorder(lambda event: self.react(reactions.get(event))))
                    link.enter(self.receivers[-1], bytes(amount))
            case "send":
                if link.outbox.write(bytes(amount)) is Verdict.ACCEPTED:
                    self.written += bytes(amount)
            case "make room":
                link.make_room(amount)
            case "break":
                link.broken = True
            case "deadline":
                if self.has_a_phase():
                    link.deadline(amount / 4)
            case _:
                if self.has_a_phase():
                    link.no_deadline()

    def has_a_phase(self) -> bool:
        """Whether there is somebody to call this: a phase, and not what follows the last one."""
        return self.link.receiver in self.receivers

    def react(self, reaction: str | None) -> None:
        if reaction == "raise":
            raise RuntimeError("no")
        # Each may enter new phases; they do not react, so that this ends.
        if reaction is not None:
            self.do(reaction, 3, {})

    def check(self) -> None:
        link, ended = self.link, int(self.link.ended)
        assert [link] * ended == self.ends.links
        assert ended == link.closes
        assert [ended] * len(self.things) == [thing.closes for thing in self.things]
        assert self.written.startswith(link.sent)
        lost = [receiver for receiver in self.receivers if "lost" in receiver.events]
        assert len(lost) <= ended
        for receiver in self.receivers:
            assert receiver.events.count("lost") <= 1
            assert receiver.events.count("eof") <= 1
            assert "lost" not in receiver.events[:-1]
        if ended:
            assert 0 == len(self.timers)
            assert link.outbox.closed
            assert type(link.receiver) is Receiver
