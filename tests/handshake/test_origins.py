"""Origins: which pages may connect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.handshake.heads import handshake, read_head
from trio_gateway.handshake.origins import InvalidOrigin, Origins, normal


def admits(patterns: list[str], origin: bytes, host: bytes = b"gateway.test") -> bool:
    head = read_head(handshake(b"Origin: " + origin).replace(b"gateway.test", host))
    head.host = host.decode()
    return Origins(patterns).admit(head)


@pytest.mark.parametrize(
    "pattern, origin, admitted",
    [
        ("http://x", b"http://x", True),
        ("http://x", b"http://x:80", True),
        ("http://x:80", b"http://x", True),
        ("HTTP://X/", b"http://X", True),
        ("http://x", b"http://x:8080", False),
        ("http://x", b"https://x", False),
        ("https://x:443", b"https://x", True),
        ("https://b\u00fccher.example", b"https://xn--bcher-kva.example", True),
        ("https://xn--bcher-kva.example", b"https://xn--bcher-kva.example", True),
        ("http://[::1]:3000", b"http://[0:0:0:0:0:0:0:1]:3000", True),
        ("http://localhost:*", b"http://localhost", True),
        ("http://localhost:*", b"http://localhost:65535", True),
        ("http://localhost:*", b"http://localhost:65536", False),
        ("http://localhost:*", b"https://localhost:1", False),
        ("http://localhost:*", b"http://localhost.evil.example:1", False),
        ("http://localhost:*", b"http://localhost:*", False),
        (r"re:https://[a-z]+\.app\.test", b"https://a.app.test", True),
        (r"re:https://[a-z]+\.app\.test", b"https://A.app.test:443", True),
        (r"re:https://[a-z]+\.app\.test", b"https://a.app.test.evil.example", False),
        (r"re:https://[a-z]+\.app\.test", b"https://evil.example/https://a.app.test", False),
        ("re:.*", b"null", False),
        ("re:.*", b"https://" + b"a" * 2000, False),
        ("null", b"null", True),
        ("null", b"", False),
        ("file://", b"file://", True),
        ("same-host", b"https://gateway.test", True),
        ("same-host", b"http://GATEWAY.test:5173", True),
        ("same-host", b"https://a.gateway.test", False),
        ("same-host", b"https://gateway.test.evil.example", False),
        ("same-host", b"https://gateway.test@evil.example", False),
        ("same-host", b"https://gateway.test#x", False),
        ("same-host", b"https://evil.example\\gateway.test", False),
        ("same-host", b"null", False),
        ("same-host", b"https://g\xe4teway.test", False),
        ("*", b"anything at all", True),
    ],
)
def test_patterns(pattern: str, origin: bytes, admitted: bool) -> None:
    """Each form, and what only looks like it."""
    assert admitted is admits([pattern], origin)


@pytest.mark.parametrize(
    "origin, host, admitted",
    [
        (b"http://localhost:5173", b"127.0.0.1:3000", True),
        (b"http://127.0.0.1:5173", b"localhost:3000", True),
        (b"http://[::1]", b"localhost", True),
        (b"http://app.localhost", b"[::1]:3000", True),
        (b"http://evil.example", b"localhost:3000", False),
        (b"http://localhost.evil.example", b"localhost:3000", False),
        (b"http://127.0.0.1.evil.example", b"127.0.0.1", False),
        (b"http://localhost", b"gateway.test", False),
        (b"http://192.0.2.1", b"192.0.2.1:3000", True),
    ],
)
def test_this_machine_is_one_host(origin: bytes, host: bytes, admitted: bool) -> None:
    """Whatever it is called, on any port; nobody else is it."""
    assert admitted is admits(["same-host"], origin, host)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "x",
        "http://",
        "//x",
        "http://x/path",
        "http://u@x",
        "http://x:port",
        "http://x:99999",
        "http://*.x",
        "http://[::g]",
        "http://a b",
        "re:(",
        "re:[z-a]",
        "http://\u2024",
    ],
)
def test_a_pattern_that_cannot_be_meant(pattern: str) -> None:
    """It is told at the start, not by refusing everybody."""
    with pytest.raises(InvalidOrigin) as caught:
        Origins([pattern])
    assert repr(pattern) in str(caught.value)


def test_who_is_no_page_is_not_asked() -> None:
    """No Origin, no browser; two of them are nobody's."""
    assert Origins([]).admit(read_head(handshake()))
    twice = read_head(handshake(b"Origin: http://x", b"Origin: http://x"))
    assert not Origins(["http://x"]).admit(twice)


@given(st.text(max_size=30), st.binary(max_size=30))
def test_nothing_raises_anything_else(pattern: str, origin: bytes) -> None:
    """A pattern is right or InvalidOrigin; an origin may or may not come."""
    try:
        assert normal(normal(pattern)) == normal(pattern)
    except InvalidOrigin:
        pass
    text = origin.decode("latin-1").lower()
    assert Origins(["same-host", "http://x:*"])._admits(text, "x") in {True, False}
