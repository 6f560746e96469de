"""Many connections, each with one message on its way there and back."""

import select
import socket
import ssl
import time

from ..job import Figures, Job
from .interval import Interval
from .wire import CLOSE, PING, TEXT, client_frame, frames, open_connections, pong

_BUFFER = 65536


class Echo:
    """Connections that answer every echo with the next message.

    A read of exactly one echo, nearly every one, costs a comparison; any other is parsed.
    """

    def __init__(self, sockets: list[socket.socket], message: bytes) -> None:
        self._sockets = {sock.fileno(): sock for sock in sockets}
        self._frame = client_frame(TEXT, message)
        self._reply_size = len(self._frame) - 4  # a server's frame carries no mask
        self._buffer = bytearray(_BUFFER)
        self._parts: dict[int, bytes] = {}
        self._epoll = select.epoll()
        for fd, sock in self._sockets.items():
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._epoll.register(fd, select.EPOLLIN)

    def run(self, seconds: float) -> list[float]:
        """Echo for that long, finish what is in flight, and return every latency in seconds."""
        now = time.perf_counter
        sent = dict.fromkeys(self._sockets, 0.0)
        latencies: list[float] = []
        frame, reply_size, buffer = self._frame, self._reply_size, self._buffer
        outstanding = len(sent)
        for fd, sock in self._sockets.items():
            sent[fd] = now()
            sock.send(frame)
        end = now() + seconds
        while outstanding:
            for fd, _ in self._epoll.poll():
                sock = self._sockets[fd]
                try:
                    size = sock.recv_into(buffer)
                except ssl.SSLWantReadError:
                    continue  # a record of TLS's own, or half of one of ours
                if (size != reply_size or self._parts) and not self._is_echo(fd, size):
                    continue
                arrived = now()
                latencies.append(arrived - sent[fd])
                if arrived < end:
                    sent[fd] = arrived
                    sock.send(frame)
                else:
                    outstanding -= 1
        return latencies

    def _is_echo(self, fd: int, size: int) -> bool:
        if not size:
            raise ConnectionError("the server closed an echoing connection")
        data = self._parts.pop(fd, b"") + self._buffer[:size]
        echoed = False
        start = 0
        for opcode, end in frames(data):
            if opcode == CLOSE:
                raise ConnectionError(f"closed by the server: {data[start:end]!r}")
            if opcode == PING:
                self._sockets[fd].send(pong(data[start:end], end - start))
            echoed = echoed or opcode == TEXT
            start = end
        if start < len(data):
            self._parts[fd] = data[start:]
        return echoed


def echo(job: Job) -> Figures:
    """CPU per message echoed, and the latency of a message under that load."""
    load = Echo(open_connections(job, job.connections), job.payload())
    load.run(job.warmup)
    interval = Interval(job.pid)
    latencies = load.run(job.seconds)
    return interval.figures(len(latencies), latencies)
