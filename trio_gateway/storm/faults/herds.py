"""Herds: clients that are well behaved, each by itself, and all do the same at once; and good ones.

In: a client's chance. Out: its steps. The rule: what a whole herd does at once is bound to a second
of the storm (``At``), the same for every client.
"""

from trio_gateway.storm.draw import Draw
from trio_gateway.storm.faults.fault import BARE, WE_LEFT, Allowed, Fault, closes
from trio_gateway.storm.octets import UPGRADE, close, request, text
from trio_gateway.storm.program import (
    At,
    Close,
    Connect,
    Expect,
    Reset,
    Restart,
    Send,
    Step,
    Wait,
)

_BACK = 1.0
_UPGRADED = (Connect(), Send(UPGRADE, note="upgrade"), Expect("upgrade"))
_RESUMED = (
    Connect(),
    Send(request(line=b"GET {path}{since} HTTP/1.1"), note="upgrade, with the last position"),
    Expect("upgrade"),
)
_GOODBYE = (Send(close(1000), note="Close 1000"), Expect("end"))
_ENDS: tuple[Step, ...] = (Reset(), Close())
_SERVED = (
    *closes(1000, 1005, why="the closing handshake, RFC 6455 §7.1.2"),
    *closes(1001, 1012, 1013, why="it goes away, or sheds load"),
    Allowed("101 - end", "a bare goodbye, RFC 6455 §7.1.7", "any"),
    WE_LEFT,
)


def _good(draw: Draw) -> tuple[Step, ...]:
    talk: list[Step] = []
    for number in range(draw.number(0, 3)):
        talk += (
            Send(text(f"hello {number} {draw.number(0, 9999)}"), note=f"text {number}"),
            Wait(draw.seconds(0.01, 0.2)),
        )
    return (*_UPGRADED, *talk, *_GOODBYE)


def _at_once(draw: Draw) -> tuple[Step, ...]:
    return (*_UPGRADED, At(_BACK), draw.one_of(_ENDS), *_UPGRADED, *_GOODBYE)


def _jittered(draw: Draw) -> tuple[Step, ...]:
    return (*_UPGRADED, At(_BACK), Reset(), Wait(draw.seconds(0, 2)), *_UPGRADED, *_GOODBYE)


def _recovering(draw: Draw) -> tuple[Step, ...]:
    said = Send(text(f"before {draw.number(0, 9999)}"), note="text")
    return (*_UPGRADED, said, Expect("message", 2.0), At(_BACK), Reset(), *_RESUMED, *_GOODBYE)


def _restarted(draw: Draw) -> tuple[Step, ...]:
    lead = (Restart(),) if draw.chance(0.05) else ()
    waits = (Wait(draw.seconds(0.1, 1)),)
    return (*_UPGRADED, At(_BACK), *lead, Expect("end", 2.0), *waits, *_UPGRADED, *_GOODBYE)


GOOD = Fault(
    "well-behaved",
    "everybody else: the people for whom all this is done",
    _good,
    (
        Allowed("101 1000 end", "the closing handshake, RFC 6455 §7.1.2"),
        Allowed("101 1000 held", "it waits for us to hang up first", "any", up_to=120.0),
        *closes(1005, why="an answer without a code"),
        *BARE,
        Allowed("101 101[23] end", "it goes away, or sheds load"),
    ),
)

FAULTS = (
    GOOD,
    Fault(
        "herd",
        "a balancer that fails over: everybody is cut off and back in the same second",
        _at_once,
        _SERVED,
    ),
    Fault(
        "herd-with-jitter",
        "the same with the jitter that clients ought to have",
        _jittered,
        _SERVED,
        weight=2,
    ),
    Fault(
        "herd-with-recovery",
        "the same, and everybody asks for what it missed: dust #19917",
        _recovering,
        _SERVED,
        weight=2,
    ),
    Fault(
        "herd-during-restart",
        "a deploy: the server goes and comes back under its clients",
        _restarted,
        (*_SERVED, Allowed("* * *", "while it restarts a server may do anything but hang")),
        needs="restart",
        weight=1,
    ),
)
