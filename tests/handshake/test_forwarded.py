"""Who a request is from: what trusted proxies write is believed, and nothing else."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trio_gateway.handshake.fields import Refused
from trio_gateway.handshake.forwarded import Client, TrustedProxies
from trio_gateway.settings import Proxies
from trio_gateway.transport.addresses import plain_address

TRUSTED = ("10.0.0.0/8", "2001:db8:1::/48")
PROXY = "10.0.0.1"


def client_of(
    *lines: tuple[str, str],
    hop: str = PROXY,
    header: str = "any",
    trusted: tuple[str, ...] = TRUSTED,
) -> Client:
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in lines]
    return TrustedProxies(Proxies(trusted=trusted, header=header)).client_of(hop, headers)


def address_of(
    value: str,
    name: str = "X-Forwarded-For",
    *,
    hop: str = PROXY,
    trusted: tuple[str, ...] = TRUSTED,
) -> str:
    return client_of((name, value), hop=hop, trusted=trusted).address


def refusal_of(*lines: tuple[str, str]) -> str:
    with pytest.raises(Refused) as caught:
        client_of(*lines)
    assert 400 == caught.value.refusal.status
    return caught.value.refusal.error


@pytest.mark.parametrize(
    "value, address",
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("192.0.2.7:51234", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("2001:DB8:0:0::7", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("203.0.113.1, 192.0.2.7", "192.0.2.7"),  # the left one is the client's own claim
        ("192.0.2.7, 10.1.1.1", "192.0.2.7"),
        ("203.0.113.1, 192.0.2.7, 2001:db8:1::5, 10.1.1.1", "192.0.2.7"),
        ("nonsense <script>, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7,,", "192.0.2.7"),
        ("10.1.1.1", "10.1.1.1"),  # all of them are trusted: the first is the client
        ("unknown", PROXY),
        ("192.0.2.7, unknown", PROXY),
        ("unknown, 10.1.1.1", "10.1.1.1"),
        ("_hidden", "_hidden"),
        ("", PROXY),
    ],
)
def test_x_forwarded_for(value: str, address: str) -> None:
    """From the right, through trusted hops, to the first that is not one."""
    assert address == address_of(value)


@pytest.mark.parametrize(
    "value, address",
    [
        ("for=192.0.2.7", "192.0.2.7"),
        ("For=192.0.2.7;proto=https;by=10.0.0.1", "192.0.2.7"),
        ('for="192.0.2.7:51234"', "192.0.2.7"),
        ("for=192.0.2.7:51234", "192.0.2.7"),  # HAProxy and others leave the quotes out
        ('for="[2001:db8::7]"', "2001:db8::7"),
        ('for="[2001:db8::7]:4711"', "2001:db8::7"),
        ('for="192.0.\\2.7"', "192.0.2.7"),
        ('for="_gazonk"', "_gazonk"),
        ("for=_SEVKISEK:_port", "_SEVKISEK"),
        ("for=unknown", PROXY),
        ("proto=https", PROXY),
        ("for=203.0.113.1, for=192.0.2.7;proto=http", "192.0.2.7"),
        ("for=192.0.2.7, for=10.1.1.1", "192.0.2.7"),
        ("for=203.0.113.1, for=unknown, for=10.1.1.1", "10.1.1.1"),
        ("for=192.0.2.7,, ,", "192.0.2.7"),
        (" , for=192.0.2.7;", "192.0.2.7"),
        ("", PROXY),
    ],
)
def test_forwarded(value: str, address: str) -> None:
    """The same for the header of RFC 7239."""
    assert address == address_of(value, "Forwarded")


@pytest.mark.parametrize(
    "name, value",
    [
        ("X-Forwarded-For", "nonsense"),
        ("X-Forwarded-For", "192.0.2.7, 10.0.0"),
        ("X-Forwarded-For", "192.0.2.7:99:1"),
        ("X-Forwarded-For", "010.0.0.1"),
        ("X-Forwarded-For", "[2001:db8::7"),
        ("X-Forwarded-For", "for=192.0.2.7"),
        ("Forwarded", "192.0.2.7"),
        ("Forwarded", "for=nonsense"),
        ("Forwarded", "for=192.0.2.7;for=192.0.2.8"),
        ("Forwarded", "for =192.0.2.7"),
        ("Forwarded", 'for="192.0.2.7'),
        ("Forwarded", 'for=", for=192.0.2.7'),  # a client's open quote swallows the proxy's entry
        ("Forwarded", 'for="x, for="[2001:db8::7]"'),
        ("Forwarded", 'for="192.0.2.7"x'),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, value: str) -> None:
    """Ignored, it would count the client as its proxy."""
    assert "bad_forwarded" == refusal_of((name, value))


def test_lines_are_one_list() -> None:
    """A proxy may add a line instead of an entry."""
    lines = [("X-Forwarded-For", "203.0.113.1"), ("X-Forwarded-For", "192.0.2.7")]
    assert "192.0.2.7" == client_of(*lines).address
    assert "192.0.2.7" == client_of(("Forwarded", "for=x1"), ("Forwarded", "for=192.0.2.7")).address


@pytest.mark.parametrize("hop", ["192.0.2.1", "unix", "2001:db8:2::1", ""])
def test_strangers_are_not_believed(hop: str) -> None:
    """Whoever is no proxy of ours is itself, whatever it writes, readable or not."""
    lines = [("X-Forwarded-For", "10.9.9.9"), ("Forwarded", '"'), ("X-Forwarded-Host", "evil.test")]
    assert Client(hop) == client_of(*lines, hop=hop)


def test_nobody_is_trusted_unless_named() -> None:
    """Without a list there is no proxy; a Unix socket has to be named too."""
    assert not TrustedProxies(Proxies())
    assert "127.0.0.1" == address_of("192.0.2.7", hop="127.0.0.1", trusted=())
    assert "192.0.2.7" == address_of("192.0.2.7", hop="unix", trusted=("unix",))


def test_a_dual_stack_listener_trusts_ipv4() -> None:
    """An IPv4 proxy is the same proxy where IPv6 carries it."""
    assert "192.0.2.7" == address_of("192.0.2.7", hop="::ffff:10.0.0.1")


def test_two_headers_must_agree() -> None:
    """A proxy writes one and hands on the client's other; unless it is told which one it writes."""
    both = [("X-Forwarded-For", "192.0.2.7"), ("Forwarded", "for=203.0.113.1")]
    assert "conflicting_forwarded" == refusal_of(*both)
    assert "192.0.2.7" == client_of(*both, header="x-forwarded-for").address
    assert "203.0.113.1" == client_of(*both, header="forwarded").address
    agreed = [("X-Forwarded-For", "192.0.2.7:1"), ("Forwarded", 'for="192.0.2.7:1"')]
    assert "192.0.2.7" == client_of(*agreed).address


@pytest.mark.parametrize(
    "lines, host",
    [
        ([("Forwarded", "for=192.0.2.7;host=chat.test")], "chat.test"),
        ([("Forwarded", 'for=192.0.2.7;host="chat.test:8443"')], "chat.test:8443"),
        ([("Forwarded", "for=1.1.1.1;host=evil.test, for=192.0.2.7;host=chat.test")], "chat.test"),
        (
            [("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Host", "a.test, chat.test")],
            "chat.test",
        ),
        ([("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Host", "no/host")], None),
        ([("X-Forwarded-For", "192.0.2.7")], None),
    ],
)
def test_hosts(lines: list[tuple[str, str]], host: str | None) -> None:
    """The host that the client asked for, as the trusted proxy next to it saw it."""
    assert Client("192.0.2.7", host) == client_of(*lines)


ENTRIES = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map("[{}]:80".format),
    st.sampled_from(["unknown", "_x", "", "rubbish", "10.2.3.4", "2001:db8:1::9", '"', "for=1"]),
)


@given(st.lists(ENTRIES, max_size=6), st.ip_addresses().map(str))
def test_a_client_cannot_change_what_follows(claims: list[str], address: str) -> None:
    """Whatever it writes itself: behind it stands the address that the proxy saw."""
    assume(not TrustedProxies(Proxies(trusted=TRUSTED)).trusts(address))
    assert plain_address(address) == address_of(", ".join([*claims, address]))


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.booleans())
def test_nothing_raises_but_refused(value: str, standard: bool) -> None:
    """Any value is an address or a 400; behind it, the proxy's entry is never lost."""
    name = "Forwarded" if standard else "X-Forwarded-For"
    own = "for=192.0.2.7" if standard else "192.0.2.7"
    try:
        address = address_of(f"{value}, {own}", name)
    except Refused:
        assert standard
        assert "bad_forwarded" == refusal_of((name, f"{value}, {own}"))
    else:
        assert "192.0.2.7" == address


@pytest.mark.parametrize("trusted", ["10.0.0.0/33", "proxy.test", "", "10.0.0.1:80"])
def test_proxies_are_addresses(trusted: str) -> None:
    """A name, or a network that is none, is told where it is said."""
    with pytest.raises(ValueError, match="does not appear to be"):
        Proxies(trusted=(trusted,))


def test_the_list_is_no_string() -> None:
    """The letters of one address are no addresses."""
    with pytest.raises(TypeError, match="list"):
        Proxies(trusted="10.0.0.1")
    with pytest.raises(ValueError, match="header"):
        Proxies(header="via")
