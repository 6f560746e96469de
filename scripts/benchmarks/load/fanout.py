"""One connection publishes, all of them, it too, receive.

All subscribers get the same bytes. So the end of every frame in the stream is found once, by
whichever connection reads it first, and the others only add up what they read: a table says which
message that makes.
"""

import select
import socket
import time
from contextlib import suppress

from ..job import Figures, Job
from .interval import Interval
from .wire import CLOSE, PING, TEXT, client_frame, frames, open_connections, pong

_BUFFER = 1 << 20


class FanOut:
    """Keeps ``in_flight`` publications on their way until each has reached every subscriber."""

    def __init__(self, sockets: list[socket.socket], message: bytes, in_flight: int) -> None:
        self._publisher = sockets[0]
        self._publisher.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._frame = client_frame(TEXT, message)
        self._in_flight = in_flight
        self._unsent = b""
        self._sockets = {sock.fileno(): sock for sock in sockets}
        self._read = {sock.fileno(): sock.recv_into for sock in sockets}
        self._bytes = dict.fromkeys(self._sockets, 0)  # of whole and part messages read
        self._count = dict.fromkeys(self._sockets, 0)  # of whole messages read
        self._number_at = {0: 0}  # bytes read to messages read
        self._behind = [len(sockets)]  # how many subscribers have read just that many messages
        self._parts: dict[int, bytes] = {}
        self._published: list[float] = []
        self._buffer = bytearray(_BUFFER)
        self._epoll = select.epoll()
        for fd, sock in self._sockets.items():
            sock.setblocking(False)
            self._epoll.register(fd, select.EPOLLIN)

    def run(self, seconds: float) -> tuple[int, list[float]]:
        """Publish for that long and wait for the last delivery.

        Returns the deliveries, and the latency in seconds of the oldest message in each read.
        """
        now, poll = time.perf_counter, self._epoll.poll
        everyone = len(self._sockets)
        read, buffer, number_at = self._read, self._buffer, self._number_at
        count, total, behind, published = self._count, self._bytes, self._behind, self._published
        latencies: list[float] = []
        first = done = len(published)
        end = now() + seconds
        while True:
            if len(published) - done < self._in_flight and now() < end:
                self._publish(self._in_flight - (len(published) - done))
            if done == len(published):
                return (done - first) * everyone, latencies
            for fd, _ in poll(0.001 if self._unsent else None, everyone):
                size = read[fd](buffer)
                position = total[fd] + size
                before = count[fd]
                after = number_at.get(position)
                if after is None or not size:
                    after = self._parse(fd, size)
                else:
                    total[fd] = position
                    if self._parts:
                        self._parts.pop(fd, None)
                if after != before:
                    latencies.append(now() - published[before])
                    count[fd] = after
                    behind[before] -= 1
                    behind[after] += 1
            while done < len(published) and not behind[done]:
                done += 1
            if self._unsent:
                self._flush()

    def _publish(self, messages: int) -> None:
        self._published += [time.perf_counter()] * messages
        self._behind += [0] * messages
        self._unsent += self._frame * messages
        self._flush()

    def _flush(self) -> None:
        with suppress(BlockingIOError):
            self._unsent = self._unsent[self._publisher.send(self._unsent) :]

    def _parse(self, fd: int, size: int) -> int:
        """Find the frames of what nobody has read yet; the messages this subscriber has now."""
        if not size:
            raise ConnectionError("the server closed a subscriber")
        part = self._parts.pop(fd, b"")
        data = part + self._buffer[:size]
        position, number = self._bytes[fd] - len(part), self._count[fd]
        start = 0
        for opcode, end in frames(data):
            if opcode == CLOSE:
                raise ConnectionError(f"closed by the server: {data[start:end]!r}")
            if opcode == PING:
                self._sockets[fd].send(pong(data[start:end], end - start))
            elif opcode == TEXT:
                position += end - start
                number += 1
                if number > len(self._published):
                    raise ConnectionError(f"nobody published {data[start:end]!r}")
                self._number_at[position] = number
            start = end
        if start < len(data):
            self._parts[fd] = data[start:]
        self._bytes[fd] = position + len(data) - start
        return number


def fanout(job: Job) -> Figures:
    """CPU per delivery of a publication to all connections, and the delivery's latency."""
    sockets = open_connections(job, job.connections)
    load = FanOut(sockets, job.payload(), job.in_flight)
    load.run(job.warmup)
    interval = Interval(job.pid)
    deliveries, latencies = load.run(job.seconds)
    return interval.figures(deliveries, latencies)
