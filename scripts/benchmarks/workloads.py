"""What is asked of every server, as data.

A workload names the service it needs (`servers.Service`); a server that has no such service is
left out of it. The default run is to end within twelve minutes: what `full` and `brief` leave out
of it is there with ``--full``.
"""

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Workload:
    """One row group of the table.

    Attributes:
        key: what ``--only`` names.
        title: what the table says.
        service: the service of a server it is run on.
        unit: of the figure.
        ours: the server whose figure the others are compared with.
        rounds: how often it is measured.
        full: whether it needs ``--full``, or to be named.
        brief: the servers it is run on without ``--full``; None for all.
        together: whether its servers run at the same time and take turns, for differences that
            are smaller than what a machine does from minute to minute.
        job: fields of the load client's `Job`.
        quick: fields that replace them with ``--quick``.
    """

    key: str
    title: str
    service: str
    unit: str = "µs"
    ours: str = "gateway"
    rounds: int = 3
    full: bool = False
    brief: frozenset[str] | None = None
    together: bool = False
    job: dict[str, Any]
    quick: dict[str, Any] = attrs.field(factory=dict)


def _head(target: str, *headers: str) -> str:
    lines = (f"GET {target} HTTP/1.1", "Host: 127.0.0.1:{port}", *headers, "", "")
    return "\r\n".join(lines)


def _upgrade(target: str, *, key: str = "dGhlIHNhbXBsZSBub25jZQ==", version: int = 13) -> str:
    return _head(
        target,
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {version}",
    )


def _refusal(status: int, why: str, request: str, *, service: str, held: int = 0) -> Workload:
    return Workload(
        key=f"refuse-{status}",
        title=f"refusal {status}, {why}",
        service=service,
        ours="gateway-chat",
        rounds=2,
        job={"kind": "refusal", "in_flight": 32, "request": request, "expect": status}
        | {"held": held},
    )


def _idle(connections: int, *, full: bool = False) -> Workload:
    return Workload(
        key=f"idle-{connections}",
        title=f"memory of an idle connection, {connections:,} held",
        service="connect",
        unit="KiB",
        ours="gateway-chat",
        rounds=1,  # it is the same every time
        full=full,
        job={"kind": "idle", "connections": connections, "limit": 60},
    )


_HEADLINE = (1000, 128)  # connections and payload of the fan-outs that everybody is measured with
_BRIEF = frozenset({"gateway-chat", "bare", "uwebsockets"})
_IN_DEFAULT = {(1, 100, 128), (1, 8000, 128), (16, 8000, 128), (1, 1000, 1024), (1, 1000, 16384)}


def fanout_key(in_flight: int, connections: int, size: int) -> str:
    """What a fan-out is called: ``fanout-1``, ``fanout-16-8000-16384``."""
    short = (connections, size) == _HEADLINE
    return f"fanout-{in_flight}" + ("" if short else f"-{connections}-{size}")


def _fanout(in_flight: int, connections: int, size: int) -> Workload:
    headline = (connections, size) == _HEADLINE
    payload = f"{size} B" if size < 1024 else f"{size // 1024} KiB"
    return Workload(
        key=fanout_key(in_flight, connections, size),
        title=f"fan-out 1→{connections:,}, {payload}, {in_flight} in flight, a delivery",
        service="broadcast",
        ours="gateway-chat",
        rounds=3 if headline or connections == 8000 else 2,
        full=not headline and (in_flight, connections, size) not in _IN_DEFAULT,
        brief=None if headline else _BRIEF,
        job={
            "kind": "fanout",
            "connections": connections,
            "in_flight": in_flight,
            "size": size,
            "limit": 90 if connections > 1000 else 30,
        },
    )


def _rooms(key: str, topics: int, in_flight: int) -> Workload:
    each = "one each" if topics == 1 else f"{topics} each"
    return Workload(
        key=key,
        title=f"1,000 connections in 100 rooms, {each}, {in_flight} rooms talking, a delivery",
        service="chat",
        ours="gateway-chat",
        job={
            "kind": "rooms",
            "connections": 1000,
            "rooms": 100,
            "topics": topics,
            "in_flight": in_flight,
            "size": 128,
        },
    )


def _unread(key: str, title: str, in_flight: int, *, unit: str, ours: str) -> Workload:
    name = key.partition("-")[0]
    return Workload(
        key=key,
        title=f"{title}, 1→1,000, 128 B, {in_flight} in flight, a delivery",
        service=name,
        unit=unit,
        ours=ours,
        rounds=7,
        full=True,
        together=True,
        job={
            "kind": "workers" if name == "workers" else "unread",
            "connections": 1000,
            "in_flight": in_flight,
            "size": 128,
            "burst": {1: 40, 4: 160, 16: 320}[in_flight],
            "receive_buffer": 4 << 20,
            "patience": 20,
            "limit": 60,
        },
        quick={"patience": 0},
    )


def _workers(in_flight: int) -> Workload:
    title = "wall time by workers"
    return _unread(f"workers-{in_flight}", title, in_flight, unit="wall µs", ours="gateway-redis")


def _broker(in_flight: int) -> Workload:
    title = "server CPU by store"
    return _unread(f"broker-{in_flight}", title, in_flight, unit="µs", ours="gateway-redis")


_FOREIGN = _upgrade("/").replace("\r\n\r\n", "\r\nOrigin: http://evil.example\r\n\r\n")
_ECHO = {"kind": "echo", "connections": 100, "size": 128}

WORKLOADS = (
    *(_fanout(in_flight, *_HEADLINE) for in_flight in (1, 16)),
    *(
        _fanout(in_flight, connections, size)
        for size in (128, 1024, 16384)
        for connections in (100, 1000, 8000)
        for in_flight in (1, 16)
        if (connections, size) != _HEADLINE
    ),
    # As many deliveries at once as a fan-out to 1,000, one at a time, has.
    _rooms("rooms", topics=1, in_flight=100),
    _rooms("topics", topics=10, in_flight=10),
    Workload(
        key="bystander",
        title="a bystander's question during a fan-out to 8,000, p99",
        service="chat",
        unit="ms",
        ours="gateway-chat",
        job={
            "kind": "bystander",
            "connections": 8000,
            "in_flight": 1,
            "size": 128,
            "seconds": 3,
            "limit": 90,
        },
        quick={"seconds": 1},
    ),
    Workload(
        key="slow",
        title="5 % never read: p99 of the 950 others ÷ without them, 16 KiB",
        service="chat",
        unit="×",
        ours="gateway-chat",
        job={
            "kind": "stalled",
            "connections": 950,
            "stalled": 50,
            "in_flight": 1,
            "size": 16384,
            "limit": 60,
        },
    ),
    Workload(
        key="echo",
        title="echo, 100 connections, 128 B, a message",
        service="echo",
        job=_ECHO,
    ),
    Workload(
        key="tls-echo",
        title="echo through TLS, the same",
        service="tls",
        rounds=2,
        job=_ECHO,
    ),
    Workload(
        key="handshake",
        title="connect + upgrade + close",
        service="connect",
        job={"kind": "handshake", "in_flight": 32},
    ),
    Workload(
        key="tls-handshake",
        title="connect + TLS + upgrade + close",
        service="tls",
        rounds=2,
        job={"kind": "handshake", "in_flight": 32},
    ),
    _refusal(400, "a bad key", _upgrade("/", key="short"), service="refuse"),
    _refusal(403, "a foreign origin", _FOREIGN, service="refuse-origin"),
    _refusal(404, "no such path", _upgrade("/no/such/path"), service="refuse-path"),
    _refusal(426, "an old version", _upgrade("/", version=8), service="refuse-version"),
    _refusal(429, "too many of one address", _upgrade("/"), service="refuse-address", held=1),
    _refusal(503, "full", _upgrade("/"), service="refuse-full", held=1),
    Workload(
        key="half-open",
        title="memory of a half-open handshake, 10,000 held",
        service="connect",
        unit="KiB",
        rounds=1,
        job={"kind": "half_open", "connections": 10_000, "limit": 60},
    ),
    _idle(1000, full=True),
    _idle(3000),
    _workers(1),
    _workers(4),
    _workers(16),
    _broker(1),
    _broker(16),
)
