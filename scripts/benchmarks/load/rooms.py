"""Many rooms at once: in each one member publishes, and the members alone receive.

Which room a message is of stands at the same place in every frame, so a delivery costs finding the
end of a frame and looking at a few bytes of it.
"""

import random
import select
import socket
import time
from collections.abc import Sequence

from ..job import Figures, Job
from .interval import Interval
from .wire import CLOSE, PING, TEXT, client_frame, frames, open_connections, pong, read_greetings

_BUFFER = 65536
_MARK = b'"room":"'


class Rooms:
    """Keeps messages on their way in ``in_flight`` rooms, one in each, taking turns."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        rooms: Sequence[Sequence[int]],
        job: Job,
    ) -> None:
        members: dict[int, list[socket.socket]] = {}
        for sock, entered in zip(sockets, rooms, strict=True):
            for room in entered:
                members.setdefault(room, []).append(sock)
        self._members = {room: len(inside) for room, inside in members.items()}
        self._publishers = {room: inside[0] for room, inside in members.items()}
        self._frames = {room: client_frame(TEXT, job.payload(name_of(room))) for room in members}
        self._number = {name_of(room).encode(): room for room in members}
        self._in_flight = min(job.in_flight, len(members))
        self._turns = list(members)
        self._missing: dict[int, int] = {}  # deliveries of a room's message that are still to come
        self._published: dict[int, float] = {}
        self._name = slice(0, 0)  # of a room, in every frame
        self._parts: dict[int, bytes] = {}
        self._sockets = {sock.fileno(): sock for sock in sockets}
        self._epoll = select.epoll()
        for sock in self._publishers.values():
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for fd, sock in self._sockets.items():
            sock.setblocking(False)
            self._epoll.register(fd, select.EPOLLIN)

    def run(self, seconds: float) -> tuple[int, list[float]]:
        """Publish for that long, wait for the last delivery; return deliveries and latencies."""
        now, poll, missing = time.perf_counter, self._epoll.poll, self._missing
        latencies: list[float] = []
        end = now() + seconds
        while True:
            while len(missing) < self._in_flight and now() < end:
                self._publish()
            if not missing:
                return len(latencies), latencies
            for fd, _ in poll(None, len(self._sockets)):
                data = self._sockets[fd].recv(_BUFFER)
                arrived = now()
                for room in self._rooms_of(fd, data):
                    latencies.append(arrived - self._published[room])
                    missing[room] -= 1
                    if not missing[room]:
                        del missing[room]

    def _publish(self) -> None:
        room = self._turns.pop(0)
        self._turns.append(room)
        if room not in self._missing:
            self._missing[room] = self._members[room]
            self._published[room] = time.perf_counter()
            self._publishers[room].sendall(self._frames[room])

    def _rooms_of(self, fd: int, data: bytes) -> list[int]:
        """The room of each message that is whole now."""
        if not data:
            raise ConnectionError("the server closed a member")
        if self._parts:
            data = self._parts.pop(fd, b"") + data
        found: list[int] = []
        start = 0
        for opcode, end in frames(data):
            if opcode == TEXT:
                room = self._number.get(data[start:end][self._name])
                found.append(self._look(data[start:end]) if room is None else room)
            elif opcode == PING:
                self._sockets[fd].send(pong(data[start:end], end - start))
            elif opcode == CLOSE:
                raise ConnectionError(f"closed by the server: {data[start:end]!r}")
            start = end
        if start < len(data):
            self._parts[fd] = data[start:]
        return found

    def _look(self, frame: bytes) -> int:
        """Find where the room's name stands: all frames are alike."""
        start = frame.find(_MARK) + len(_MARK)
        self._name = slice(start, frame.find(b'"', start))
        room = self._number.get(frame[self._name])
        if room is None or room not in self._missing:
            raise ConnectionError(f"nobody published {frame!r}")
        return room


def name_of(room: int) -> str:
    """Names of one width."""
    return f"room{room:04}"


def rooms(job: Job) -> Figures:
    """CPU per delivery, and its latency, where each connection is in ``topics`` of ``rooms``."""
    draw = random.Random(0)
    entered = [
        [home, *draw.sample([room for room in range(job.rooms) if room != home], job.topics - 1)]
        for home in (number % job.rooms for number in range(job.connections))
    ]
    sockets = open_connections(
        job, job.connections, room=lambda number: name_of(entered[number][0])
    )
    for sock, (_home, *others) in zip(sockets, entered, strict=True):
        joins = [job.join % {"room": name_of(room)} for room in others]
        sock.sendall(b"".join(client_frame(TEXT, join.encode()) for join in joins))
        read_greetings(sock, b"", len(joins))
    load = Rooms(sockets, entered, job)
    load.run(job.warmup)
    interval = Interval(job.pid)
    deliveries, latencies = load.run(job.seconds)
    return interval.figures(deliveries, latencies)
