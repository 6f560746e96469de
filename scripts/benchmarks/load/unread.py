"""A fan-out that nobody reads while it is timed: the kernel holds it, the server has the machine.

Where the server is to use every core, a client that reads would compete with it. So all subscribers
but one at each worker only have large receive buffers. The one that is read at each worker, the
last that came there, paces the publisher, which is one of them: as many messages are on their way
as are asked for, until all of these have them. The time ends when every buffer holds every byte.
Then all is read, untimed, and everybody must have got the same bytes: each message once, in order.

Several servers take turns, a burst each. A turn in which something else took much of the machine
does not count, as long as there is patience for another.
"""

import fcntl
import json
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Sequence
from statistics import median

import attrs

from ..job import QUIET, Figures, Job
from ..meter import cpu_seconds, machine_seconds
from .interval import percentile
from .spread import level_connections
from .wire import TEXT, client_frame, frames

_FEWEST_TURNS = 5
_PATIENCE = 10.0
_READ = 1 << 20
_TAIL = 0.05


@attrs.frozen
class Burst:
    """What one burst took, in seconds: of wall time, and of CPU for each.

    ``others`` is the share of the machine that all else took.

    ``latencies`` are those of the last subscriber that came to each worker.
    """

    wall: float
    server: float
    store: float
    client: float
    others: float
    latencies: list[float]


class Unread:
    """Publishes bursts to subscribers at each worker, and checks what they got.

    Attributes:
        came: see ``level_connections``.
    """

    def __init__(self, job: Job) -> None:
        workers, self.came = level_connections(job)
        self._job = job
        self._frame = client_frame(TEXT, job.payload())
        self._paces = [sockets[-1] for sockets in workers]
        self._held = [sock for sockets in workers for sock in sockets[:-1]]
        self._offset: int | None = None
        for sock in self._paces:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def burst(self) -> Burst:
        """Publish a burst, wait until it is everywhere, and then read and check it."""
        job = self._job
        server, store = cpu_seconds(job.pid), self._store()
        machine = machine_seconds()
        client, started = time.process_time(), time.perf_counter()
        got, latencies = self._publish()
        self._await(len(got))
        wall, client = time.perf_counter() - started, time.process_time() - client
        time.sleep(_TAIL)
        server, store = cpu_seconds(job.pid) - server, self._store() - store
        others = machine_seconds() - machine - server - store - client
        others /= (wall + _TAIL) * len(os.sched_getaffinity(0))
        self._check(got)
        return Burst(wall, server, store, client, others, latencies)

    def end(self) -> None:
        """Nothing came that should not have."""
        for sock in (*self._paces, *self._held):
            if waiting(sock):
                raise ConnectionError(f"nobody published {sock.recv(_READ)!r}")

    def _store(self) -> float:
        return cpu_seconds(self._job.store_pid) if self._job.store_pid else 0.0

    def _publish(self) -> tuple[bytes, list[float]]:
        """Keep ``in_flight`` messages on their way; return what a subscriber of it got."""
        burst, in_flight, frame = self._job.burst, self._job.in_flight, self._frame
        publisher = self._paces[0]
        by_fd = {sock.fileno(): place for place, sock in enumerate(self._paces)}
        counts = [0] * len(self._paces)
        data = [b""] * len(self._paces)  # of each: all of it, ...
        whole = [0] * len(self._paces)  # ... and where its last whole frame ends
        sent_at: list[float] = []
        latencies: list[float] = []
        with select.epoll() as epoll:
            for fd in by_fd:
                epoll.register(fd, select.EPOLLIN)
            while (done := min(counts)) < burst:
                if more := min(burst, done + in_flight) - len(sent_at):
                    sent_at += [time.perf_counter()] * more
                    publisher.sendall(frame * more)
                for fd, _ in epoll.poll():
                    place = by_fd[fd]
                    received = self._paces[place].recv(_READ)
                    if not received:
                        raise ConnectionError("the server closed a subscriber")
                    data[place] += received
                    before, last = counts[place], 0
                    for opcode, end in frames(data[place][whole[place] :]):
                        if opcode != TEXT:
                            raise ConnectionError(f"not a message: {received!r}")
                        counts[place] += 1
                        last = end
                    whole[place] += last
                    if counts[place] > before:
                        latencies.append(time.perf_counter() - sent_at[before])
        if any(each != data[0] for each in data):
            raise ConnectionError("the workers' subscribers got different bytes")
        self._check_messages(data[0])
        return data[0], latencies

    def _check_messages(self, data: bytes) -> None:
        """Each message of the burst once: their offsets rise by one."""
        start = 0
        text = "x" * self._job.size
        for _, end in frames(data):
            message = json.loads(data[data.index(b"{", start) : end])
            offset = message["offset"]
            if message["type"] != "message" or message["text"] != text:
                raise ConnectionError(f"nobody published {message!r}")
            if self._offset is not None and offset != self._offset + 1:
                raise ConnectionError(f"offset {offset} came after {self._offset}")
            self._offset = offset
            start = end

    def _await(self, size: int) -> None:
        """Until every subscriber's buffer holds so many bytes."""
        give_up = time.perf_counter() + _PATIENCE
        left = self._held
        while left := [sock for sock in left if waiting(sock) != size]:
            if time.perf_counter() > give_up:
                held = [waiting(sock) for sock in left]
                raise ConnectionError(
                    f"{len(left)} subscribers have other than {size} bytes:"
                    f" {min(held)} to {max(held)}, in buffers of {buffer_of(left[0])}"
                )

    def _check(self, expected: bytes) -> None:
        for sock in self._held:
            if sock.recv(len(expected), socket.MSG_WAITALL) != expected:
                raise ConnectionError("two subscribers got different bytes")


def waiting(sock: socket.socket) -> int:
    """How many bytes the kernel holds for it: ``ioctl_tcp(7)``, SIOCINQ."""
    count: int = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0\0\0\0"))[0]
    return count


def buffer_of(sock: socket.socket) -> int:
    """How many bytes the kernel may hold for it, by its own count, which has its overhead."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def unread(jobs: Sequence[Job]) -> list[Figures]:
    """Server CPU per delivery, with that of its store beside it: medians of the bursts."""
    loads = [Unread(job) for job in jobs]
    for load in loads:
        load.burst()  # to warm up
    turns = _turns(loads, [job.seconds for job in jobs], jobs[0].patience)
    for load in loads:
        load.end()
    return [_figures(*each) for each in zip(jobs, loads, zip(*turns, strict=True), strict=True)]


def _turns(loads: list[Unread], seconds: list[float], patience: float) -> list[list[Burst]]:
    """The turns that count, each a burst of each."""
    turns: list[list[Burst]] = []
    quiet: list[list[Burst]] = []
    started = time.perf_counter()
    while True:
        spent = time.perf_counter() - started
        if len(quiet) >= _FEWEST_TURNS and spent >= sum(seconds):
            return quiet
        if len(turns) >= _FEWEST_TURNS and spent > patience:
            return quiet or turns
        turn = [load.burst() for load in loads]
        turns.append(turn)
        if max(burst.others for burst in turn) < QUIET:
            quiet.append(turn)


def workers(jobs: Sequence[Job]) -> list[Figures]:
    """Wall time per delivery."""
    return [
        attrs.evolve(each, cost=each.wall or 0.0, cpu=each.cost, wall=None) for each in unread(jobs)
    ]


def _figures(job: Job, load: Unread, bursts: Sequence[Burst]) -> Figures:
    each = job.burst * job.connections
    wall, server, store, client = (
        median(getattr(burst, name) for burst in bursts)
        for name in ("wall", "server", "store", "client")
    )
    latencies = [latency for burst in bursts for latency in burst.latencies]
    return Figures(
        cost=server / each * 1e6,
        wall=wall / each * 1e6,
        operations=len(bursts) * each,
        client=client / each * 1e6,
        store=store / each * 1e6 if job.store_pid else None,
        others=max(0.0, median(burst.others for burst in bursts)),
        came=load.came if job.workers > 1 else None,
        busy=median(burst.server / burst.wall for burst in bursts),
        client_busy=median(burst.client / burst.wall for burst in bursts),
        p50=percentile(latencies, 0.50),
        p99=percentile(latencies, 0.99),
    )
