"""URLs of gateways, and why one cannot be talked to."""

import ssl

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_gateway.client.target import Answer, Target, explain


@pytest.mark.parametrize(
    "url, parts",
    [
        ("http://a.example", (False, "a.example", 80, None, "", "a.example")),
        ("ws://a.example:3000/", (False, "a.example", 3000, None, "", "a.example:3000")),
        ("https://a.example/x/y/", (True, "a.example", 443, None, "/x/y", "a.example")),
        ("WSS://A.example:80", (True, "a.example", 80, None, "", "a.example:80")),
        ("http://[::1]:3000", (False, "::1", 3000, None, "", "[::1]:3000")),
        ("http+unix://%2Frun%2Fa%20b", (False, "localhost", 80, "/run/a b", "", "localhost")),
        ("https+unix://%2Frun%2FS/x", (True, "localhost", 443, "/run/S", "/x", "localhost")),
    ],
)
def test_urls_are_read(url: str, parts: tuple[object, ...]) -> None:
    """Of HTTP or WebSocket, over TCP or a Unix socket."""
    target = Target.parse(url)
    found = (target.secure, target.host, target.port, target.uds, target.prefix, target.authority)
    assert parts == found


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:3000",
        "http://",
        "http://:3000",
        "http://a:70000",
        "http://a:b",
        "http://u:p@a",
        "http://a/?q",
        "http://a/#f",
        "http://a b",
        "http://a..b",
        "http://.a",
        "http://[::1",
        f"http://{'a' * 70}",
        "http://bücher.example",
        "http://a/\r\nX: y",
        "http+unix://%2Frun%2F%00",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_gateways_url_is_refused(url: str) -> None:
    """Before anything is contacted."""
    with pytest.raises(ValueError, match="must be a URL like"):
        Target.parse(url)


@given(
    st.text(st.characters(exclude_categories=()))
    | st.text("htps:/[]@%?#.:01a").map("http:".__add__)
)
def test_any_text_is_a_target_or_bad(text: str) -> None:
    """Nothing else is raised, and what is read has a host to connect to."""
    try:
        target = Target.parse(text)
    except ValueError:
        return
    assert target.host or target.uds


def test_answers_are_described() -> None:
    """The message of a refusal, or the status alone."""
    refusal = Answer(401, {}, b'{"error": "e", "message": "not you"}')
    assert refusal.describe() == "401: not you"
    for body in (b"", b"\xff", b"[]", b'{"message": 1}', b"[" * 100_000):
        assert Answer(500, {}, body).describe() == "500"


def test_errors_are_explained() -> None:
    """The first cause, in a few words."""
    attempts = OSError("all attempts to connect failed")
    attempts.__cause__ = ExceptionGroup("", [ConnectionRefusedError(111, "Connection refused")])
    assert explain(attempts) == "Connection refused"
    assert explain(ExceptionGroup("", [trio.TooSlowError()])) == "no answer in time"
    broken = trio.BrokenResourceError()
    assert explain(broken) == "the connection was lost"
    broken.__cause__ = ssl.SSLError(1, "wrong version number")
    assert explain(broken).startswith("TLS failed: ")
    assert explain(ValueError()) == "ValueError"
