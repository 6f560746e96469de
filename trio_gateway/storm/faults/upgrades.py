"""Faults of the upgrade itself: asked for twice, at two routes, or with frames in front of it.

In: a client's chance. Out: its steps. The rule: whatever the order, a socket sees at most one 101
and no HTTP behind it; that rule is the oracle's, for every socket.
"""

from trio_gateway.storm.draw import Draw
from trio_gateway.storm.faults.fault import BARE, REFUSED, SILENT, Allowed, Fault, closes
from trio_gateway.storm.octets import (
    OTHER_UPGRADE,
    PING,
    SECOND_UPGRADE,
    UPGRADE,
    close,
    frame,
    plain,
    text,
)
from trio_gateway.storm.program import Connect, Expect, Send, Step

_NOT_FRAMES = (
    *closes(1002, why="HTTP behind the 101 is read as frames, and breaks their rules"),
    *closes(1007, 1009, 1003, why="the same, by the rule it breaks first"),
    *BARE,
    *REFUSED,
    *SILENT,
    Allowed(
        "101 - held",
        "what came in front of the 101 was thrown away; none may come, RFC 6455 §4.1",
        "any",
        up_to=120.0,
    ),
)


def _one_segment(draw: Draw) -> tuple[Step, ...]:
    both = UPGRADE + SECOND_UPGRADE
    cuts = (draw.number(1, len(both) - 1),) if draw.chance(0.3) else ()
    return (Connect(), Send(both, cuts=cuts, note="two upgrades"), Expect("end"))


def _behind_the_101(draw: Draw) -> tuple[Step, ...]:
    second = draw.one_of((SECOND_UPGRADE, OTHER_UPGRADE, plain(b"GET {path} HTTP/1.1")))
    return (
        Connect(),
        Send(UPGRADE, note="upgrade"),
        Expect("upgrade"),
        Send(second, note="HTTP behind the 101"),
        Expect("end"),
    )


def _two_routes(draw: Draw) -> tuple[Step, ...]:
    both = UPGRADE + OTHER_UPGRADE if draw.chance(0.5) else OTHER_UPGRADE + UPGRADE
    return (Connect(), Send(both, note="upgrades at two routes"), Expect("end"))


def _early(draw: Draw) -> tuple[Step, ...]:
    behind = text("early") + (frame(PING, b"early") if draw.chance(0.5) else b"") + close(1000)
    data = UPGRADE + behind
    cuts = draw.cuts(len(data))
    return (Connect(), Send(data, cuts=cuts, note="upgrade and frames"), Expect("end"))


FAULTS = (
    Fault(
        "two-upgrades-in-one-segment",
        "a client or proxy that pipelines: handleUpgrade() called twice, ws #885, #1692, #1726",
        _one_segment,
        _NOT_FRAMES,
    ),
    Fault(
        "upgrade-after-the-101",
        "a second HTTP request on a socket that is a WebSocket by now",
        _behind_the_101,
        _NOT_FRAMES,
    ),
    Fault(
        "two-routes-at-once",
        "two WebSocket servers on one HTTP server, both of which upgrade: the original crash",
        _two_routes,
        _NOT_FRAMES,
    ),
    Fault(
        "early-frames",
        "a client that sends its first messages right behind its request, and closes",
        _early,
        (
            *closes(1000, why="the closing handshake, RFC 6455 §7.1.2"),
            *closes(
                1005,
                why="an answer without a code",
            ),
            *closes(
                1002,
                why="frames before the 101 may be called an error, §4.1",
            ),
            *BARE,
            *REFUSED,
            *SILENT,
            Allowed(
                "101 - held", "frames in front of the 101 were thrown away", "any", up_to=120.0
            ),
        ),
    ),
)
