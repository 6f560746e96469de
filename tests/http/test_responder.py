"""Plain HTTP: one request, bounded and whole, one answer, and the next request behind it."""

import json
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.transport.fakes import FakeLink, Recorder, link_setup, on_virtual_time
from trio_gateway.handshake.head import HeadReader, RequestHead
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.http.responder import Exchange
from trio_gateway.settings import Limits, Timeouts
from trio_gateway.transport.link import Link
from trio_gateway.transport.timers import Timers

NEXT = b"GET /next HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
LIMITS = Limits(max_body_bytes=100)


def request(
    *fields: bytes, method: bytes = b"POST", target: bytes = b"/x", version: bytes = b"HTTP/1.1"
) -> bytes:
    """Return a request's head."""
    line = b" ".join((method, target, version))
    return b"\r\n".join((line, b"Host: gateway.test", *fields, b"", b""))


def with_body(body: bytes, *fields: bytes) -> bytes:
    return request(b"Content-Length: %d" % len(body), *fields) + body


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return request(b"Transfer-Encoding: chunked") + body


class World:
    """A link whose requests are answered by whoever wants to; the desk of its exchanges."""

    def __init__(self, *, timers: Timers | None = None) -> None:
        self.link = FakeLink(link_setup(timers=timers, timeouts=Timeouts(body_timeout=20)))
        self.requests: list[HttpRequest] = []
        self.exchanges: list[Exchange] = []
        self.rests: list[tuple[bytes, bool]] = []
        self.answer_at_once: HttpResponse | Refusal | None = None
        self.next = Recorder()
        self.draining = False

    def begin(self, data: bytes) -> Exchange:
        """Give the exchange a request that came in at once."""
        reader = HeadReader()
        head = reader.feed(data)
        assert isinstance(head, RequestHead)
        exchange = Exchange(self.link, head, self, LIMITS)
        exchange.begin(reader.rest)
        return exchange

    def answer(self, exchange: Exchange, request: HttpRequest) -> None:
        self.requests.append(request)
        self.exchanges.append(exchange)
        if isinstance(self.answer_at_once, Refusal):
            exchange.refuse(self.answer_at_once)
        elif self.answer_at_once is not None:
            exchange.respond(self.answer_at_once)

    def answered(self, exchange: Exchange, rest: bytes, *, keep_alive: bool) -> None:
        self.rests.append((rest, keep_alive))
        if keep_alive:
            self.link.enter(self.next, rest)
        else:
            self.link.finish()

    def refused(self, link: Link, refusal: Refusal, *, head_only: bool = False) -> None:
        link.outbox.write(refusal.render(head_only=head_only))
        link.finish()

    def read(self) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """Return the status line, the fields and the body of the answer."""
        head, _, body = self.link.read().partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines)
        assert len(fields) == len(lines)
        return status, fields, body

    def read_error(self) -> tuple[bytes, str]:
        """Return the status line and the code of a refusal."""
        status, _, body = self.read()
        return status, json.loads(body)["error"]


async def test_what_a_handler_sees() -> None:
    """The request as values, headers joined, the query decoded."""
    world = World()
    world.begin(
        request(
            b"X-One: a",
            b"X-One: b",
            b"X-Two: \xe9",
            method=b"GET",
            target=b"/a%20b/c?user=J%C3%BCrgen&x=1&x=2&empty=",
        )
    )
    (seen,) = world.requests
    assert ("GET", "/a%20b/c", b"", "192.0.2.7") == (seen.method, seen.path, seen.body, seen.remote)
    assert {"user": "Jürgen", "x": "2", "empty": ""} == seen.query
    assert {"host": "gateway.test", "x-one": "a, b", "x-two": "é"} == seen.headers


@pytest.mark.parametrize("data", [with_body(b"hello world"), chunked(b"hello ", b"world")])
async def test_a_body(data: bytes) -> None:
    """It is read whole, by its length or in chunks, and the link's deadline ends with it."""
    world = World()
    world.begin(data)
    assert [b"hello world"] == [request.body for request in world.requests]
    assert 0 == world.link.timer_tick


@given(
    st.sampled_from([with_body(b"hello world"), chunked(b"hello ", b"world"), with_body(b"")]),
    st.lists(st.integers(1, 250), max_size=5),
    st.booleans(),
)
def test_a_request_in_pieces(data: bytes, cuts: list[int], at_once: bool) -> None:
    """However it is cut: one request, one answer, and what is behind it goes to the next."""

    async def feed() -> None:
        world = World()
        world.answer_at_once = HttpResponse(status=200) if at_once else None
        head = data.index(b"\r\n\r\n") + 4
        edges = sorted({head, *(cut for cut in cuts if head < cut), len(data + NEXT)})
        whole = data + NEXT
        for number, (start, end) in enumerate(pairwise([0, *edges])):
            if number == 0:
                world.begin(whole[:end])
            else:
                world.link.feed(whole[start:end])
        (request,) = world.requests
        assert (b"" if b"length: 0" in data.lower() else b"hello world") == request.body
        if not at_once:
            world.exchanges[0].respond(HttpResponse(status=200))
        ((rest, keep_alive),) = world.rests
        assert keep_alive
        received = [event for event in world.next.events if isinstance(event, bytes)]
        assert NEXT == b"".join(received)
        assert NEXT.startswith(rest)

    on_virtual_time(feed)


async def test_an_answer() -> None:
    """The whole response, and the next request may come."""
    world = World()
    exchange = world.begin(request(method=b"GET") + NEXT)
    exchange.respond(HttpResponse.json(200, {"a": 1}, headers=(("X-One", "é"),)))
    status, fields, body = world.read()
    assert (b"HTTP/1.1 200 OK", b'{"a":1}\n') == (status, body)
    assert {
        b"Content-Type": b"application/json",
        b"Content-Length": b"8",
        b"Connection": b"keep-alive",
        b"X-One": b"\xe9",
    } == fields
    assert [(NEXT, True)] == world.rests
    assert world.next is world.link.receiver


async def test_the_answer_to_head() -> None:
    """A HEAD request is asked as a GET and answered without the body, refusals too."""
    for answer in (HttpResponse(status=200, body=b"hello"), Refusal(404, "not_found", "no")):
        world = World()
        world.answer_at_once = answer
        world.begin(request(method=b"HEAD"))
        _, fields, body = world.read()
        assert ("GET", b"") == (world.requests[0].method, body)
        assert int(fields[b"Content-Length"]) > 0


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_content(status: int) -> None:
    """It has no body, for the next answer would begin with it, and no length (RFC 9110 §8.6)."""
    world = World()
    world.answer_at_once = HttpResponse(status=status, body=b"never sent")
    world.begin(request(method=b"GET"))
    line, fields, body = world.read()
    assert line.startswith(b"HTTP/1.1 %d " % status)
    assert ({b"Connection": b"keep-alive"}, b"") == (fields, body)


@pytest.mark.parametrize(
    "data",
    [
        request(b"Connection: close", method=b"GET"),
        request(method=b"GET", version=b"HTTP/1.0"),
    ],
)
async def test_the_last_request(data: bytes) -> None:
    """Where the client wants no other, the answer says so and the socket is closed."""
    world = World()
    world.begin(data).respond(HttpResponse(status=200))
    assert b"close" == world.read()[1][b"Connection"]
    assert world.link.eof_sent


async def test_a_client_that_has_said_all() -> None:
    """It is still answered, and then there is no next request."""
    world = World()
    exchange = world.begin(request(method=b"GET"))
    world.link.feed_eof()
    exchange.respond(HttpResponse(status=200))
    assert (b"close", True) == (world.read()[1][b"Connection"], world.link.ended)


async def test_a_client_that_leaves_in_the_body() -> None:
    """There is nobody to answer."""
    world = World()
    world.begin(with_body(b"hello")[:-1])
    world.link.feed_eof()
    assert ([], b"", True) == (world.requests, world.link.read(), world.link.ended)


@pytest.mark.parametrize("answer", [HttpResponse(status=200), Refusal(404, "not_found", "no")])
async def test_a_client_that_is_gone(answer: HttpResponse | Refusal) -> None:
    """An answer that comes too late is no error."""
    world = World()
    exchange = world.begin(request(method=b"GET"))
    world.link.abort()
    if isinstance(answer, Refusal):
        exchange.refuse(answer)
    else:
        exchange.respond(answer)
    assert (b"", []) == (world.link.read(), world.rests)


@pytest.mark.parametrize(
    "response",
    [
        HttpResponse(status=200, headers=(("X-A", "b\r\nX-C: d"),)),
        HttpResponse(status=200, headers=(("X-A\n", "b"),)),
        HttpResponse(status=200, headers=(("X-A", "snow ☃"),)),
        HttpResponse(status=200, content_type="text/plain\r\n\r\n<p>"),
        HttpResponse(status=101),
        HttpResponse(status=99),
        HttpResponse(status=600),
    ],
)
async def test_a_response_that_may_not_be_sent(response: HttpResponse) -> None:
    """The desk is told before a byte is written, and can still answer."""
    world = World()
    exchange = world.begin(request(method=b"GET"))
    with pytest.raises(ValueError):
        exchange.respond(response)
    assert (b"", []) == (world.link.read(), world.rests)
    exchange.respond(HttpResponse(status=500))
    assert b"HTTP/1.1 500 Internal Server Error" == world.read()[0]


async def test_a_declared_body_that_is_too_large() -> None:
    """It is refused before any of it is read."""
    world = World()
    world.begin(request(b"Content-Length: 101"))
    assert "body_too_large" == world.read_error()[1]
    assert (True, []) == (world.link.eof_sent, world.requests)


async def test_chunks_that_are_too_large() -> None:
    """They are refused as soon as they are."""
    world = World()
    world.begin(chunked(b"x" * 60))
    assert 1 == len(world.requests)
    world = World()
    world.begin(chunked(b"x" * 60, b"x" * 41))
    assert "body_too_large" == world.read_error()[1]
    world.link.feed(b"more")
    assert ([], b"") == (world.requests, world.link.read())


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"5\r\nhelloX\r\n", b"1" * 30 + b"\r\n"])
async def test_chunks_that_are_none(chunk: bytes) -> None:
    """What is no chunk is 400."""
    world = World()
    world.begin(request(b"Transfer-Encoding: chunked") + chunk)
    assert (b"HTTP/1.1 400 Bad Request", "bad_body") == world.read_error()
    assert [] == world.requests


async def test_a_client_that_wants_to_be_told_to_go_on() -> None:
    """100 Continue, but not to one that has gone on already (RFC 9110 §10.1.1)."""
    world = World()
    world.begin(request(b"Content-Length: 5", b"Expect: 100-continue"))
    assert b"HTTP/1.1 100 Continue\r\n\r\n" == world.link.read()
    world.link.feed(b"hello")
    assert b"hello" == world.requests[0].body
    world = World()
    world.begin(with_body(b"hello", b"Expect: 100-continue"))
    assert b"" == world.link.read()


async def test_a_body_that_takes_too_long(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It is 408, however regularly a byte comes."""
    timers = Timers()
    nursery.start_soon(timers.run)
    world = World(timers=timers)
    world.begin(request(b"Content-Length: 100"))
    for _ in range(19):
        await trio.sleep(1)
        world.link.feed(b"x")
    assert b"" == world.link.read()
    await trio.sleep(2)
    assert (b"HTTP/1.1 408 Request Timeout", "body_timeout") == world.read_error()


async def test_a_client_that_does_not_read_its_answer() -> None:
    """It is dropped."""
    world = World()
    world.begin(request(method=b"GET"))
    world.link.stalled()
    assert world.link.ended


async def test_pipelining_is_bounded() -> None:
    """What comes before the answer is kept for the next request, up to a bound."""
    world = World()
    exchange = world.begin(request(method=b"GET") + b"a")
    world.link.feed(b"b" * 64 * 1024)
    assert world.link.paused
    exchange.respond(HttpResponse(status=200))
    assert not world.link.paused
    assert [(b"a" + b"b" * 64 * 1024, True)] == world.rests


async def test_an_answer_at_once() -> None:
    """The desk may answer before ``begin()`` returns."""
    world = World()
    world.answer_at_once = Refusal(404, "not_found", "no")
    world.begin(request(method=b"GET") + NEXT)
    assert (b"HTTP/1.1 404 Not Found", "not_found") == world.read_error()
    assert world.link.eof_sent


async def test_the_last_answer_of_a_drain_says_so() -> None:
    """While draining an answer says that no further request is read."""
    world = World()
    exchange = world.begin(request(method=b"GET"))
    world.draining = True
    exchange.respond(HttpResponse(status=200))
    assert [(b"", False)] == world.rests
    assert b"Connection: close" in bytes(world.link.sent)
