"""VirtualNet: TCP for Trio without a kernel, on any clock, the same for the same seed.

In: a seed and what connections are like. Out: listeners for a gateway (or for any Trio server), and
connections to them. The rules: no descriptor and no thread is used; what a socket returns or raises
is what Linux's does; under a ``trio.testing.MockClock`` no second passes for real. ::

    async def test_a_slow_line(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
        net = VirtualNet(seed=7, conditions=Conditions(latency=0.2, bandwidth=3_000))
        listener = net.listen()
        await nursery.start(Gateway(handler, [listener]).run)
        client = await net.connect(listener.address)
        await client.send_all(b"GET / HTTP/1.1")

A gateway serves ``listen()`` with its pump, the path of real sockets, and ``listen_streams()`` with
a task a connection, the path of TLS. For identical runs the order of Trio's tasks has to be seeded
too, as pytest-trio does it under Hypothesis.
"""

import errno
import math
from collections.abc import Callable
from functools import partial

import attrs
import trio

from trio_gateway.testing.network_sockets import Descriptors, VirtualPoller, VirtualSocket
from trio_gateway.testing.network_streams import (
    VirtualListener,
    VirtualStream,
    VirtualStreamListener,
)
from trio_gateway.testing.network_tcp import (
    Address,
    Backlog,
    Conditions,
    Connection,
    Wire,
    connect_ends,
    failed,
)

__all__ = [
    "Conditions",
    "VirtualListener",
    "VirtualNet",
    "VirtualPoller",
    "VirtualSocket",
    "VirtualStream",
    "VirtualStreamListener",
]

_HOST = "127.0.0.1"
_FIRST_LISTENING, _FIRST_CLIENT = 3000, 40_000
_SYN_RETRIES = 6  # Linux's tcp_syn_retries: after 1, 2, 4, … seconds


class VirtualNet:
    """A network with one server's side and any number of clients.

    Arguments:
        seed: of jitter and loss.
        conditions: of connections that do not bring their own.
        max_descriptors: of the server's side; one more and ``accept()`` raises EMFILE.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        conditions: Conditions | None = None,
        max_descriptors: float = math.inf,
    ) -> None:
        self.conditions = conditions or Conditions()
        self._wire = Wire(seed)
        self._server = Descriptors(max_descriptors)
        self._clients = Descriptors(math.inf)
        self._listening: dict[Address, Backlog] = {}
        self._ports = 0
        self._connects = 0

    @property
    def max_descriptors(self) -> float:
        """How many descriptors the server's side may have; may be changed at any time."""
        return self._server.limit

    @max_descriptors.setter
    def max_descriptors(self, limit: float) -> None:
        self._server.limit = limit

    @property
    def descriptors(self) -> int:
        """How many descriptors are open on the server's side, listening ones included."""
        return len(self._server.open)

    def listen(self, port: int = 0, *, host: str = _HOST, backlog: int = 128) -> VirtualListener:
        """Listen; a gateway serves it with its pump.

        Arguments:
            port: 0 for a free one.
            host: the address.
            backlog: connections that wait to be accepted; to more no answer is given.

        Raises:
            OSError: EADDRINUSE, EMFILE.
        """
        return VirtualListener(self._bind(host, port, backlog), self._server)

    def listen_streams(
        self, port: int = 0, *, host: str = _HOST, backlog: int = 128
    ) -> VirtualStreamListener:
        """As ``listen()``, for a gateway that reads each connection in a task, or for TLS."""
        return VirtualStreamListener(self._bind(host, port, backlog), self._server)

    async def connect(
        self,
        address: Address,
        *,
        host: str = _HOST,
        conditions: Conditions | None = None,
    ) -> VirtualStream:
        """Connect, and return the client's end. If this is cancelled, there is no connection.

        Arguments:
            address: of a listener.
            host: the client's own address.
            conditions: of this connection; None for the network's.

        Raises:
            ConnectionRefusedError: nobody listens there.
            TimeoutError: the backlog was full for two minutes.
        """
        conditions = conditions or self.conditions
        self._connects += 1
        client = (host, _FIRST_CLIENT + self._connects % 20_000)
        await trio.lowlevel.checkpoint()
        here, there = connect_ends(self._wire, conditions, client, address)
        sock = VirtualSocket(self._clients, here)
        try:
            for tries in range(_SYN_RETRIES + 1):
                await self._travel(conditions.latency)
                backlog = self._listening.get(address)
                if backlog is None or backlog.closed:
                    await self._travel(conditions.latency)
                    raise failed(errno.ECONNREFUSED)
                if not backlog.full:
                    await self._established(backlog, here, there, conditions)
                    return VirtualStream(sock)
                await trio.sleep(2**tries)
            raise failed(errno.ETIMEDOUT)
        except BaseException:
            here.over = True  # a SYN that is given up says no more
            sock.close()
            raise

    async def _established(
        self, backlog: Backlog, here: Connection, there: Connection, conditions: Conditions
    ) -> None:
        backlog.expect()
        come: Callable[[], None] = partial(backlog.come, there)
        try:
            await self._travel(conditions.latency)
        except BaseException:
            here.outward.carry(come)
            here.kill()
            raise
        here.outward.carry(come)

    async def _travel(self, seconds: float) -> None:
        if seconds:
            await trio.sleep(seconds)

    def _bind(self, host: str, port: int, backlog: int) -> VirtualSocket:
        if port == 0:
            port, self._ports = _FIRST_LISTENING + self._ports, self._ports + 1
        address = (host, port)
        known = self._listening.get(address)
        if known is not None and not known.closed:
            raise failed(errno.EADDRINUSE)
        self._listening[address] = kernel = Backlog(address, backlog)
        return VirtualSocket(self._server, kernel)

    def with_client_buffer(self, size: int | None) -> Conditions:
        """Return the network's conditions with another receive buffer at the client's end."""
        if size is None:
            return self.conditions
        return attrs.evolve(self.conditions, client_buffer=size)
