"""Faults of TLS: the wrong protocol on the port, or a hello that never ends.

In: a client's chance. Out: its steps, on bare TCP whatever the target speaks. The rule: the bytes
are fixed; no TLS library is made to misbehave.
"""

from trio_gateway.storm.draw import Draw
from trio_gateway.storm.faults.fault import PATIENT, REFUSED, SILENT, WE_LEFT, Allowed, Fault
from trio_gateway.storm.octets import CLIENT_HELLO, UPGRADE
from trio_gateway.storm.program import Connect, Expect, Reset, Send, Step

# A TLS server answers nonsense with an alert record, which is no HTTP (RFC 8446 §6.2).
_ALERTED = (
    Allowed("tls - end", "a TLS alert, RFC 8446 §6.2"),
    Allowed("tls - reset", "a TLS alert, and our bytes unread"),
    Allowed("tls - held", "a TLS alert; it waits for us to hang up", up_to=15.0),
    Allowed("- - end", "TLS failed, and the server hung up"),
    Allowed("- - reset", "TLS failed, and the server hung up with our bytes unread"),
)


def _hello(draw: Draw) -> tuple[Step, ...]:
    end = Reset() if draw.chance(0.4) else Expect("end")
    return (Connect(tls=False), Send(CLIENT_HELLO, note="a ClientHello"), end)


def _noise(draw: Draw) -> tuple[Step, ...]:
    data = b"\x16\x03\x01" + draw.octets(draw.number(1, 300))
    end = Reset() if draw.chance(0.4) else Expect("end")
    return (Connect(tls=False), Send(data, note="what begins as TLS"), end)


def _plain(_draw: Draw) -> tuple[Step, ...]:
    return (Connect(tls=False), Send(UPGRADE, note="an upgrade without TLS"), Expect("end"))


def _dribbled(draw: Draw) -> tuple[Step, ...]:
    size = draw.number(20, 60)
    slow = Send(CLIENT_HELLO[:size], cuts=tuple(range(1, size)), gap=0.1, note="a byte at a time")
    return (Connect(tls=False), slow, Expect("end"))


FAULTS = (
    Fault(
        "tls-on-plain",
        "wss:// typed where ws:// is served",
        _hello,
        (*REFUSED, *SILENT, *PATIENT, *_ALERTED, WE_LEFT),
    ),
    Fault(
        "tls-garbage",
        "a scanner's half of a TLS handshake",
        _noise,
        (*REFUSED, *SILENT, *PATIENT, *_ALERTED, WE_LEFT),
    ),
    Fault(
        "http-on-tls",
        "ws:// typed where wss:// is served",
        _plain,
        (*REFUSED, *_ALERTED),
        needs="tls",
    ),
    Fault(
        "dribbled-hello",
        "a slow-loris below HTTP: a ClientHello a byte at a time",
        _dribbled,
        (*REFUSED, *SILENT, *PATIENT, *_ALERTED),
        weight=1,
    ),
)
