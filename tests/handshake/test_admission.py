"""Admission: caps and origins, and places that are always given back once."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.handshake.heads import handshake, read_head
from trio_gateway.handshake.admission import Admission, Place
from trio_gateway.handshake.refusal import Refusal, reason_phrase
from trio_gateway.settings import Limits

HEAD = read_head(handshake())
HOME = "192.0.2.7"


def taken(answer: Place | Refusal) -> Place:
    assert isinstance(answer, Place)
    return answer


def refused(answer: Place | Refusal) -> tuple[int, str]:
    assert isinstance(answer, Refusal)
    return answer.status, answer.error


def test_a_place_is_given_back_once() -> None:
    """By ``close()``, at the end of a ``with``, or both: the counter goes down by one."""
    admission = Admission(Limits())
    with taken(admission.admit_handshake()) as place:
        other = taken(admission.admit_handshake())
        assert 2 == admission.handshakes
        place.close()
        assert 1 == admission.handshakes
    place.close()
    assert 1 == admission.handshakes
    other.close()
    assert 0 == admission.handshakes


def test_a_place_is_given_back_when_something_fails() -> None:
    """An exception leaves nothing taken."""
    admission = Admission(Limits())
    with pytest.raises(RuntimeError), taken(admission.admit_connection(HOME, HEAD)):
        raise RuntimeError("no")
    assert 0 == admission.connections


def test_pending_handshakes_are_capped() -> None:
    """One more than there may be is 503, until one is over."""
    admission = Admission(Limits(max_pending_handshakes=2))
    first = taken(admission.admit_handshake())
    taken(admission.admit_handshake())
    assert (503, "too_many_handshakes") == refused(admission.admit_handshake())
    assert 2 == admission.handshakes
    first.close()
    taken(admission.admit_handshake())


def test_connections_are_capped() -> None:
    """One more than there may be is 503 from any address, until one is over."""
    admission = Admission(Limits(max_connections=2))
    first = taken(admission.admit_connection(HOME, HEAD))
    taken(admission.admit_connection("192.0.2.8", HEAD))
    assert (503, "too_many_connections") == refused(admission.admit_connection("192.0.2.9", HEAD))
    first.close()
    taken(admission.admit_connection("192.0.2.9", HEAD))


def test_a_full_one_gives_way() -> None:
    """Newcomers are better off elsewhere where there is an elsewhere, and no room here."""
    for limits in (Limits(max_connections=1, gives_way=True), Limits(max_connections=1)):
        admission = Admission(limits)
        assert not admission.gives_way
        place = taken(admission.admit_connection(HOME, HEAD))
        assert limits.gives_way == admission.gives_way
        place.close()
        assert not admission.gives_way


def test_connections_of_one_address_are_capped() -> None:
    """One more than an address may have is 429 for it alone."""
    admission = Admission(Limits(max_connections_per_ip=2))
    first = taken(admission.admit_connection(HOME, HEAD))
    taken(admission.admit_connection(HOME, HEAD))
    assert (429, "too_many_connections_per_ip") == refused(admission.admit_connection(HOME, HEAD))
    taken(admission.admit_connection("192.0.2.8", HEAD))
    first.close()
    taken(admission.admit_connection(HOME, HEAD))


def test_refusals_say_when_to_come_again() -> None:
    """What passes by itself carries Retry-After; an origin that may not come does not."""
    full = Admission(Limits(max_connections=1, max_pending_handshakes=1, max_connections_per_ip=1))
    taken(full.admit_handshake())
    taken(full.admit_connection(HOME, HEAD))
    for answer in (full.admit_handshake(), full.admit_connection(HOME, HEAD)):
        assert isinstance(answer, Refusal)
        assert (("Retry-After", "5"),) == answer.headers
    strict = Admission(Limits(), [])
    head = read_head(handshake(b"Origin: https://elsewhere.test"))
    answer = strict.admit_connection(HOME, head)
    assert isinstance(answer, Refusal)
    assert () == answer.headers


@pytest.mark.parametrize(
    "origins, allowed, admitted",
    [
        ([], ["https://app.test"], True),  # not a browser
        ([b"https://app.test"], None, True),
        ([b"https://app.test"], ["*"], True),
        ([b"https://app.test"], ["https://app.test"], True),
        ([b"HTTPS://App.Test"], ["https://APP.test/"], True),
        ([b"https://app.test:8443"], ["https://app.test:8443"], True),
        ([b"https://app.test:8443"], ["https://app.test"], False),
        ([b"http://app.test"], ["https://app.test"], False),
        ([b"https://app.test.evil.test"], ["https://app.test"], False),
        ([b"null"], ["https://app.test"], False),
        ([b""], ["https://app.test"], False),
        ([b"\xff"], ["https://app.test"], False),
        ([b"https://app.test"] * 2, ["https://app.test"], False),
        ([b"https://app.test"], [], False),
    ],
)
def test_origins(origins: list[bytes], allowed: list[str] | None, admitted: bool) -> None:
    """A page of an allowed origin may come, and whoever is no page; nobody else."""
    admission = Admission(Limits(), allowed)
    head = read_head(handshake(*(b"Origin: " + origin for origin in origins)))
    answer = admission.admit_connection(HOME, head)
    assert admitted is isinstance(answer, Place)
    assert int(admitted) == admission.connections
    if not admitted:
        assert (403, "origin_not_allowed") == refused(answer)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("handshake"), st.just(0)),
            st.tuples(st.just("connection"), st.integers(0, 3)),
            st.tuples(st.just("close"), st.integers(0, 20)),
        ),
        max_size=60,
    ),
    st.none() | st.integers(1, 3),
)
def test_counters_cannot_leak(program: list[tuple[str, int]], per_ip: int | None) -> None:
    """Places taken and given back, twice too, in any order: the counters are who holds one."""
    limits = Limits(max_connections=5, max_pending_handshakes=3, max_connections_per_ip=per_ip)
    admission = Admission(limits)
    places: list[Place] = []
    held: list[tuple[Place, str]] = []  # with the address, or "" for a handshake

    for operation, number in program:
        if operation == "close":
            if places:
                place = places[number % len(places)]
                place.close()
                held = [(other, whose) for other, whose in held if other is not place]
            continue
        address = "" if operation == "handshake" else f"192.0.2.{number}"
        of_all = sum(bool(whose) is bool(address) for _, whose in held)
        if address:
            full = of_all >= 5 or sum(whose == address for _, whose in held) >= (per_ip or math.inf)
            answer = admission.admit_connection(address, HEAD)
        else:
            full = of_all >= 3
            answer = admission.admit_handshake()
        assert full is isinstance(answer, Refusal)
        if isinstance(answer, Place):
            places.append(answer)
            held.append((answer, address))
    assert admission.handshakes == sum(not whose for _, whose in held)
    assert admission.connections == sum(bool(whose) for _, whose in held)
    for place in places:
        place.close()
    assert (0, 0) == (admission.handshakes, admission.connections)
    assert {""} >= admission._connections.keys()  # no name of an address stays behind


def test_a_refusal_is_a_whole_response() -> None:
    """Reason phrase, type, length, close, one line of JSON; a HEAD request gets no body."""
    refusal = Refusal(429, "slow_down", "wait a “while”", (("Retry-After", "5"),))
    head, _, body = refusal.render().partition(b"\r\n\r\n")
    assert [
        b"HTTP/1.1 429 Too Many Requests",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
        b"Retry-After: 5",
    ] == head.split(b"\r\n")
    assert {"error": "slow_down", "message": "wait a “while”"} == json.loads(body)
    assert body.count(b"\n") == 1
    assert body.endswith(b"\n")
    assert head + b"\r\n\r\n" == refusal.render(head_only=True)


def test_every_status_has_a_reason() -> None:
    """One that is not registered is unknown."""
    assert ("Upgrade Required", "Unknown") == (reason_phrase(426), reason_phrase(599))
