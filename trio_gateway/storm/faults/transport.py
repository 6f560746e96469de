"""Faults of TCP: clients that break off, stall, or take descriptors and give nothing.

In: a client's chance. Out: its steps. The rule: the bytes are those of a good client; what is wrong
is when they come, and how it ends.
"""

from trio_gateway.storm.draw import Draw
from trio_gateway.storm.faults.fault import PATIENT, REFUSED, SILENT, WE_LEFT, Allowed, Fault
from trio_gateway.storm.octets import PING, UPGRADE, frame, text
from trio_gateway.storm.program import (
    Close,
    Connect,
    Expect,
    HalfClose,
    Hoard,
    Reset,
    Send,
    Sip,
    Step,
    StopReading,
    Wait,
)

_REQUEST = Send(UPGRADE, note="upgrade")
_UPGRADED = (Connect(), _REQUEST, Expect("upgrade"))
_ENDS: tuple[Step, ...] = (Reset(), Close())
_CLOSED_ON = Allowed("101 * *", "upgraded; a half-closed or slow peer may be served or dropped")


def _rst_at_byte(draw: Draw) -> tuple[Step, ...]:
    size = draw.number(0, len(UPGRADE))
    part = (Send(UPGRADE[:size], note=f"{size} bytes of an upgrade"),) if size else ()
    pause = (Wait(draw.seconds(0, 0.05)),) if draw.chance(0.5) else ()
    return (Connect(), *part, *pause, Reset())


def _fin_after_request(_draw: Draw) -> tuple[Step, ...]:
    return (Connect(), _REQUEST, HalfClose(), Expect("end"))


def _fin_at_byte(draw: Draw) -> tuple[Step, ...]:
    size = draw.number(1, len(UPGRADE) - 1)
    part = Send(UPGRADE[:size], note=f"{size} bytes of an upgrade")
    return (Connect(), part, HalfClose(), Expect("end"))


def _half_open(draw: Draw) -> tuple[Step, ...]:
    return (*_UPGRADED, StopReading(), Wait(draw.seconds(0.5, 3)), Reset())


def _slow_reader(draw: Draw) -> tuple[Step, ...]:
    much = Send(text("x" * 1000), times=draw.number(20, 100), note="texts of 1,000 bytes")
    sips = Sip(draw.number(64, 1024), draw.seconds(0.01, 0.1), draw.seconds(0.5, 2))
    return (Connect(window=4096), _REQUEST, Expect("upgrade"), StopReading(), much, sips, Close())


def _never_reader(draw: Draw) -> tuple[Step, ...]:
    kind = draw.one_of((text("y" * 4000), frame(PING, b"p" * 125)))
    much = Send(kind, times=draw.number(50, 600), note="what is answered, and never read")
    begin = (Connect(window=4096), _REQUEST, Expect("upgrade"), StopReading())
    return (*begin, much, Wait(draw.seconds(0.2, 2)), draw.one_of(_ENDS))


def _vanish(draw: Draw) -> tuple[Step, ...]:
    return (Connect(), draw.one_of(_ENDS))


def _vanish_after_upgrade(draw: Draw) -> tuple[Step, ...]:
    pause = (Wait(draw.seconds(0, 0.02)),) if draw.chance(0.5) else ()
    return (Connect(), _REQUEST, *pause, draw.one_of(_ENDS))


def _hoard(draw: Draw) -> tuple[Step, ...]:
    return (Hoard(draw.number(10, 30), draw.seconds(0.2, 1.5)),)


FAULTS = (
    Fault(
        "rst-at-byte",
        "a client that is killed in its handshake, as in Effect #6927 and engine.io #658",
        _rst_at_byte,
        (WE_LEFT,),
    ),
    Fault(
        "fin-after-request",
        "a client that shuts its sending side down once it has asked, as netcat and some proxies",
        _fin_after_request,
        (
            *REFUSED,
            *SILENT,
            _CLOSED_ON,
            Allowed("- - end", "a peer that can send nothing can be no WebSocket peer"),
        ),
    ),
    Fault(
        "fin-at-byte",
        "a client whose connection ends in the middle of its request",
        _fin_at_byte,
        (*REFUSED, *SILENT, *PATIENT, Allowed("- - end", "there is nobody to be answered")),
    ),
    Fault(
        "half-open",
        "a phone that has lost its network: the socket stays, nobody is behind it",
        _half_open,
        (WE_LEFT, Allowed("101 * *", "a server may find out first")),
        polite=False,
    ),
    Fault(
        "slow-reader",
        "a client behind a thin line, which takes less than it is sent",
        _slow_reader,
        (WE_LEFT, Allowed("101 * *", "a slow consumer may be disconnected")),
        polite=False,
        weight=2,
    ),
    Fault(
        "never-reader",
        "a stuck tab that asks and never reads the answers",
        _never_reader,
        (WE_LEFT, Allowed("101 * *", "a consumer that reads nothing may be disconnected")),
        polite=False,
        weight=2,
    ),
    Fault(
        "connect-and-vanish",
        "a port scan or a balancer's health check: accepted, and gone",
        _vanish,
        (WE_LEFT,),
    ),
    Fault(
        "ask-and-vanish",
        "a page that is left while it connects: asked, and gone before the answer",
        _vanish_after_upgrade,
        (WE_LEFT,),
    ),
    Fault(
        "descriptor-exhaustion",
        "silent sockets by the dozen, until the process or the balancer has no descriptor left",
        _hoard,
        (Allowed("* * *", "silent sockets may be held, closed or refused; others must live on"),),
        weight=1,
    ),
)
