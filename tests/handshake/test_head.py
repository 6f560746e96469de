"""The request head: what is refused and how, what is accepted, and that cuts don't matter."""

import gc
import re
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_gateway.handshake.head import HeadReader, RequestHead
from trio_gateway.handshake.offer import WebSocketOffer
from trio_gateway.handshake.refusal import Refusal

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
SHAKE = (
    b"GET /chat HTTP/1.1\r\n"
    b"Host: example.com\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"\r\n"
)
TCHARS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def plain(*lines: bytes, first: bytes = b"GET / HTTP/1.1", host: bytes = b"a") -> bytes:
    """A plain request with a Host and these further field lines."""
    return b"\r\n".join((first, b"Host: " + host, *lines, b"", b""))


def shake(old: bytes = b"", new: bytes = b"", *, more: bytes = b"") -> bytes:
    """A good opening handshake with one thing replaced, or further lines behind it."""
    assert old in SHAKE
    return SHAKE.replace(old, new, 1)[:-2] + more + b"\r\n"


def without(name: bytes) -> bytes:
    """A good opening handshake that lacks one field."""
    return re.sub(rb"\r\n" + name + rb":[^\r]*", b"", SHAKE)


def read(data: bytes) -> RequestHead | Refusal | None:
    """The verdict on bytes that come in one piece."""
    return HeadReader().feed(data)


def read_cut(data: bytes, cuts: list[int], reader: HeadReader) -> RequestHead | Refusal | None:
    """The verdict on bytes that come in pieces; what comes behind it is not fed."""
    for start, end in pairwise([0, *sorted(cuts), len(data)]):
        verdict = reader.feed(data[start:end])
        if verdict is not None:
            return verdict
    return None


def read_dribbled(data: bytes, **bounds: int) -> RequestHead | Refusal | None:
    """The verdict on bytes that come one by one."""
    return read_cut(data, list(range(1, len(data))), HeadReader(**bounds))


def accepted(data: bytes) -> RequestHead:
    """The head of bytes that must be a good one."""
    verdict = read(data)
    assert isinstance(verdict, RequestHead), verdict
    return verdict


def refusal_of(verdict: RequestHead | Refusal | None) -> tuple[int, str] | None:
    """Status and code of a refusal; None when there is none."""
    return (verdict.status, verdict.error) if isinstance(verdict, Refusal) else None


RUDE: dict[tuple[int, str], dict[str, bytes]] = {
    (400, "tls_on_plain_port"): {
        "TLS ClientHello": b"\x16\x03\x01\x02\x00\x01\x00",
        "TLS ClientHello with an empty line in it": b"\x16\x03\x01\r\n\r\n and more",
    },
    (400, "bad_request_line"): {
        "binary garbage": b"\x00\x01\x02\x03",
        "SSLv2 hello": b"\x80\x2e\x01\x00\x02",
        "SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n",
        "Redis command": b"*1\r\n$4\r\nPING\r\n",
        "HTTP/0.9": b"GET /\r\n",
        "a third empty line first": b"\r\n" * 3 + SHAKE,
        "bare LF as an empty line first": b"\n" + SHAKE,
        "bare CR first": b"\rGET / HTTP/1.1\r\n",
        "space first": b" GET / HTTP/1.1\r\n",
        "method that is no token": plain(first=b"G(T / HTTP/1.1"),
        "two spaces": plain(first=b"GET  / HTTP/1.1"),
        "space behind the version": plain(first=b"GET / HTTP/1.1 "),
        "space in the target": plain(first=b"GET /a b HTTP/1.1"),
        "tab for a space": plain(first=b"GET\t/ HTTP/1.1"),
        "no target": plain(first=b"GET HTTP/1.1"),
    },
    (501, "unknown_method"): {
        "SSH banner with a comment": b"SSH-2.0-OpenSSH_9.6 Ubuntu\r\n",
        "PRI in HTTP/1.1": plain(first=b"PRI * HTTP/1.1"),
        "unknown method": plain(first=b"BREW / HTTP/1.1"),
        "lower-case method": plain(first=b"get / HTTP/1.1"),
        "method of no end": b"A" * 33,
        "CONNECT": plain(first=b"CONNECT a:443 HTTP/1.1"),
    },
    (505, "unsupported_http_version"): {
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/2.0": plain(first=b"GET / HTTP/2.0"),
        "HTTP/0.9 by name": plain(first=b"GET / HTTP/0.9"),
    },
    (400, "bad_target"): {
        "tab in the target": plain(first=b"GET /a\tb HTTP/1.1"),
        "empty target": plain(first=b"GET  HTTP/1.1"),
        "NUL in the target": plain(first=b"GET /\x00 HTTP/1.1"),
        "non-ASCII target": plain(first="GET /é HTTP/1.1".encode()),
        "fragment": plain(first=b"GET /a#b HTTP/1.1"),
        "relative target": plain(first=b"GET a HTTP/1.1"),
        "query without a path": plain(first=b"GET ?a HTTP/1.1"),
        "authority-form": plain(first=b"GET example.com:80 HTTP/1.1"),
        "asterisk-form for GET": plain(first=b"GET * HTTP/1.1"),
        "absolute-form of another scheme": plain(first=b"GET ftp://a/ HTTP/1.1"),
    },
    (400, "bad_host"): {
        "absolute-form without a host": plain(first=b"GET http:/// HTTP/1.1"),
        "absolute-form with a port alone": plain(first=b"GET http://:80/ HTTP/1.1"),
        "absolute-form with a user": plain(first=b"GET http://u@a/ HTTP/1.1"),
        "Host with a user": plain(host=b"u@a"),
        "Host with a path": plain(host=b"a/b"),
        "Host with a space": plain(host=b"a b"),
        "Host with a bad escape": plain(host=b"%zz"),
        "Host with a word for a port": plain(host=b"a:b"),
        "Host with a port out of range": plain(host=b"a:65536"),
        "Host with a port of 5000 digits": plain(host=b"a:" + b"1" * 5000),
        "Host of a port alone": plain(host=b":80"),
        "unbracketed IPv6 Host": plain(host=b"::1"),
        "bad IPv6 Host": plain(host=b"[1:2]"),
        "IPv6 Host with a zone": plain(host=b"[fe80::1%25eth0]"),
        "unclosed IPv6 Host": plain(host=b"[::1"),
        "empty Host": shake(b"example.com"),
    },
    (414, "target_too_long"): {
        "long target": plain(first=b"GET /" + b"a" * 8192 + b" HTTP/1.1"),
        "target of no end": b"GET /" + b"a" * 9000,
    },
    (400, "bad_http_version"): {
        "no version number": plain(first=b"GET / HTTP"),
        "lower-case version": plain(first=b"GET / http/1.1"),
        "two-digit version": plain(first=b"GET / HTTP/1.10"),
        "version without minor": plain(first=b"GET / HTTP/2"),
    },
    (400, "bare_line_ending"): {
        "request line ended by LF": b"GET / HTTP/1.1\nHost: a\n\n",
        "request line ended by CR": b"GET / HTTP/1.1\rHost: a\r\r",
        "request line ended by CR CR LF": b"GET / HTTP/1.1\r\r\nHost: a",
        "field ended by LF": plain(b"A: b\nC: d"),
        "field ended by CR": plain(b"A: b\rC: d"),
        "field ended by CR CR LF": plain(b"A: b\r"),
        "head ended by LF LF": SHAKE[:-4] + b"\n\n",
    },
    (400, "folded_header"): {
        "folded field": plain(b"A: b", b" c"),
        "field folded with a tab": plain(b"A: b", b"\tc"),
        "space before the first field": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    },
    (400, "missing_colon"): {
        "no colon": plain(b"nonsense"),
        "no colon in the first field too many": plain(*[b"A: b"] * 99, b"nonsense"),
    },
    (400, "empty_header_name"): {
        "empty header name": plain(b": b"),
    },
    (400, "space_before_colon"): {
        "space before the colon": plain(b"A : b"),
        "tab before the colon": plain(b"A\t: b"),
    },
    (400, "bad_header_name"): {
        "space in a name": plain(b"A b: c"),
        "non-ASCII name": plain("é: b".encode()),
        "separator in a name": plain(b"A(b): c"),
    },
    (400, "control_character"): {
        "NUL in a value": plain(b"A: b\x00"),
        "NUL in a name": plain(b"A\x00: b"),
        "vertical tab in a value": plain(b"A: \x0bb"),
        "DEL in a value": plain(b"A: \x7f"),
    },
    (431, "too_many_headers"): {
        "one field too many": plain(*[b"A: b"] * 100),
        "fields of no end": plain(*[b"A: b"] * 101)[:-2],
    },
    (431, "head_too_large"): {
        "large head": plain(b"A: " + b"b" * 16384),
        "head of no end": plain()[:-2] + b"A: " + b"b" * 16384,
    },
    (400, "missing_host"): {
        "no Host": b"GET / HTTP/1.1\r\n\r\n",
        "no Host with an absolute-form": b"GET http://a/ HTTP/1.1\r\n\r\n",
    },
    (400, "duplicate_host"): {
        "two Hosts": plain(b"Host: a"),
        "two Hosts in HTTP/1.0": plain(b"Host: b", first=b"GET / HTTP/1.0"),
    },
    (400, "non_ascii_header"): {
        "non-ASCII Host": plain(host="é".encode()),
        "non-ASCII Upgrade": shake(b"websocket", b"websocket, \xff"),
        "non-ASCII Connection": shake(b"Connection: Upgrade", b"Connection: Upgrade, \xe9"),
        "non-ASCII Key": shake(KEY, KEY[:-1] + b"\xff"),
        "non-ASCII subprotocol": shake(more=b"Sec-WebSocket-Protocol: \xe9\r\n"),
        "non-ASCII extension": shake(more=b"Sec-WebSocket-Extensions: \xe9\r\n"),
        "unknown Sec-WebSocket field in obs-text": shake(more=b"Sec-WebSocket-New: \x80\r\n"),
    },
    (400, "bad_content_length"): {
        "Content-Length with a sign": plain(b"Content-Length: +5"),
        "negative Content-Length": plain(b"Content-Length: -1"),
        "hexadecimal Content-Length": plain(b"Content-Length: 0x5"),
        "Content-Length with underscore": plain(b"Content-Length: 1_0"),
        "empty Content-Length": plain(b"Content-Length:"),
        "superscript Content-Length": plain(b"Content-Length: \xb2"),
        "Content-Length with a gap": plain(b"Content-Length: 5,,5"),
    },
    (400, "conflicting_content_length"): {
        "two Content-Lengths": plain(b"Content-Length: 5", b"Content-Length: 6"),
        "two Content-Lengths in a list": plain(b"Content-Length: 5, 6"),
        "one Content-Length spelt twice": plain(b"Content-Length: 5", b"Content-Length: 05"),
    },
    (413, "body_too_large"): {
        "astronomical Content-Length": plain(b"Content-Length: " + b"9" * 5000),
    },
    (400, "ambiguous_length"): {
        "Content-Length and Transfer-Encoding": plain(
            b"Content-Length: 5", b"Transfer-Encoding: chunked"
        ),
    },
    (400, "transfer_encoding_in_http_1_0"): {
        "Transfer-Encoding in HTTP/1.0": plain(
            b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0"
        ),
    },
    (501, "unsupported_transfer_encoding"): {
        "gzip before chunked": plain(b"Transfer-Encoding: gzip, chunked"),
        "identity": plain(b"Transfer-Encoding: identity"),
        "chunked twice": plain(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        "chunked with a parameter": plain(b"Transfer-Encoding: chunked;q=1"),
        "empty Transfer-Encoding": plain(b"Transfer-Encoding:"),
    },
    (417, "unsupported_expectation"): {
        "unknown expectation": plain(b"Expect: tea"),
        "known and unknown expectation": plain(b"Expect: 100-continue, tea"),
    },
    (405, "websocket_needs_get"): {
        "POST": shake(b"GET", b"POST"),
        "HEAD": shake(b"GET", b"HEAD"),
    },
    (505, "websocket_needs_http_1_1"): {
        "HTTP/1.0": shake(b"HTTP/1.1", b"HTTP/1.0"),
    },
    (400, "mixed_upgrade"): {
        "h2c and websocket": shake(b"websocket", b"h2c, websocket"),
        "h2c, then websocket": shake(b"Upgrade: websocket", b"Upgrade: h2c\r\nUpgrade: websocket"),
        "websocket, then h2c": shake(more=b"Upgrade: h2c\r\n"),
        "websocket with a version": shake(b"websocket", b"websocket/13"),
        "websocket twice in a list": shake(b"websocket", b"websocket, websocket"),
    },
    (400, "connection_without_upgrade"): {
        "no Connection": without(b"Connection"),
        "Connection: close": shake(b"Connection: Upgrade", b"Connection: close"),
        "Connection: upgraded": shake(b"Connection: Upgrade", b"Connection: upgraded"),
    },
    (413, "upgrade_with_body"): {
        "body": shake(more=b"Content-Length: 1\r\n"),
        "chunked body": shake(more=b"Transfer-Encoding: chunked\r\n"),
    },
    (400, "missing_websocket_version"): {
        "no Version": without(b"Sec-WebSocket-Version"),
    },
    (400, "duplicate_websocket_version"): {
        "two Versions": shake(more=b"Sec-WebSocket-Version: 13\r\n"),
        "list of Versions": shake(b"13", b"13, 8"),
    },
    (426, "unsupported_websocket_version"): {
        "old Version": shake(b"13", b"8"),
        "future Version": shake(b"13", b"14"),
        "nonsense for a Version": shake(b"13", b"013"),
        "empty Version": shake(b"13"),
    },
    (400, "missing_websocket_key"): {
        "no Key": without(b"Sec-WebSocket-Key"),
    },
    (400, "duplicate_websocket_key"): {
        "two Keys": shake(more=b"Sec-WebSocket-Key: " + KEY + b"\r\n"),
    },
    (400, "bad_websocket_key"): {
        "empty Key": shake(KEY),
        "short Key": shake(KEY, b"c2hvcnQ="),
        "Key of 17 bytes": shake(KEY, b"YWJjZGVmZ2hpamtsbW5vcHE="),
        "Key without padding": shake(KEY, KEY[:-2]),
        "Key with stray bits": shake(KEY, KEY[:-3] + b"R=="),
        "URL-safe Key": shake(KEY, b"-_" + KEY[2:]),
        "Key in quotes": shake(KEY, b'"' + KEY + b'"'),
    },
    (400, "bad_subprotocol"): {
        "subprotocol that is no token": shake(more=b"Sec-WebSocket-Protocol: a b\r\n"),
        "no subprotocol in the field": shake(more=b"Sec-WebSocket-Protocol: ,\r\n"),
    },
    (400, "duplicate_subprotocol"): {
        "subprotocol twice": shake(
            more=b"Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: a\r\n"
        ),
    },
    (400, "bad_extension"): {
        "empty extension": shake(more=b"Sec-WebSocket-Extensions:\r\n"),
        "extension with an empty parameter": shake(more=b"Sec-WebSocket-Extensions: a;\r\n"),
        "extension with an empty value": shake(more=b"Sec-WebSocket-Extensions: a; b=\r\n"),
        "extension with a quoted comma": shake(more=b'Sec-WebSocket-Extensions: a; b="c,d"\r\n'),
    },
}
RUDE_CASES = pytest.mark.parametrize(
    "data, expected",
    [
        pytest.param(data, answer, id=name)
        for answer, cases in RUDE.items()
        for name, data in cases.items()
    ],
)

ACCEPTED: dict[str, bytes] = {
    "plain GET": plain(),
    "one empty line first": b"\r\n" + plain(),
    "two empty lines first": b"\r\n\r\n" + plain(),
    "HTTP/1.0 without Host": b"GET / HTTP/1.0\r\n\r\n",
    "HTTP/1.2": plain(first=b"GET / HTTP/1.2"),
    "OPTIONS *": plain(first=b"OPTIONS * HTTP/1.1"),
    "TRACE": plain(first=b"TRACE / HTTP/1.1"),
    "all that browsers leave unescaped": plain(first=b"GET /[a]|{b}^\"<>\\`'?c[]=d HTTP/1.1"),
    "a bad escape in the target": plain(first=b"GET /%zz HTTP/1.1"),
    "a double slash": plain(first=b"GET //a/b HTTP/1.1"),
    "obs-text in an ordinary field": plain(b"Cookie: n=\xff\xfe"),
    "empty value": plain(b"A:"),
    "tabs and spaces around a value": plain(b"A: \t b\tc \t"),
    "colon in a value": plain(b"A::b:"),
    "odd but good name": plain(b"!#$%&'*+-.^_`|~09azAZ: b"),
    "empty Host": plain(host=b""),
    "Host that IDNA can't decode": plain(host=b"xn--99zzzzzzz"),
    "Host with underscore and port": plain(host=b"my_service:3000"),
    "Host with an empty port": plain(host=b"a:"),
    "IPv4 Host": plain(host=b"127.0.0.1:3000"),
    "IPv6 Host": plain(host=b"[::1]:3000"),
    "IPv6 Host with IPv4": plain(host=b"[::ffff:127.0.0.1]"),
    "escaped Host": plain(host=b"%C3%A9.example"),
    "h2c upgrade": plain(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings"),
    "protocol whose name begins like ours": plain(b"Upgrade: websockets"),
    "WebSocket fields without Upgrade": without(b"Upgrade"),
    "Content-Length twice the same": plain(b"Content-Length: 5, 5", b"Content-Length: 5"),
    "mixed-case Chunked": plain(b"Transfer-Encoding: ,Chunked", first=b"POST / HTTP/1.1"),
    "handshake": SHAKE,
    "handshake in HTTP/1.2": shake(b"HTTP/1.1", b"HTTP/1.2"),
    "handshake with Content-Length: 0": shake(more=b"Content-Length: 0\r\n"),
    "handshake with Host xn--99zzzzzzz": shake(b"example.com", b"xn--99zzzzzzz"),
    "handshake in shouted names": shake(b"Sec-WebSocket-Key", b"SEC-WEBSOCKET-KEY"),
    "mixed-case WebSocket": shake(b"websocket", b"WebSocket"),
    "websocket on two lines": shake(more=b"Upgrade: WEBSOCKET\r\n"),
    "mixed-case Connection in a list": shake(b"n: Upgrade", b"n: keep-alive, uPGRADE"),
    "Connection split over two lines": shake(
        b"n: Upgrade", b"n: Keep-Alive\r\nconnection:,upgrade"
    ),
    "Connection without spaces": shake(b"n: Upgrade", b"n:upgrade,close"),
    "absolute-form handshake": shake(b"/chat", b"http://example.com/chat"),
    "fields in another order": shake(b"Host: example.com\r\n", more=b"Host: example.com\r\n"),
}


@RUDE_CASES
def test_rude_head_gets_its_own_answer(data: bytes, expected: tuple[int, str]) -> None:
    """Each fault has its status and its code, the same when it comes byte by byte."""
    assert expected == refusal_of(read(data))
    assert expected == refusal_of(read_dribbled(data))


@RUDE_CASES
def test_refusal_is_fit_to_be_sent(data: bytes, expected: tuple[int, str]) -> None:
    """A refusal's code is snake_case, its message is one printable line."""
    verdict = read(data)
    assert isinstance(verdict, Refusal)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", verdict.error)
    assert verdict.message.isprintable()
    assert verdict.render().startswith(b"HTTP/1.1 %d " % expected[0])


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_legitimate_variety_is_accepted(data: bytes) -> None:
    """What the RFCs allow is allowed, in one piece and byte by byte."""
    head = accepted(data)
    assert head == read_dribbled(data)
    assert data.lstrip(b"\r\n") == head.raw


@pytest.mark.parametrize(
    "data, error",
    [
        (b"\x16", "tls_on_plain_port"),
        (b"\r\n\x16", "tls_on_plain_port"),
        (b"\x80", "bad_request_line"),
        (b"\r\n\r\n\r\n", "bad_request_line"),
        (b"hello ", "unknown_method"),
        (b"A" * 33, "unknown_method"),
        (b"GET /\xff", "bad_target"),
        (b"GET / HTTP/1.1\n", "bare_line_ending"),
        (b"GET /" + b"a" * 8230, "target_too_long"),
        (b"GET /" + b"a" * 8229 + b"\rb", "bare_line_ending"),
        (b"PRI * HTTP/2.0\r\n", "unsupported_http_version"),
        (b"GET / HTTP/3.0\r\n", "unsupported_http_version"),
        (b"GET /\r\n", "bad_request_line"),
        (b"GET a HTTP/1.1\r\n", "bad_target"),
        (b"GET / HTTP/1.1\r\nA: \x00", "control_character"),
        (b"GET / HTTP/1.1\r\nA: b\n", "bare_line_ending"),
        (b"GET / HTTP/1.1\r\nA: b\r\nC\r\n", "missing_colon"),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n", "folded_header"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101, "too_many_headers"),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 16366, "head_too_large"),
    ],
)
def test_refusal_comes_with_the_byte_that_decides(data: bytes, error: str) -> None:
    """A head is refused before its end, by the very byte that makes it hopeless."""
    reader = HeadReader()
    assert None is reader.feed(data[:-1])
    verdict = reader.feed(data[-1:])
    assert isinstance(verdict, Refusal)
    assert error == verdict.error


def test_old_version_is_told_the_right_one() -> None:
    """A 426 carries Sec-WebSocket-Version: 13 (RFC 6455 §4.4)."""
    verdict = read(shake(b"13", b"8"))
    assert isinstance(verdict, Refusal)
    assert (("Sec-WebSocket-Version", "13"),) == verdict.headers


def test_wrong_method_is_told_the_right_one() -> None:
    """A 405 carries Allow (RFC 9110 §15.5.6)."""
    verdict = read(shake(b"GET", b"PUT"))
    assert isinstance(verdict, Refusal)
    assert (("Allow", "GET"),) == verdict.headers


def test_head_of_a_plain_request() -> None:
    """A plain request tells its line, its fields in order, its body and its persistence."""
    data = plain(
        b"X-Twice:  1 ",
        b"Content-Length: 12",
        b"x-twice: 2",
        b"Expect: 100-Continue",
        first=b"POST /a%20b?c=d?e HTTP/1.1",
        host=b"example.com:3000",
    )
    expected = RequestHead(
        method="POST",
        target="/a%20b?c=d?e",
        headers=[
            (b"host", b"example.com:3000"),
            (b"x-twice", b"1"),
            (b"content-length", b"12"),
            (b"x-twice", b"2"),
            (b"expect", b"100-Continue"),
        ],
        host="example.com:3000",
        http_version="1.1",
        raw=data,
        websocket=None,
        content_length=12,
        chunked=False,
        keep_alive=True,
        expects_continue=True,
    )
    assert expected == read(data)
    assert "/a%20b" == expected.path
    assert "c=d?e" == expected.query_string


def test_target_without_a_query() -> None:
    """Without a question mark the path is the target and the query string is empty."""
    head = accepted(plain(first=b"GET /a HTTP/1.1"))
    assert ("/a", "") == (head.path, head.query_string)


def test_offer_of_a_handshake() -> None:
    """A handshake tells its key, its subprotocols and its extensions, joined over lines."""
    head = accepted(
        shake(
            more=b"Sec-WebSocket-Protocol: b,, A\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
            b"sec-websocket-protocol: c,\r\n"
            b'Sec-WebSocket-Extensions: x; y = 1;z="2", x\r\n'
        )
    )
    expected = WebSocketOffer(
        key=KEY,
        subprotocols=("b", "A", "c"),
        extensions=(
            "permessage-deflate; client_max_window_bits",
            'x; y = 1;z="2"',
            "x",
        ),
    )
    assert expected == head.websocket
    assert not head.keep_alive


@pytest.mark.parametrize(
    "target, expected",
    [
        (b"http://b.example", "/"),
        (b"http://b.example?c=d", "/?c=d"),
        (b"HTTP://b.example/c?d", "/c?d"),
        (b"wss://b.example/c//d?e://f", "/c//d?e://f"),
    ],
)
def test_absolute_form_is_reduced(target: bytes, expected: str) -> None:
    """An absolute-form is reduced to origin-form, and its host beats Host (RFC 9112 §3.2.2)."""
    head = accepted(plain(first=b"GET " + target + b" HTTP/1.1"))
    assert (expected, "b.example") == (head.target, head.host)
    assert [(b"host", b"a")] == head.headers


@pytest.mark.parametrize(
    "data, expected",
    [
        (plain(), True),
        (plain(b"Connection: keep-alive", b"Connection: Close"), False),
        (plain(first=b"GET / HTTP/1.7"), True),
        (plain(first=b"GET / HTTP/1.0"), False),
        (plain(b"Connection: keep-alive", first=b"GET / HTTP/1.0"), False),
    ],
)
def test_keep_alive(data: bytes, expected: bool) -> None:
    """HTTP/1.1 persists until it says close; HTTP/1.0 doesn't persist here."""
    assert expected == accepted(data).keep_alive


@pytest.mark.parametrize(
    "data, expected",
    [
        (plain(b"Expect: 100-continue", b"Content-Length: 1"), True),
        (plain(b"Expect: 100-continue", b"Transfer-Encoding: chunked"), True),
        (plain(b"Expect: 100-continue"), False),
        (plain(b"Expect: 100-continue", b"Content-Length: 1", first=b"PUT / HTTP/1.0"), False),
    ],
)
def test_expects_continue(data: bytes, expected: bool) -> None:
    """A 100 is owed for a body in HTTP/1.1 only (RFC 9110 §10.1.1)."""
    assert expected == accepted(data).expects_continue


def test_higher_minor_version_is_1_1() -> None:
    """HTTP/1.9 is understood as HTTP/1.1, and HTTP/1.0 as itself."""
    assert "1.1" == accepted(plain(first=b"GET / HTTP/1.9")).http_version
    assert "1.0" == accepted(plain(first=b"GET / HTTP/1.0")).http_version


def test_rest_is_what_came_behind_the_head() -> None:
    """Early frames, a body and the next request aren't lost, and empty lines aren't the head's."""
    reader = HeadReader()
    assert None is reader.feed(b"\r\n" + SHAKE[:-1])
    head = reader.feed(SHAKE[-1:] + b"\x81\x80abcd\r\n\r\n")
    assert isinstance(head, RequestHead)
    assert (SHAKE, b"\x81\x80abcd\r\n\r\n") == (head.raw, reader.rest)


def test_pipelined_requests_are_read_one_by_one() -> None:
    """A new reader given the rest reads the next request."""
    first = HeadReader()
    first.feed(plain(first=b"GET /1 HTTP/1.1") + plain(first=b"GET /2 HTTP/1.1"))
    second = HeadReader().feed(first.rest)
    assert isinstance(second, RequestHead)
    assert "/2" == second.target


@pytest.mark.parametrize("data", [SHAKE, b"\x16", shake(b"13", b"8") + b"more"])
def test_reader_reads_one_head(data: bytes) -> None:
    """A reader that has decided takes no more bytes; behind a refusal it keeps none."""
    reader = HeadReader()
    reader.feed(data)
    assert b"" == reader.rest
    with pytest.raises(RuntimeError, match="new HeadReader"):
        reader.feed(b"G")


def test_nothing_is_nothing() -> None:
    """Empty input decides nothing, before and between."""
    reader = HeadReader()
    assert [None, None, None] == [reader.feed(b""), reader.feed(SHAKE[:9]), reader.feed(b"")]
    assert isinstance(reader.feed(SHAKE[9:]), RequestHead)


def test_bounds_are_exact() -> None:
    """A bound itself is allowed, one more is not."""
    target = plain(first=b"GET /abc HTTP/1.1")
    assert isinstance(HeadReader(max_target_bytes=4).feed(target), RequestHead)
    assert (414, "target_too_long") == refusal_of(HeadReader(max_target_bytes=3).feed(target))
    fields = plain(b"A: b", b"C: d")
    assert isinstance(HeadReader(max_headers=3).feed(fields), RequestHead)
    assert (431, "too_many_headers") == refusal_of(HeadReader(max_headers=2).feed(fields))
    size = len(SHAKE)
    assert isinstance(HeadReader(max_head_bytes=size).feed(SHAKE), RequestHead)
    assert (431, "head_too_large") == refusal_of(HeadReader(max_head_bytes=size - 1).feed(SHAKE))
    assert isinstance(read(plain(*[b"A: b"] * 99)), RequestHead)
    assert isinstance(read(plain(first=b"GET /" + b"a" * 8191 + b" HTTP/1.1")), RequestHead)
    assert isinstance(read(plain(b"A: " + b"b" * (16384 - len(plain()) - 5))), RequestHead)


def test_body_behind_the_head_is_not_the_heads_size() -> None:
    """Bytes behind the head don't count for its bound."""
    reader = HeadReader(max_head_bytes=len(SHAKE))
    assert isinstance(reader.feed(SHAKE + b"x" * 100_000), RequestHead)
    assert 100_000 == len(reader.rest)


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_compacted_head_tells_the_same_fields(data: bytes) -> None:
    """A head that keeps its bytes alone still gives all its fields."""
    head = accepted(data)
    expected = head.headers
    head.compact()
    assert expected == head.headers


def test_secrets_stay_out_of_the_repr() -> None:
    """A logged head doesn't show credentials from its fields."""
    assert "hunter2" not in repr(accepted(plain(b"Authorization: Bearer hunter2")))


# Properties.


def held(reader: HeadReader) -> int:
    """The bytes a reader holds on to."""
    return sum(
        len(held) for held in gc.get_referents(reader) if isinstance(held, bytes | bytearray)
    )


@st.composite
def mixed_case(draw: st.DrawFn, text: str) -> str:
    """The text in any case."""
    upper = draw(st.integers(0, 2 ** len(text) - 1))
    return "".join(
        char.upper() if upper >> place & 1 else char.lower() for place, char in enumerate(text)
    )


tokens = st.text(TCHARS, min_size=1, max_size=10)
spaces = st.sampled_from(["", " ", "\t", " \t "])
values = st.text(
    st.characters(codec="latin-1", exclude_categories=["Cc"], include_characters="\t"), max_size=20
).map(lambda value: value.strip(" \t"))
hosts = st.sampled_from(
    ["example.com", "localhost:3000", "127.0.0.1", "[::1]:80", "xn--99zzzzzzz", "a_b", "%41:"]
)
targets = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=30
).map("/".__add__)
extensions = st.sampled_from(
    ["permessage-deflate", "permessage-deflate; client_max_window_bits=10", 'x;y="z" ;a', "b"]
)
other_fields = st.lists(
    st.tuples(tokens.map("X-".__add__) | st.sampled_from(["Cookie", "Origin"]), values), max_size=5
)


@st.composite
def field_line(draw: st.DrawFn, name: str, value: str) -> bytes:
    """One field line, in any case and with any space around the value."""
    line = f"{draw(mixed_case(name))}:{draw(spaces)}{value}{draw(spaces)}\r\n"
    return line.encode("latin-1")


@st.composite
def list_lines(draw: st.DrawFn, name: str, elements: list[str]) -> list[bytes]:
    """A list field whose elements come in order on one line or several, with gaps."""
    lines: list[list[str]] = []
    for element in elements:
        if not lines or draw(st.booleans()):
            lines.append([])
        lines[-1].extend([element, ""] if draw(st.booleans()) else [element])
    comma = draw(st.sampled_from([",", ", ", " ,\t"]))
    return [draw(field_line(name, comma.join(line))) for line in lines]


@st.composite
def handshakes(draw: st.DrawFn) -> tuple[bytes, str, str, WebSocketOffer]:
    """A good opening handshake in any spelling; its target, its host and its offer."""
    key = draw(st.sampled_from([KEY, b"AAAAAAAAAAAAAAAAAAAAAA==", b"/+9zZg01234567890abcdw=="]))
    options = draw(st.permutations(["upgrade", *draw(st.lists(tokens, max_size=2))]))
    protocols = draw(st.lists(tokens, max_size=4, unique=True))
    offered = draw(st.lists(extensions, max_size=3))
    target, host = draw(targets), draw(hosts)
    others = draw(other_fields)
    groups = [
        [draw(field_line("Host", host))],
        [draw(field_line("Upgrade", draw(mixed_case("websocket"))))],
        [draw(field_line("Sec-WebSocket-Version", "13"))],
        [draw(field_line("Sec-WebSocket-Key", key.decode()))],
        draw(list_lines("Connection", [draw(mixed_case(option)) for option in options])),
        draw(list_lines("Sec-WebSocket-Protocol", protocols)),
        draw(list_lines("Sec-WebSocket-Extensions", offered)),
        *([draw(field_line(name, value))] for name, value in others),
    ]
    fields = b"".join(line for group in draw(st.permutations(groups)) for line in group)
    minor = draw(st.integers(1, 9))
    raw = f"GET {target} HTTP/1.{minor}\r\n".encode() + fields + b"\r\n"
    return raw, target, host, WebSocketOffer(key, tuple(protocols), tuple(offered))


@st.composite
def plain_requests(draw: st.DrawFn) -> bytes:
    """A good plain request in any spelling."""
    method = draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]))
    scheme = draw(st.sampled_from(["", "", "http://a.example", "WS://[::1]:80"]))
    lines = [draw(field_line("Host", draw(hosts)))]
    body = draw(st.sampled_from([None, ("Content-Length", "5"), ("Transfer-Encoding", "chunked")]))
    if body is not None:
        lines.append(draw(field_line(*body)))
    if draw(st.booleans()):
        lines += draw(list_lines("Connection", draw(st.lists(tokens, max_size=2))))
    lines += [draw(field_line(name, value)) for name, value in draw(other_fields)]
    first = f"{method} {scheme}{draw(targets)} HTTP/1.1\r\n".encode()
    return first + b"".join(draw(st.permutations(lines))) + b"\r\n"


good_heads = handshakes().map(lambda drawn: drawn[0]) | plain_requests()
nasty_bytes = st.sampled_from([bytes([byte]) for byte in b"\r\n\t :,;#*=\x00\x16\x7f\xff"])
nasty_lines = st.sampled_from(
    [
        b"\r\n",
        b"\r\n\r\n",
        b"\r\n ",
        b"\r\nHost: b",
        b"\r\nUpgrade: h2c",
        b"\r\nContent-Length: 1",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nA: b" * 12,
        b"HTTP/2.0",
        b"PRI * ",
        b"A" * 40,
    ]
)


@st.composite
def spoilt_heads(draw: st.DrawFn) -> bytes:
    """A good head with a few places deleted, repeated or replaced."""
    data = draw(good_heads)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 3)))
        spoilt = draw(nasty_bytes | nasty_lines | st.just(data[start:end] * 2))
        data = data[:start] + spoilt + data[end:]
    return data


any_bytes = st.binary(max_size=300) | spoilt_heads() | good_heads
cuts = st.lists(st.integers(0, 400), max_size=8)
bounds = st.fixed_dictionaries(
    {},
    optional={
        "max_head_bytes": st.integers(1, 300),
        "max_headers": st.integers(0, 8),
        "max_target_bytes": st.integers(1, 30),
    },
)


@given(good_heads, st.binary(max_size=20), cuts)
def test_cuts_of_a_good_head_do_not_matter(head: bytes, behind: bytes, cuts: list[int]) -> None:
    """A good head cut anywhere is the same head, and nothing behind it is lost."""
    reader = HeadReader()
    inside = [cut for cut in cuts if cut < len(head)]
    assert accepted(head) == read_cut(head + behind, inside, reader)
    assert behind == reader.rest


@given(any_bytes, cuts, bounds)
@example(b"GET / HTTP/1.1\r\nA\r\n\rB", [18], {})
@example(b"\r\r\n", [1], {})
@example(b"GET" + b" a" * 20 + b"\r\n", [], {"max_target_bytes": 1})
@example(b"GET /" + b"a" * 60 + b"\xff", [], {"max_target_bytes": 1})
def test_verdict_depends_on_the_bytes_alone(
    data: bytes, cuts: list[int], bounds: dict[str, int]
) -> None:
    """Any bytes cut anywhere get the verdict that they get in one piece and byte by byte."""
    whole = HeadReader(**bounds).feed(data)
    inside = [cut for cut in cuts if cut < len(data)]
    assert whole == read_cut(data, inside, HeadReader(**bounds))
    assert whole == read_dribbled(data, **bounds)


@given(st.lists(any_bytes, max_size=6), bounds)
def test_no_bytes_raise_or_pile_up(pieces: list[bytes], bounds: dict[str, int]) -> None:
    """Whatever comes is accepted, refused or awaited, and what is held stays within the bound."""
    reader = HeadReader(**bounds)
    for piece in pieces:
        verdict = reader.feed(piece)
        if verdict is not None:
            assert len(reader.rest) == held(reader)
            break
        assert held(reader) <= reader.max_head_bytes


@given(st.binary(min_size=1, max_size=64))
def test_a_reader_fed_for_ever_decides(piece: bytes) -> None:
    """The same bytes again and again lead to a verdict within the bound."""
    reader = HeadReader(max_head_bytes=512)
    rounds = 512 // len(piece) + 4
    assert any(reader.feed(piece) is not None for _ in range(rounds))


@given(handshakes())
def test_every_spelling_of_a_handshake_is_accepted(
    drawn: tuple[bytes, str, str, WebSocketOffer],
) -> None:
    """Case, order, spacing and splitting of a good handshake don't matter."""
    raw, target, host, offer = drawn
    head = accepted(raw)
    assert (target, host, offer) == (head.target, head.host, head.websocket)


def as_h11_tells_it(head: RequestHead) -> list[tuple[bytes, bytes]]:
    """The fields as h11 gives them: one Content-Length, Transfer-Encoding in lower case."""
    fields: list[tuple[bytes, bytes]] = []
    for name, value in head.headers:
        if name == b"transfer-encoding":
            fields.append((name, value.lower()))
        elif name != b"content-length":
            fields.append((name, value))
        elif name not in dict(fields):
            fields.append((name, value.partition(b",")[0].strip()))
    return fields


@given(good_heads | spoilt_heads())
@example(ACCEPTED["Content-Length twice the same"])
def test_h11_takes_what_we_take(data: bytes) -> None:
    """What passes here is the same request to h11, but that we reduce an absolute-form."""
    verdict = read(data)
    if not isinstance(verdict, RequestHead):
        return
    h11_connection = h11.Connection(h11.SERVER)
    h11_connection.receive_data(verdict.raw)
    request = h11_connection.next_event()
    assert isinstance(request, h11.Request)
    assert verdict.method.encode() == request.method
    assert request.target.endswith(verdict.target.removeprefix("/").encode())
    assert request.target.startswith(b"/") <= (request.target == verdict.target.encode())
    assert as_h11_tells_it(verdict) == list(request.headers)
