"""TCP as Linux's sockets show it, without a kernel: connections, listeners, and the wire between.

In: sends, reads, FINs and RSTs of both ends. Out: the same at the other end, later. The rules: what
a call returns or raises is what Linux's does (``net/ipv4/tcp.c``); bytes of one direction come in
their order; all chance is the seed's.
"""

import errno
import heapq
import math
import os
import random
from collections import deque
from collections.abc import Callable
from functools import partial

import attrs
import trio
from attrs.validators import ge, gt, le

from trio_gateway.transport.pollers import ERROR, HANGUP, READ, WRITE
from trio_gateway.transport.signal import Signal

READ_HANGUP = 0x2000  # EPOLLRDHUP
_RETRANSMISSION = 0.2  # Linux's shortest, TCP_RTO_MIN
Address = tuple[str, int]


@attrs.frozen(kw_only=True)
class Conditions:
    """What a connection is like. As it is by itself, everything arrives at once, as on loopback.

    Attributes:
        latency: seconds from one end to the other.
        jitter: seconds that a segment may take longer; it never overtakes.
        bandwidth: bytes a second, in each direction.
        loss: the share of segments that come 0.2 s late, since they were lost at first.
        segment: bytes that travel together, at most.
        send_buffer: bytes that an end keeps until the other has acknowledged them.
        receive_buffer: bytes that the server's end keeps until they are read: its window.
        client_buffer: the same at the client's end.
    """

    latency: float = attrs.field(default=0.0, validator=ge(0))
    jitter: float = attrs.field(default=0.0, validator=ge(0))
    bandwidth: float = attrs.field(default=math.inf, validator=gt(0))
    loss: float = attrs.field(default=0.0, validator=[ge(0), le(1)])
    segment: int = attrs.field(default=65536, validator=ge(1))
    send_buffer: int = attrs.field(default=64 * 1024, validator=ge(1))
    receive_buffer: int = attrs.field(default=64 * 1024, validator=ge(1))
    client_buffer: int = attrs.field(default=64 * 1024, validator=ge(1))

    @property
    def instant(self) -> bool:
        """Whether nothing takes time."""
        return not (self.latency or self.jitter or self.loss) and self.bandwidth == math.inf


class Wire:
    """What is under way, and when it arrives.

    Arguments:
        seed: of all chance in it.

    Attributes:
        random: the chance.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._running = False
        self._sooner = Signal()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time of Trio's clock; calls of the same time keep their order."""
        first = not self._due or when < self._due[0][0]
        self._count += 1
        heapq.heappush(self._due, (when, self._count, call))
        if not self._running:
            self._running = True
            trio.lowlevel.spawn_system_task(self._run, name="trio_gateway.testing.VirtualNet")
        elif first:
            self._sooner.set()

    async def _run(self) -> None:
        """Deliver until nothing is under way; the next that sets off begins it again."""
        while self._due:
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            if self._due:
                with trio.move_on_at(self._due[0][0]):
                    await self._sooner.wait()
        self._running = False


class Flow:
    """One direction of a connection.

    Attributes:
        held: bytes that have arrived and are not read.
        waiting: bytes that wait at the sender for the receiver's window.
        fin: no more will follow what waits.
    """

    __slots__ = (
        "_conditions",
        "_fin_sent",
        "_free_at",
        "_instant",
        "_last",
        "_unacknowledged",
        "_window",
        "_wire",
        "fin",
        "held",
        "source",
        "target",
        "waiting",
    )

    def __init__(
        self,
        wire: Wire,
        conditions: Conditions,
        window: int,
        source: "Connection",
        target: "Connection",
    ) -> None:
        self._wire, self._conditions, self._instant = wire, conditions, conditions.instant
        self._window = window
        self._unacknowledged = 0
        self._free_at = self._last = -math.inf
        self._fin_sent = False
        self.source, self.target = source, target
        self.held, self.waiting = bytearray(), bytearray()
        self.fin = False

    @property
    def room(self) -> int:
        """How many bytes the sender's buffer still takes."""
        return self._conditions.send_buffer - len(self.waiting) - self._unacknowledged

    @property
    def writable(self) -> bool:
        """Whether a poll says so: with a third of the buffer free (``sk_stream_is_writeable``)."""
        return 3 * self.room >= self._conditions.send_buffer

    def transmit(self) -> None:
        """Send what the window allows, then the FIN if it is due."""
        while self.waiting and self._window > 0:
            size = min(len(self.waiting), self._conditions.segment, self._window)
            data = bytes(self.waiting[:size])
            del self.waiting[:size]
            self._window -= size
            self._unacknowledged += size
            self.carry(partial(self._arrive, data), size)
        if self.fin and not self.waiting and not self._fin_sent:
            self._fin_sent = True
            self.carry(self.target.fin_arrived)

    def carry(self, call: Callable[[], None], size: int = 0) -> None:
        """Have something arrive at the other end, behind all that set off before it."""
        if self._instant:
            call()
            return
        conditions, chance = self._conditions, self._wire.random
        now = trio.current_time()
        self._free_at = max(now, self._free_at) + size / conditions.bandwidth
        arrives = self._free_at + conditions.latency
        if conditions.jitter:
            arrives += chance.random() * conditions.jitter
        if conditions.loss and chance.random() < conditions.loss:
            arrives += _RETRANSMISSION
        self._last = max(arrives, self._last)
        self._wire.at(self._last, call)

    def read(self, max_bytes: int) -> bytes:
        """Take what has arrived; the window that this opens is told to the sender."""
        data = bytes(self.held[:max_bytes])
        del self.held[:max_bytes]
        self.back(partial(self._open, len(data)))
        return data

    def back(self, call: Callable[[], None]) -> None:
        """Have something arrive at the sender, as acknowledgements do."""
        if self._instant:
            call()
        else:
            self._wire.at(trio.current_time() + self._conditions.latency, call)

    def _arrive(self, data: bytes) -> None:
        if self.target.data_arrived(data):
            self.back(partial(self._acknowledged, len(data)))

    def _acknowledged(self, size: int) -> None:
        self._unacknowledged -= size
        self.source.changed()

    def _open(self, size: int) -> None:
        self._window += size
        if self.waiting and not self.source.over:
            self.transmit()
            self.source.changed()


class Watched:
    """Something whose state pollers and tasks wait for."""

    __slots__ = ("watchers",)

    def __init__(self) -> None:
        self.watchers: list[Callable[[], object]] = []

    def changed(self) -> None:
        """Tell whoever waits."""
        for watcher in tuple(self.watchers):
            watcher()

    @property
    def events(self) -> int:
        """What it is ready for, in epoll's terms."""
        return 0


class Connection(Watched):
    """One end of a connection, as the kernel has it.

    Attributes:
        local: its address.
        remote: the other end's.
        eof: a FIN has come.
        shut: a FIN was sent, or waits for its turn.
        over: nothing more can come or go.
        error: what the next call is told (SO_ERROR), once; 0 for nothing.
    """

    __slots__ = (
        "_abandoned",
        "eof",
        "error",
        "inward",
        "local",
        "outward",
        "over",
        "remote",
        "shut",
    )

    inward: Flow
    outward: Flow

    def __init__(self, local: Address, remote: Address) -> None:
        super().__init__()
        self.local, self.remote = local, remote
        self.eof = self.shut = self.over = self._abandoned = False
        self.error = 0

    @property
    def events(self) -> int:
        """As ``tcp_poll()`` says it."""
        mask = 0
        if self.over or (self.eof and self.shut):
            mask |= HANGUP
        if self.eof or self.over:
            mask |= READ | READ_HANGUP
        if self.inward.held:
            mask |= READ
        if self.shut or self.over or self.outward.writable:
            mask |= WRITE
        if self.error:
            mask |= ERROR
        return mask

    # Calls of a program.

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Take what fits; raises BlockingIOError, ConnectionResetError, BrokenPipeError."""
        if self.error or self.shut or self.over:
            raise failed(self.take_error() or errno.EPIPE)
        size = min(self.outward.room, len(data))
        if size <= 0 and len(data):
            raise failed(errno.EAGAIN)
        self.outward.waiting += data[:size]
        self.outward.transmit()
        return size

    def receive(self, max_bytes: int) -> bytes:
        """Return what is there, ``b""`` at the end; raises BlockingIOError, OSError."""
        if self.inward.held:
            return self.inward.read(max_bytes)
        if self.eof:
            return b""
        if self.error:
            raise failed(self.take_error())
        if self.over:
            return b""
        raise failed(errno.EAGAIN)

    def shut_down(self) -> None:
        """Send a FIN behind what waits; raises OSError (ENOTCONN) once it is over."""
        if self.over:
            raise failed(errno.ENOTCONN)
        if not self.shut:
            self.shut = True
            self.outward.fin = True
            self.outward.transmit()
            self.changed()

    def close(self, *, reset: bool = False) -> None:
        """The program has no more descriptor of it: FIN, or RST with bytes unread (RFC 2525 §2.17).

        Arguments:
            reset: an RST in any case (SO_LINGER of 0).
        """
        self._abandoned = True
        if self.over:
            return
        if reset or self.inward.held:
            self.kill()
        elif not self.shut:
            self.shut_down()

    def kill(self) -> None:
        """Send an RST; what waits is thrown away."""
        self.over = True
        self.outward.waiting.clear()
        self.outward.carry(self.outward.target.reset_arrived)

    def take_error(self) -> int:
        """Return the error and forget it."""
        error, self.error = self.error, 0
        return error

    # What comes from the other end.

    def data_arrived(self, data: bytes) -> bool:
        """Keep it; False if nobody will read it, which is answered with an RST."""
        if self.over:
            return False
        if self._abandoned:
            self.kill()
            return False
        self.inward.held += data
        self.changed()
        return True

    def fin_arrived(self) -> None:
        """The other end sends no more."""
        if not self.over:
            self.eof = True
            self.inward.back(self.outward.target.fin_acknowledged)
            self.changed()
            self._look_whether_over()

    def fin_acknowledged(self) -> None:
        """Our FIN is known to have come."""
        self._look_whether_over()

    def reset_arrived(self) -> None:
        """The other end is gone. What has been received can still be read (``tcp_reset()``)."""
        if not self.over:
            self.error = errno.EPIPE if self.eof and not self.shut else errno.ECONNRESET
            self.over = True
            self.outward.waiting.clear()
            self.changed()

    def _look_whether_over(self) -> None:
        other = self.outward.target
        if self.eof and self.shut and other.eof and not self.over:
            self.over = True  # TIME_WAIT, or LAST_ACK acknowledged: the socket is a closed one
            self.changed()


class Backlog(Watched):
    """A listening socket, as the kernel has it.

    Attributes:
        local: its address.
        closed: nobody listens any more.
    """

    __slots__ = ("_coming", "_size", "closed", "local", "queue")

    def __init__(self, local: Address, size: int) -> None:
        super().__init__()
        self.local = local
        self.closed = False
        self.queue: deque[Connection] = deque()
        self._size = size
        self._coming = 0

    @property
    def full(self) -> bool:
        """Whether a SYN is dropped: one more fits than was asked for (``sk_acceptq_is_full``)."""
        return len(self.queue) + self._coming > self._size

    @property
    def events(self) -> int:
        return READ if self.queue else 0

    def expect(self) -> None:
        """A SYN has come; keep a place."""
        self._coming += 1

    def come(self, connection: Connection) -> None:
        """The handshake is done; the connection waits to be accepted."""
        self._coming -= 1
        if self.closed:
            connection.kill()
        else:
            self.queue.append(connection)
            self.changed()

    def close(self) -> None:
        """Whoever waits to be accepted is reset."""
        self.closed = True
        while self.queue:
            self.queue.popleft().kill()
        self.changed()


def connect_ends(
    wire: Wire, conditions: Conditions, client: Address, server: Address
) -> tuple[Connection, Connection]:
    """Return the client's and the server's end of a new connection."""
    here, there = Connection(client, server), Connection(server, client)
    here.outward = there.inward = Flow(wire, conditions, conditions.receive_buffer, here, there)
    there.outward = here.inward = Flow(wire, conditions, conditions.client_buffer, there, here)
    return here, there


def failed(number: int) -> OSError:
    """Return the error that a system call raises, of the class that Python gives it."""
    return OSError(number, os.strerror(number))
