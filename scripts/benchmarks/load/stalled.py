"""A fan-out in which some subscribers never read.

First all read, then the stalled ones come on top and the others go on, until each has been sent
twice what an outbox holds. A stalled socket has a small receive buffer and small segments,
by which the kernel sizes the server's send buffer: it is the server that has to decide.
"""

import socket
import time

import attrs

from ..job import Figures, Job
from ..meter import rss_bytes
from .fanout import FanOut
from .interval import Interval, percentile, settled_rss
from .wire import CLOSE, expect_upgrade, frames, open_connections, read_greetings, upgrade_request

_SLICE = 0.1
_PATIENCE = 15.0
_RECEIVE_BUFFER = 4096
_SEGMENT = 536
_READ = 1 << 18


def stalled(job: Job) -> Figures:
    """The readers' p99 with ``stalled`` others by their side, as a multiple of it without."""
    load = FanOut(open_connections(job, job.connections), job.payload(), job.in_flight)
    load.run(job.warmup)
    _, undisturbed = load.run(job.seconds)
    before = settled_rss(job.pid)
    stuck = [_stall(job, job.connections + number) for number in range(job.stalled)]
    enough = 2 * job.outbox_bytes / job.size * job.connections
    interval = Interval(job.pid)
    started = time.perf_counter()
    latencies: list[float] = []
    deliveries = peak = 0
    while (spent := time.perf_counter() - started) < _PATIENCE:
        if spent > 2 * job.seconds and deliveries > enough:
            break
        delivered, more = load.run(_SLICE)
        deliveries += delivered
        latencies += more
        peak = max(peak, rss_bytes(job.pid))
    figures = interval.figures(deliveries, latencies)
    quiet = percentile(undisturbed, 0.99)
    assert figures.p99 is not None
    growth = max(0, peak - before)
    return attrs.evolve(
        figures,
        cost=figures.p99 / quiet,
        cpu=figures.cost,
        undisturbed=quiet,
        memory=growth / 1024,
        memory_share=growth / (job.stalled * job.outbox_bytes),
        ended=sum(map(_was_given_up, stuck)),
    )


def _stall(job: Job, number: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
    sock.connect(("127.0.0.1", job.port))
    sock.send(upgrade_request(job, number))
    read_greetings(sock, expect_upgrade(sock), job.greetings)
    return sock


def _was_given_up(sock: socket.socket) -> bool:
    """Read at last all that was sent; whether a Close frame, or the end, comes behind it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ)
    sock.settimeout(0.5)
    data = b""
    try:
        while more := sock.recv(_READ):
            data += more
            start = 0
            for opcode, end in frames(data):
                if opcode == CLOSE:
                    return True
                start = end
            data = data[start:]
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True
