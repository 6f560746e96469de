"""Places of users and addresses: taken, shared, and always given back."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tests.handshake.heads import handshake, read_head
from trio_gateway.handshake.admission import Admission, Place
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.settings import Limits

HEAD = read_head(handshake())


def test_connections_of_one_user_are_capped() -> None:
    """One more than a user may have is 429 for that user alone, until one is over."""
    admission = Admission(Limits(max_connections_per_user=1))
    place = admission.admit_user("ann")
    assert isinstance(place, Place)
    refusal = admission.admit_user("ann")
    assert isinstance(refusal, Refusal)
    assert (429, "too_many_connections_per_user") == (refusal.status, refusal.error)
    assert (("Retry-After", "5"),) == refusal.headers
    assert isinstance(admission.admit_user("bob"), Place)
    place.close()
    assert isinstance(admission.admit_user("ann"), Place)


def test_an_owner_of_ipv6_counts_once() -> None:
    """All of a /64 is one address; another setting draws the line elsewhere; IPv4 stays itself."""
    admission = Admission(Limits(max_connections_per_ip=1))
    for address, admitted in [
        ("2001:db8:0:1::1", True),
        ("2001:db8:0:1:ffff::2", False),
        ("2001:db8:0:1::1%eth0", False),
        ("2001:db8:0:2::1", True),
        ("192.0.2.1", True),
        ("::ffff:192.0.2.1", False),
        ("::ffff:192.0.2.2", True),
        ("unix", True),
        ("_hidden", True),
    ]:
        assert admitted is isinstance(admission.admit_connection(address, HEAD), Place), address
    exact = Admission(Limits(max_connections_per_ip=1, ipv6_prefix=128))
    assert isinstance(exact.admit_connection("2001:db8::1", HEAD), Place)
    assert isinstance(exact.admit_connection("2001:db8::2", HEAD), Place)
    assert isinstance(exact.admit_connection("2001:db8::2", HEAD), Refusal)


ADDRESSES = ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
OWNERS = ["192.0.2.1", "192.0.2.1", "2001:db8::/64", "2001:db8::/64", "2001:db8:0:1::/64"]


@given(
    st.lists(st.tuples(st.sampled_from(["user", "ip", "close"]), st.integers(0, 8)), max_size=60),
    st.none() | st.integers(1, 3),
)
def test_counters_cannot_leak(program: list[tuple[str, int]], most: int | None) -> None:
    """Whatever is taken and given back, in any order and twice: the counters are who holds one."""
    admission = Admission(Limits(max_connections_per_ip=most, max_connections_per_user=most))
    places: list[tuple[Place, str]] = []
    held: list[str] = []
    for operation, number in program:
        if operation == "close":
            if places:
                place, owner = places[number % len(places)]
                place.close()
                place.close()
                if owner in held:
                    held.remove(owner)
                places.remove((place, owner))
            continue
        if operation == "user":
            owner = f"user {number % 3}"
            answer = admission.admit_user(owner)
        else:
            owner = OWNERS[number % 5]
            answer = admission.admit_connection(ADDRESSES[number % 5], HEAD)
        assert (held.count(owner) >= (most or math.inf)) is isinstance(answer, Refusal)
        if isinstance(answer, Place):
            places.append((answer, owner))
            held.append(owner)
    assert admission.connections == sum("user" not in owner for owner in held)
    for place, _ in places:
        with place:
            pass
    assert 0 == admission.connections
    for counter in (admission._users, admission._connections):
        assert counter.keys() <= {""}  # no name stays behind
        assert 0 == counter[""]
