"""Connections that come and go: upgrades that are closed again, and requests that are refused.

A batch of sockets is connected and has its request sent, then every answer is read in turn: the
server finds work waiting, as under load, and the client needs no readiness calls.
"""

import time
from collections.abc import Callable

import attrs

from ..job import Figures, Job
from .interval import Interval
from .wire import (
    CLOSE_FRAME,
    dial,
    dial_all,
    expect_upgrade,
    open_connections,
    read_close,
    upgrade_request,
)


def handshake(job: Job) -> Figures:
    """connect, request, 101, masked Close, the server's Close, hang up."""
    request = upgrade_request(job, 0)
    unclean = 0

    def batch() -> None:
        nonlocal unclean
        sockets = dial_all(job, [request] * job.in_flight)
        rests: list[bytes] = []
        for sock in sockets:
            rests.append(expect_upgrade(sock))
            sock.send(CLOSE_FRAME)
        for sock, rest in zip(sockets, rests, strict=True):
            unclean += not read_close(sock, rest)
            sock.close()

    return attrs.evolve(_repeat(job, batch), unclean=unclean)


def refusal(job: Job) -> Figures:
    """connect, a request that is refused, the whole answer, hang up."""
    request = job.request.format(port=job.port).encode("latin-1")
    status = f"HTTP/1.1 {job.expect} ".encode()
    held = open_connections(job, job.held)

    def batch() -> None:
        for sock in [dial(job, request) for _ in range(job.in_flight)]:
            answer = sock.recv(65536)
            if not answer.startswith(status):
                raise ConnectionError(f"expected a {job.expect}, got {answer!r}")
            while sock.recv(65536):
                pass
            sock.close()

    figures = _repeat(job, batch)
    for sock in held:
        sock.close()
    return figures


def _repeat(job: Job, batch: Callable[[], None]) -> Figures:
    warm = time.perf_counter() + job.warmup
    while time.perf_counter() < warm:
        batch()
    interval = Interval(job.pid)
    end = time.perf_counter() + job.seconds
    batches = 0
    while time.perf_counter() < end:
        batch()
        batches += 1
    return interval.figures(batches * job.in_flight)
