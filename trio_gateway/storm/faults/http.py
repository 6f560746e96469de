"""Faults of HTTP: what is no opening handshake, or nearly one.

In: a client's chance. Out: its steps. The rule: each request is wrong in one way, told in its note.
"""

from trio_gateway.storm.draw import Draw
from trio_gateway.storm.faults.fault import (
    PATIENT,
    REFUSED,
    SILENT,
    TAKEN,
    WE_LEFT,
    Allowed,
    Fault,
)
from trio_gateway.storm.octets import KEY, OTHER_KEY, UPGRADE, plain, request
from trio_gateway.storm.program import Connect, Expect, HalfClose, Reset, Send, Step, Wait

_ANY_ANSWER = (
    Allowed("[2-5]?? - *", "what plain HTTP gets here is the application's business"),
    *SILENT,
)
# A server that says 400, 404, 405 or 426 has understood; a bare "no" is as good (RFC 9110 §15.5).
_REFUSALS = (*REFUSED, *SILENT, *PATIENT)


def _ask(draw: Draw, note: str, data: bytes) -> tuple[Step, ...]:
    """Send a request that is to be refused; the client hangs up, whatever the answer is."""
    cuts = draw.cuts(len(data))
    tail: tuple[Step, ...] = (Expect("answer"),)
    if draw.chance(0.15):
        tail = (Reset(),)
    elif draw.chance(0.15):
        tail = (HalfClose(), Expect("answer"))
    return (Connect(), Send(data, cuts=cuts, note=note), *tail)


def _loris(draw: Draw) -> tuple[Step, ...]:
    slow = Send(
        UPGRADE[:-2], cuts=tuple(range(1, len(UPGRADE) - 2)), gap=0.15, note="a byte at a time"
    )
    return (Connect(), slow, Wait(draw.seconds(0, 5)), Expect("end"))


def _plain(draw: Draw) -> tuple[Step, ...]:
    note, data = draw.one_of(
        (
            ("GET", plain(b"GET {path} HTTP/1.1")),
            ("HEAD", plain(b"HEAD {path} HTTP/1.1")),
            ("POST", plain(b"POST {path} HTTP/1.1", b"Content-Length: 5", body=b"hello")),
            ("GET of nothing", plain(b"GET /no/such/thing HTTP/1.1", b"Connection: close")),
        )
    )
    return (Connect(), Send(data, cuts=draw.cuts(len(data)), note=note), Expect("answer"))


def _old_http(draw: Draw) -> tuple[Step, ...]:
    note, data = draw.one_of(
        (
            ("an upgrade of HTTP/1.0", request(line=b"GET {path} HTTP/1.0")),
            ("a GET of HTTP/1.0", plain(b"GET {path} HTTP/1.0")),
            ("HTTP/0.9", b"GET {path}\r\n\r\n"),
        )
    )
    return _ask(draw, note, data)


def _h2c(draw: Draw) -> tuple[Step, ...]:
    settings = b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"
    both = b"Connection: Upgrade, HTTP2-Settings"
    note, data = draw.one_of(
        (
            ("h2c", plain(b"GET {path} HTTP/1.1", b"Upgrade: h2c", both, settings)),
            ("h2c and websocket", request(b"Upgrade: h2c", b"Upgrade: websocket", settings)),
            ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        )
    )
    return _ask(draw, note, data)


def _duplicated(draw: Draw) -> tuple[Step, ...]:
    note, lines = draw.one_of(
        (
            ("two keys", (b"Sec-WebSocket-Key: " + KEY, b"Sec-WebSocket-Key: " + OTHER_KEY)),
            ("two versions", (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8")),
            ("two Upgrades", (b"Upgrade: websocket", b"Upgrade: websocket")),
            ("two Connections", (b"Connection: keep-alive", b"Connection: Upgrade")),
            ("two Hosts", (b"Host: {authority}", b"Host: elsewhere.example")),
        )
    )
    return _ask(draw, note, request(*lines))


def _malformed(draw: Draw) -> tuple[Step, ...]:
    note, data = draw.one_of(
        (
            ("an empty key", request(b"Sec-WebSocket-Key:")),
            ("a short key", request(b"Sec-WebSocket-Key: c2hvcnQ=")),
            ("a key that is no base64", request(b"Sec-WebSocket-Key: " + b"*" * 24)),
            ("no key", request(without=[b"Sec-WebSocket-Key"])),
            ("version 8", request(b"Sec-WebSocket-Version: 8")),
            ("no version", request(without=[b"Sec-WebSocket-Version"])),
            ("version 13x", request(b"Sec-WebSocket-Version: 13x")),
            ("Upgrade: websockets", request(b"Upgrade: websockets")),
            ("Connection: close", request(b"Connection: close")),
            ("no Connection", request(without=[b"Connection"])),
            ("no Host", request(without=[b"Host"])),
            ("a bare line feed", UPGRADE.replace(b"\r\n", b"\n")),
            ("a POST that upgrades", request(line=b"POST {path} HTTP/1.1")),
            ("a space before the colon", request(b"X-Name : x")),
            ("a folded header", request(b"X-Folded: a\r\n b")),
            ("a NUL in a header", request(b"X-Name: a\x00b")),
        )
    )
    return _ask(draw, note, data)


def _non_ascii(draw: Draw) -> tuple[Step, ...]:
    octet = draw.one_of((b"\xe9", b"\xff", b"\x80", b"\xc3\xa9"))
    note, data = draw.one_of(
        (
            ("Host", request(b"Host: caf" + octet + b".example")),
            ("Connection", request(b"Connection: Upgrade, " + octet)),
            ("Sec-WebSocket-Protocol", request(b"Sec-WebSocket-Protocol: ch" + octet + b"t")),
            ("Sec-WebSocket-Extensions", request(b"Sec-WebSocket-Extensions: d" + octet)),
            ("Origin", request(b"Origin: http://caf" + octet + b".example")),
            ("a header that nobody reads", request(b"X-Name: na" + octet + b"ve")),
            ("the target", request(line=b"GET {path}" + octet + b" HTTP/1.1")),
        )
    )
    return _ask(draw, f"a byte above 0x7F in {note}", data)


def _punycode(draw: Draw) -> tuple[Step, ...]:
    host = draw.one_of((b"xn--99zzzzzzz", b"xn--", b"[::1", b"a..b", b"x" * 300))
    return _ask(draw, "a Host that is no name", request(b"Host: " + host))


def _huge(draw: Draw) -> tuple[Step, ...]:
    note, begin, more, times, end = draw.one_of(
        (
            ("a header of 80 kB", UPGRADE[:-2] + b"X-Long: ", b"a" * 100, 800, b"\r\n\r\n"),
            ("2,000 headers", UPGRADE[:-2], b"X-Some: x\r\n", 2000, b"\r\n"),
            ("a target of 80 kB", b"GET {path}", b"q" * 100, 800, UPGRADE[10:]),
            ("headers without end", UPGRADE[:-2] + b"X: ", b"a" * 100, 800, b""),
        )
    )
    head = (Send(begin, note=note), Send(more, times=times), *((Send(end),) if end else ()))
    return (Connect(), *head, Expect("answer"))


def _body(draw: Draw) -> tuple[Step, ...]:
    note, data = draw.one_of(
        (
            ("a body", request(b"Content-Length: 4") + b"body"),
            ("a chunked body", request(b"Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n"),
            ("a body that does not come", request(b"Content-Length: 400")),
            ("a body and a length of nonsense", request(b"Content-Length: -4") + b"body"),
        )
    )
    return _ask(draw, f"an upgrade with {note}", data)


def _garbage(draw: Draw) -> tuple[Step, ...]:
    note, data = draw.one_of(
        (
            ("random bytes", draw.octets(draw.number(1, 200)) + b"\r\n\r\n"),
            ("an SSH banner", b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"),
            ("a SOCKS greeting", b"\x05\x01\x00"),
            ("text", b"hello?\r\n\r\n"),
        )
    )
    end: tuple[Step, ...] = (Reset(),) if draw.chance(0.6) else (Expect("end"),)
    return (Connect(), Send(data, note=note), *end)


FAULTS = (
    Fault(
        "slow-loris",
        "a handshake a byte at a time, which holds a task and a slot for as long as it is let",
        _loris,
        (*REFUSED, *SILENT, *PATIENT, Allowed("- - end", "the request took too long")),
        weight=1,
    ),
    Fault(
        "plain-request",
        "a browser, a crawler or a health check that asks the WebSocket port for a page",
        _plain,
        _ANY_ANSWER,
    ),
    Fault(
        "http-1.0",
        "an old proxy: RFC 6455 §4.1 asks for HTTP/1.1 at least",
        _old_http,
        (*_ANY_ANSWER, *PATIENT, TAKEN, WE_LEFT),
    ),
    Fault(
        "h2c",
        "a client that tries HTTP/2 first; hypercorn and others take the wrong turn here",
        _h2c,
        (
            *_ANY_ANSWER,
            *PATIENT,
            TAKEN,
            WE_LEFT,
            Allowed("101 - end", "it speaks h2c", "any"),
            Allowed("h2 - *", "it speaks HTTP/2 and was told so, RFC 9113 §3.3", "any"),
        ),
    ),
    Fault(
        "duplicated-fields",
        "a proxy that joins two requests' headers, or a smuggler",
        _duplicated,
        (
            *_REFUSALS,
            TAKEN,
            WE_LEFT,
            Allowed("101 - *", "Connection over two lines is legitimate, RFC 9110 §5.3"),
        ),
    ),
    Fault(
        "malformed-fields",
        "home-made clients: a handshake with one thing wrong",
        _malformed,
        (*_REFUSALS, *_ANY_ANSWER, TAKEN, WE_LEFT),
    ),
    Fault(
        "non-ascii-headers",
        "a byte above 0x7F in a header, which ends trio-websocket's server",
        _non_ascii,
        (
            *_REFUSALS,
            *_ANY_ANSWER,
            WE_LEFT,
            Allowed("101 * *", "obs-text in a field is legal to pass on, RFC 9110 §5.5"),
        ),
    ),
    Fault(
        "odd-hosts",
        "a Host that no resolver would take, as scanners send",
        _punycode,
        (*_REFUSALS, TAKEN, WE_LEFT),
    ),
    Fault(
        "huge-head",
        "a client with a broken cookie jar, or somebody who looks for the limit",
        _huge,
        (
            *_REFUSALS,
            TAKEN,
            Allowed("- - reset", "it hung up while we were still sending"),
            Allowed("4?? - reset", "the same, behind its answer"),
        ),
        weight=2,
    ),
    Fault(
        "body-with-upgrade",
        "a handshake with a body, whose bytes would be taken for frames",
        _body,
        (*_REFUSALS, *_ANY_ANSWER, TAKEN, WE_LEFT),
    ),
    Fault(
        "garbage",
        "what is no HTTP at all, then an RST: the end of trio-websocket's server",
        _garbage,
        (*_REFUSALS, WE_LEFT),
    ),
)
