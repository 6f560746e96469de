"""One connection asks and is answered while thousands of others receive a fan-out.

It asks from a process of its own: in this one it would wait for the reading of the fan-out.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import attrs

from ..job import Figures, Job
from .fanout import FanOut
from .interval import Interval, percentile
from .wire import CLOSE, PING, TEXT, client_frame, frames, open_connections, pong

_PERIOD = 0.01
_QUIET = 0.5
_ROOM = "aside"


class Asker:
    """A connection in a room of its own that asks every few milliseconds."""

    def __init__(self, job: Job) -> None:
        (self._sock,) = open_connections(job, 1, job.connections, room=lambda _number: _ROOM)
        self._frame = client_frame(TEXT, (job.question % {"room": _ROOM}).encode())

    def ask(self, seconds: float) -> list[float]:
        """Ask for that long; return the latency of each answer.

        An answer that takes longer than the pause between two questions counts again for each
        question that it kept from being asked, with what that one would have waited.
        """
        now = time.perf_counter
        latencies: list[float] = []
        due = now()
        end = due + seconds
        while due < end:
            time.sleep(max(0, due - now()))
            asked = now()
            self._sock.sendall(self._frame)
            self._await_answer()
            answered = now()
            latencies += _felt(answered - asked)
            due = max(due + _PERIOD, answered)
        return latencies

    def _await_answer(self) -> None:
        data = b""
        while True:
            more = self._sock.recv(65536)
            if not more:
                raise ConnectionError("the server closed the bystander")
            data += more
            start = 0
            for opcode, end in frames(data):
                if opcode == CLOSE:
                    raise ConnectionError(f"closed by the server: {data[start:end]!r}")
                if opcode == PING:
                    self._sock.send(pong(data[start:end], end - start))
                elif opcode == TEXT:
                    return
                start = end


def _felt(latency: float) -> Iterator[float]:
    yield latency
    while latency > _PERIOD:
        latency -= _PERIOD
        yield latency


def bystander(job: Job) -> Figures:
    """Milliseconds that 99 of 100 answers take at most, beside a fan-out to ``connections``."""
    with _asking_process(job) as asking:
        asking.begin(_QUIET)
        quiet = asking.latencies()
        load = FanOut(open_connections(job, job.connections), job.payload(), job.in_flight)
        load.run(job.warmup)
        interval = Interval(job.pid)
        asking.begin(job.seconds)
        deliveries, _ = load.run(job.seconds)
        latencies = asking.latencies()
        figures = interval.figures(deliveries, latencies)
    assert figures.p99 is not None
    return attrs.evolve(
        figures, cost=figures.p99, cpu=figures.cost, undisturbed=percentile(quiet, 0.99)
    )


class _Asking:
    """The other process, seen from this one."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe

    def begin(self, seconds: float) -> None:
        self._pipe.send(seconds)

    def latencies(self) -> list[float]:
        try:
            found: list[float] = self._pipe.recv()
        except EOFError:
            raise ConnectionError("the bystander was not answered") from None
        return found


@contextmanager
def _asking_process(job: Job) -> Iterator[_Asking]:
    ours, theirs = get_context("fork").Pipe()
    process = get_context("fork").Process(target=_ask, args=(job, theirs, ours), daemon=True)
    process.start()
    theirs.close()
    try:
        yield _Asking(ours)
    finally:
        process.kill()
        process.join()


def _ask(job: Job, pipe: "Connection[Any, Any]", other_end: "Connection[Any, Any]") -> None:
    other_end.close()  # so that the pipe ends with the process that holds it
    asker = Asker(job)
    while True:
        try:
            seconds: float = pipe.recv()
        except EOFError:
            return
        pipe.send(asker.ask(seconds))
