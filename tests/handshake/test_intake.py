"""The intake: a socket becomes one request, one refusal, or nothing, and its place is free then."""

from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.handshake.heads import handshake, read_head
from tests.transport.fakes import FakeLink, Recorder, link_setup, on_virtual_time
from trio_gateway.handshake.admission import Admission, Place
from trio_gateway.handshake.head import RequestHead
from trio_gateway.handshake.intake import Intake
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.settings import Limits
from trio_gateway.transport.link import Link
from trio_gateway.transport.timers import Timers

DRAINING = Refusal(503, "draining", "the gateway is going away")


class Desk:
    """Takes what the intake has read, as a gateway does."""

    def __init__(self) -> None:
        self.requests: list[tuple[RequestHead, bytes]] = []
        self.refusals: list[tuple[int, str]] = []
        self.next = Recorder()

    def requested(self, link: Link, head: RequestHead, rest: bytes) -> None:
        self.requests.append((head, rest))
        link.enter(self.next)

    def refused(self, link: Link, refusal: Refusal) -> None:
        self.refusals.append((refusal.status, refusal.error))
        link.outbox.write(refusal.render())
        link.finish()


class World:
    """A link whose first phase is an intake."""

    def __init__(
        self, *, fresh: bool = True, limits: Limits | None = None, timers: Timers | None = None
    ) -> None:
        limits = limits or Limits()
        self.admission = Admission(limits)
        self.desk = Desk()
        self.link = FakeLink(link_setup(timers=timers))
        place = self.admission.admit_handshake()
        assert isinstance(place, Place)
        self.intake = Intake(self.link, self.desk, limits, place, fresh=fresh)
        self.link.receiver = self.intake

    @property
    def outcome(self) -> tuple[list[bytes], list[tuple[int, str]], bool]:
        """The rest behind each request, the refusals, whether the link has ended."""
        return [rest for _, rest in self.desk.requests], self.desk.refusals, self.link.ended


async def test_a_request() -> None:
    """A whole head goes to the desk with what came behind it, and the place is free."""
    world = World()
    world.link.feed(handshake(target="/chat?a=b") + b"early")
    assert ([b"early"], [], False) == world.outcome
    assert "/chat?a=b" == world.desk.requests[0][0].target
    assert 0 == world.admission.handshakes


@given(st.lists(st.integers(0, len(handshake()) + 5), max_size=6).map(sorted))
def test_a_request_in_pieces(cuts: list[int]) -> None:
    """However it is cut, one head, and all that is behind it in order."""
    request = handshake() + b"early"

    async def feed() -> None:
        world = World()
        edges = [0, *cuts, len(request)]
        for start, end in pairwise(edges):
            if start < end:
                world.link.feed(request[start:end])
        ((head, rest),) = world.desk.requests
        assert read_head(request) == head
        received = [event for event in world.desk.next.events if isinstance(event, bytes)]
        assert b"early" == rest + b"".join(received)
        assert 0 == world.admission.handshakes

    on_virtual_time(feed)


async def test_a_request_that_is_refused() -> None:
    """A head that cannot be is answered by the desk, and the place is free."""
    world = World()
    world.link.feed(b"what?\r\n\r\n")
    assert ([], [(400, "bad_request_line")], False) == world.outcome
    assert world.link.read().startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert 0 == world.admission.handshakes


async def test_the_limits_are_the_gateways() -> None:
    """The bounds of a head are those of the settings."""
    limits = Limits(max_head_bytes=300, max_headers=7, max_target_bytes=20)
    outcomes: list[list[tuple[int, str]]] = []
    for request in (
        handshake(target="/" + "x" * 20),
        handshake(b"A: b", b"C: d", b"E: f"),
        handshake(b"A: " + b"b" * 300),
    ):
        world = World(limits=limits)
        world.link.feed(request)
        outcomes.append(world.desk.refusals)
    assert [414, 431, 431] == [status for ((status, _),) in outcomes]


@pytest.mark.parametrize("begun", [b"", b"GET / HT"])
async def test_a_peer_that_leaves(begun: bytes) -> None:
    """The end of the input before the end of the head is the end of the link, unanswered."""
    world = World()
    if begun:
        world.link.feed(begun)
    world.link.feed_eof()
    assert ([], [], True) == world.outcome
    assert (b"", 0) == (world.link.read(), world.admission.handshakes)


async def test_a_peer_that_breaks_off() -> None:
    """A lost link gives its place back."""
    world = World()
    world.link.abort()
    assert 0 == world.admission.handshakes


@pytest.mark.parametrize(
    "fresh, begun, refusals",
    [
        (True, b"", [(408, "handshake_timeout")]),
        (True, b"GET", [(408, "handshake_timeout")]),
        (False, b"GET", [(408, "handshake_timeout")]),
        (False, b"", []),  # a second request need not come
    ],
)
async def test_a_request_that_takes_too_long(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    fresh: bool,
    begun: bytes,
    refusals: list[tuple[int, str]],
) -> None:
    """At its deadline it is answered with 408, but for a second request that was not begun."""
    timers = Timers()
    nursery.start_soon(timers.run)
    world = World(fresh=fresh, timers=timers)
    world.link.deadline(10)
    if begun:
        world.link.feed(begun)
    await trio.sleep(10.1)
    assert ([], refusals, not refusals) == world.outcome
    assert 0 == world.admission.handshakes


async def test_an_earlier_answer_that_does_not_move() -> None:
    """Who does not read the answer before gets no second one."""
    world = World(fresh=False)
    world.link.stalled()
    assert ([], [], True) == world.outcome
    assert 0 == world.admission.handshakes


@pytest.mark.parametrize("begun, refusals", [(b"", []), (b"GET /", [(503, "draining")])])
async def test_draining(begun: bytes, refusals: list[tuple[int, str]]) -> None:
    """What has begun is answered, what has not is dropped."""
    world = World()
    if begun:
        world.link.feed(begun)
    world.intake.drain(DRAINING)
    assert ([], refusals, not begun) == world.outcome
    assert 0 == world.admission.handshakes
