"""Connections that are held: idle ones behind their upgrade, and half-open ones before it.

The figure is resident memory of the server for each. Every so many half-open connections a whole
handshake goes through: it paces the client to the server's accept loop, and shows that the
server still serves.
"""

import socket
import time

from ..job import Figures, Job
from .interval import Interval, settled_rss
from .wire import close_politely, dial, open_connections, upgrade_request

_PACE = 50
_WARM = 100


def idle(job: Job) -> Figures:
    """KiB of server memory for each of many connections that say nothing."""
    before = _warm_rss(job)
    interval = Interval(job.pid)
    held = open_connections(job, job.connections, first=_WARM)
    return _memory_of(job, len(held), before, interval)


def half_open(job: Job) -> Figures:
    """KiB of server memory for each of many sockets that have sent half a request head."""
    before = _warm_rss(job)
    partial = upgrade_request(job, 0).partition(b"Upgrade")[0]
    interval = Interval(job.pid)
    held: list[socket.socket] = []
    healthy: list[float] = []
    while len(held) < job.connections:
        held += [dial(job, partial) for _ in range(min(_PACE, job.connections - len(held)))]
        asked = time.perf_counter()
        (probe,) = open_connections(job, 1)
        healthy.append(time.perf_counter() - asked)
        close_politely(probe)
    return _memory_of(job, len(held), before, interval, healthy)


def _memory_of(
    job: Job, held: int, before: int, interval: Interval, latencies: list[float] | None = None
) -> Figures:
    spent = interval.figures(held, latencies)
    kib = (settled_rss(job.pid) - before) / 1024 / held
    return Figures(
        cost=kib,
        operations=held,
        client=spent.client,
        busy=spent.busy,
        client_busy=spent.client_busy,
        p50=spent.p50,
        p99=spent.p99,
        cpu=spent.cost,
    )


def _warm_rss(job: Job) -> int:
    # What a server loads or allocates once, with its first connections, is not what each costs.
    for sock in open_connections(job, _WARM):
        close_politely(sock)
    return settled_rss(job.pid)
