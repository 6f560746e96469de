"""Faults of frames: upgraded clients that break RFC 6455 §5, or keep it in the worst way.

In: a client's chance. Out: its steps, which begin with a good upgrade. The rule: the code that the
RFC names is allowed to all, a bare end of TCP to servers that promise no more.
"""

from trio_gateway.storm.draw import Draw
from trio_gateway.storm.faults.fault import BARE, REFUSED, WE_LEFT, Allowed, Fault, closes
from trio_gateway.storm.octets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    close,
    deflated,
    frame,
    request,
    text,
)
from trio_gateway.storm.program import Connect, Expect, Reset, Send, Step, Wait

_DEFLATE = request(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
_UPGRADED = (Connect(), Send(UPGRADE, note="upgrade"), Expect("upgrade"))
_BOMB = deflated(bytes(4_000_000))
_UNREAD = Allowed("101 - reset", "it hung up while we were still sending")
_FLOODED = (
    *closes(1008, 1013, 4429, why="a server may bound what one peer asks of it"),
    WE_LEFT,
)


def _broken(note: str, data: bytes, *, cuts: tuple[int, ...] = ()) -> tuple[Step, ...]:
    return (*_UPGRADED, Send(data, cuts=cuts, note=note), Expect("end"))


def _unmasked(draw: Draw) -> tuple[Step, ...]:
    data = frame(draw.one_of((TEXT, BINARY, PING, CLOSE)), b"", masked=False)
    return _broken("an unmasked frame", data)


def _reserved(draw: Draw) -> tuple[Step, ...]:
    if draw.chance(0.5):
        opcode = draw.one_of((3, 4, 7, 11, 15))
        return _broken(f"opcode {opcode}", frame(opcode, b"?"))
    bits = draw.number(1, 7)
    return _broken(f"reserved bits {bits:03b}", frame(TEXT, b"?", reserved=bits))


def _utf8(draw: Draw) -> tuple[Step, ...]:
    bad = draw.one_of((b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3"))
    if draw.chance(0.5):
        data = frame(TEXT, bad)
        return _broken("text that is no UTF-8", data, cuts=draw.cuts(len(data)))
    split = frame(TEXT, b"begun ", fin=False) + frame(CONTINUATION, bad)
    return _broken("a fragment that is no UTF-8", split)


def _control(draw: Draw) -> tuple[Step, ...]:
    note, data = draw.one_of(
        (
            ("a ping in fragments", frame(PING, b"p", fin=False)),
            ("a ping of 126 bytes", frame(PING, b"p" * 126)),
            ("a continuation of nothing", frame(CONTINUATION, b"?")),
            ("a message inside another", frame(TEXT, b"a", fin=False) + text("b")),
            ("a length that is too long", frame(TEXT, b"abc", size_bytes=2)),
        )
    )
    return _broken(note, data)


def _bad_close(draw: Draw) -> tuple[Step, ...]:
    note, data = draw.one_of(
        (
            *((f"Close {code}", close(code)) for code in (0, 999, 1004, 1005, 1006, 1015, 2999)),
            ("a Close of one byte", frame(CLOSE, b"\x03")),
            ("a Close whose reason is no UTF-8", close(1000, b"\xff")),
            ("Close 65535", close(65535)),
        )
    )
    return _broken(note, data)


def _fragments(draw: Draw) -> tuple[Step, ...]:
    payload = b"" if draw.chance(0.5) else b"x"
    first = Send(frame(TEXT, payload, fin=False), note="the first fragment")
    rest = Send(
        frame(CONTINUATION, payload, fin=False),
        times=draw.number(2000, 20_000),
        note="tiny fragments without end",
    )
    return (*_UPGRADED, first, rest, Wait(draw.seconds(0, 0.5)), Reset())


def _inflate(draw: Draw) -> tuple[Step, ...]:
    bomb = frame(draw.one_of((TEXT, BINARY)), _BOMB, reserved=4)
    begin = (Connect(), Send(_DEFLATE, note="upgrade with deflate"), Expect("upgrade"))
    return (*begin, Send(bomb, note="4 MB of zeros, deflated"), Expect("end", 3.0))


def _oversize(draw: Draw) -> tuple[Step, ...]:
    size = draw.one_of((2**24, 2**32, 2**62))
    head = frame(BINARY, declared=size, size_bytes=8)
    some = Send(b"\x00" * 4096, times=draw.number(1, 64), note="a part of it")
    return (*_UPGRADED, Send(head, note=f"a frame of {size} bytes"), some, Expect("end", 3.0))


def _no_such_length(_draw: Draw) -> tuple[Step, ...]:
    return _broken("a length of 2^63", frame(BINARY, declared=2**63, size_bytes=8))


def _pings(draw: Draw) -> tuple[Step, ...]:
    flood = Send(
        frame(draw.one_of((PING, PONG)), b"flood"), times=draw.number(500, 3000), note="a flood"
    )
    return (*_UPGRADED, flood, Send(close(1000), note="Close 1000"), Expect("end", 5.0))


def _closing(draw: Draw) -> tuple[Step, ...]:
    behind = draw.one_of(
        (frame(PING, b"late"), text("late"), close(1001), frame(BINARY, b"z" * 70_000))
    )
    if draw.chance(0.5):
        return _broken("Close 1000 and more behind it", close(1000) + behind)
    last = Send(behind, times=draw.number(1, 5), note="more behind the Close")
    return (*_UPGRADED, Send(close(1000), note="Close 1000"), last, Expect("end"))


def _while_closed(draw: Draw) -> tuple[Step, ...]:
    """The server is made to close; what comes then must not hurt it."""
    late = draw.one_of((frame(PING, b"late"), text("late"), frame(BINARY, b"z" * 70_000)))
    bad = Send(frame(PING, b"p", masked=False), note="an unmasked ping")
    more = Send(late, times=draw.number(1, 20), gap=0.01, note="more behind it")
    return (*_UPGRADED, bad, more, Wait(0.1), Reset())


_PROTOCOL = (*closes(1002, why="a protocol error, RFC 6455 §7.4.1"), *BARE, *REFUSED)
_TOO_BIG = closes(1009, why="too big, RFC 6455 §7.4.1")

FAULTS = (
    Fault(
        "unmasked-frame",
        "a home-made client that does not mask; RFC 6455 §5.1",
        _unmasked,
        _PROTOCOL,
    ),
    Fault(
        "reserved-bits",
        "a client that uses an extension nobody agreed to; RFC 6455 §5.2",
        _reserved,
        (*_PROTOCOL, *closes(1007, why="RSV1 is deflate's where that was agreed")),
    ),
    Fault(
        "bad-utf8",
        "a client that sends Latin-1 as text; RFC 6455 §8.1",
        _utf8,
        (*closes(1007, why="not UTF-8, RFC 6455 §7.4.1"), *BARE, *REFUSED),
    ),
    Fault(
        "bad-control-frames",
        "a client that gets fragments or lengths wrong; RFC 6455 §5.4 and §5.5",
        _control,
        (
            *_PROTOCOL,
            Allowed("101 - held", "the shortest length is the sender's duty, §5.2", "any"),
        ),
    ),
    Fault(
        "bad-close-codes",
        "a client that closes with a code that must not be sent; RFC 6455 §7.4",
        _bad_close,
        (
            *_PROTOCOL,
            *closes(1007, why="where the reason is no UTF-8"),
            *closes(1000, 1005, why="a lenient server takes any goodbye for one"),
            Allowed("101 * *", "a lenient server may echo the code it was told", "any"),
        ),
    ),
    Fault(
        "tiny-fragments",
        "a memory bomb of tiny fragments, CVE-2026-48779 in ws",
        _fragments,
        (*_TOO_BIG, *_FLOODED, *_PROTOCOL, _UNREAD),
        weight=1,
    ),
    Fault(
        "deflate-bomb",
        "a few kilobytes that inflate to megabytes; limits of the compressed size miss it",
        _inflate,
        (
            *_TOO_BIG,
            *_FLOODED,
            *_PROTOCOL,
            *closes(1007, why="the zeros are no text that it takes"),
            Allowed("101 - held", "4 MB are within the limit of a server that sets none", "any"),
            _UNREAD,
        ),
        weight=1,
    ),
    Fault(
        "oversize",
        "a frame that says it is larger than anything; RFC 6455 §10.4",
        _oversize,
        (
            *_TOO_BIG,
            *_PROTOCOL,
            _UNREAD,
            Allowed("101 - held", "it waits for the rest, which it may bound", "any"),
        ),
        weight=2,
    ),
    Fault(
        "impossible-length",
        "a length with its highest bit set; RFC 6455 §5.2",
        _no_such_length,
        (*_PROTOCOL, *_TOO_BIG),
    ),
    Fault(
        "ping-flood",
        "a client whose keep-alive runs wild",
        _pings,
        (
            *closes(1000, 1005, why="every ping may be answered, and then the Close"),
            *_FLOODED,
            *BARE,
            *REFUSED,
            _UNREAD,
        ),
        weight=2,
    ),
    Fault(
        "data-behind-close",
        "a client that says goodbye and goes on talking; RFC 6455 §5.5.1",
        _closing,
        (
            *closes(1000, 1005, why="the closing handshake; what is behind it is ignored"),
            *_PROTOCOL,
            Allowed("101 1000 reset", "it hung up with our late bytes unread"),
        ),
    ),
    Fault(
        "data-while-closing",
        "a client that goes on while the server is closing: the end of trio-websocket's server",
        _while_closed,
        (*_PROTOCOL, WE_LEFT, _UNREAD),
    ),
)
