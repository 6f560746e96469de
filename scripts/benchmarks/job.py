"""What the runner tells a load client to do, and what it hears back."""

import json
from typing import Any, Self

import attrs

ROOM = "bench"  # the one of a workload with one
QUIET = 0.1  # what others may take of the machine where that is watched


@attrs.frozen(kw_only=True)
class Job:
    """One measurement of one server.

    Attributes:
        kind: which load; the names are in ``load.__main__``.
        port: of the server, on 127.0.0.1.
        pid: of the server, whose CPU and memory are read.
        store_pid: of its store, if that is a process of its own.
        workers: processes that serve.
        seconds: how long to measure.
        warmup: seconds of the same load before that.
        limit: seconds after which the client gives up.
        tls: whether the server speaks TLS.
        path: of the upgrade; ``{n}`` in it is the number of the connection, ``{room}`` its room.
        greetings: text frames that the server sends by itself after the upgrade.
        connections: how many to open (idle, half_open: to hold).
        receive_buffer: bytes that the kernel may hold for each of them, where it is not to choose.
        patience: seconds to wait for a machine that others leave alone.
        burst: messages published before the subscribers read them.
        in_flight: handshakes at once, or messages of a fan-out not yet delivered to all.
        message: the text frame that is sent; ``%(text)s`` in it is what is said,
            ``%(room)s`` where.
        size: bytes of what is said.
        join: the text frame that enters one more room.
        question: a text frame that is answered with one text frame, to the asker alone.
        rooms: how many there are.
        topics: how many of them each connection is in.
        stalled: more subscribers, which never read.
        outbox_bytes: what the server lets wait for each of them.
        request: the request head that is to be refused.
        expect: the status of the refusal.
        held: connections kept open while refusals are counted.
    """

    kind: str
    port: int
    pid: int
    store_pid: int = 0
    workers: int = 1
    seconds: float
    warmup: float
    limit: float
    tls: bool = False
    path: str = "/"
    greetings: int = 0
    connections: int = 0
    receive_buffer: int = 0
    patience: float = 0.0
    burst: int = 0
    in_flight: int = 1
    message: str = "%(text)s"
    size: int = 0
    join: str = ""
    question: str = ""
    rooms: int = 0
    topics: int = 1
    stalled: int = 0
    outbox_bytes: int = 0
    request: str = ""
    expect: int = 0
    held: int = 0

    def payload(self, room: str = ROOM) -> bytes:
        """What is sent to have ``size`` bytes echoed, or broadcast in a room."""
        return (self.message % {"text": "x" * self.size, "room": room}).encode()

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)


@attrs.frozen(kw_only=True)
class Figures:
    """What one measurement gave.

    Attributes:
        cost: the figure the workload is about: microseconds of server CPU for one operation,
            KiB of server memory for one connection, microseconds of wall time for one operation,
            a latency in milliseconds or a quotient of two.
        operations: how many were measured.
        client: microseconds of the load client's own CPU for one operation.
        busy: the share of the measured time the server was on a CPU, 1.0 being one core.
        client_busy: the same of the load client.
        p50: median latency in milliseconds, where there is one.
        p99: the 99th percentile of it.
        cpu: microseconds of server CPU for one operation, where ``cost`` is something else.
        wall: microseconds of wall time for one operation, where the machine is the server's.
        store: microseconds of its store's own CPU for one operation, where that is a process.
        others: the share of the machine's CPUs that everything else took meanwhile.
        came: the share of the connections that the busiest worker got before they were levelled.
        unclean: closing handshakes that the server broke off: TCP ended, no Close frame.
        undisturbed: ``p99`` without what the workload is about: the fan-out beside the
            bystander, the subscribers that never read.
        memory: by how much the server grew meanwhile, in KiB, ...
        memory_share: ... and as a share of what its limits allow.
        ended: how many stalled subscribers the server gave up.
    """

    cost: float
    operations: int
    client: float | None = None
    busy: float | None = None
    client_busy: float | None = None
    p50: float | None = None
    p99: float | None = None
    cpu: float | None = None
    wall: float | None = None
    store: float | None = None
    others: float | None = None
    came: float | None = None
    unclean: int = 0
    undisturbed: float | None = None
    memory: float | None = None
    memory_share: float | None = None
    ended: int | None = None

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)
