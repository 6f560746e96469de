"""The pump: one task accepts and reads for every plain socket.

In: listening sockets, and the sockets they accept. Out: links, fed with what their peers send. The
rules: work per socket and per turn is bounded, then the scheduler has its turn; newcomers don't
come before those who are in; an exception in one link ends that link alone; a link that is paused
is left out of the poll, though a broken socket is still noticed.

The pump waits on a poller of its own whose descriptor Trio watches, so that a thousand idle
sockets cost Trio one file descriptor and no task. Listening sockets, and whoever has not been let
in, are in a second one under it, the lobby, of which a turn takes a few: a handshake costs many
times what a message does, and a herd of them would be a turn in which nobody hears anything.
"""

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Protocol

import trio
from trio_websocket import Endpoint

from trio_gateway.transport.addresses import endpoint, is_tcp, local_address
from trio_gateway.transport.link import Link, LinkSetup
from trio_gateway.transport.outbox import Sender
from trio_gateway.transport.pollers import READ, WRITE, Poller
from trio_gateway.transport.sockets import Socket
from trio_gateway.transport.timers import Timers

_EVENTS_PER_TURN = 64
_NEWCOMERS_PER_TURN = 8
_ACCEPTS_PER_TURN = 32
_DEFAULT_READ = 64 * 1024
_BACK_OFF = 0.1
GIVE_WAY = 0.05
_LOG_INTERVAL = 1.0
OVERLOAD = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

_log = logging.getLogger("trio_gateway")


class _End(Protocol):
    """A descriptor in the pump."""

    def ready(self, events: int) -> None:
        """Act on what epoll said; never waits."""

    def abort(self) -> None:
        """Give up after an exception that should not have been."""


class Pump:
    """Reads sockets and accepts on listeners, all in ``run()``.

    Arguments:
        poller: what tells which descriptor is ready.

    Attributes:
        poller: of those who are in.
        lobby: of newcomers and of what they come through.
    """

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        number, self.lobby = poller.nest()
        self.ends: dict[int, _End] = {number: _Lobby(self)}

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self.poller.wait()
            self.serve(self.poller, _EVENTS_PER_TURN)

    def serve(self, poller: Poller, most: int) -> None:
        """Act on what is ready in one of the pollers, on so many descriptors at most."""
        ends = self.ends
        for fd, events in poller.poll(most):
            # A descriptor closed earlier in this turn is gone, or is a new socket's, for
            # which a stale event is one read that would block.
            end = ends.get(fd)
            if end is not None:
                try:
                    end.ready(events)
                except Exception:
                    _log.exception("a socket failed")
                    end.abort()

    def close(self) -> None:
        """Give the pollers back."""
        self.ends.clear()
        self.lobby.close()
        self.poller.close()


class _Lobby:
    """All newcomers, as one descriptor among those who are in."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump

    def ready(self, events: int) -> None:
        self._pump.serve(self._pump.lobby, _NEWCOMERS_PER_TURN)

    def abort(self) -> None:
        """Nothing: its sockets are other ends."""


class SocketLink(Link):
    """A link over a non-blocking socket, read by the pump and written straight; first a newcomer.

    Arguments:
        sock: an accepted, non-blocking socket; the link closes it.
        pump: who reads it.
    """

    __slots__ = ("_events", "_fd", "_max_read", "_poller", "_pump", "_sock")

    def __init__(
        self,
        sock: Socket,
        pump: Pump,
        setup: LinkSetup,
        *,
        peer: Any,
        local: Any,
    ) -> None:
        self._sock = sock
        super().__init__(setup, peer=peer, local=local, is_ssl=False)
        self._fd = sock.fileno()
        self._pump = pump
        self._max_read = setup.max_read or _DEFAULT_READ
        self._events = READ
        self._poller = pump.lobby
        self._poller.register(self._fd, READ)
        pump.ends[self._fd] = self

    @property
    def local(self) -> Endpoint | str:
        """Our endpoint; the listener's once the socket is gone."""
        return endpoint(local_address(self._sock) or self.local_peer, is_ssl=False)

    def ready(self, events: int) -> None:
        """Read once, and send what waits."""
        if events & ~WRITE:
            self._read()
        if events & WRITE and not self.ended:
            self.outbox.flush()
            if not self.outbox.size:
                self._watch(self._events & ~WRITE)

    @property
    def sender(self) -> Sender:
        """The socket itself."""
        return self._sock

    def want_write(self) -> None:
        """Ask the pump for the moment when more fits."""
        self._watch(self._events | WRITE)

    def pause(self) -> None:
        """Leave the poll until ``resume()``."""
        self._watch(self._events & ~READ)

    def resume(self) -> None:
        """Be read again."""
        if not self.eof:
            self._watch(self._events | READ)

    def let_in(self) -> None:
        """Leave the lobby."""
        if self._poller is self._pump.lobby and not self.ended:
            self._poller.unregister(self._fd)
            self._poller = self._pump.poller
            self._poller.register(self._fd, self._events)

    def _read(self) -> None:
        try:
            data = self._sock.recv(self._max_read)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if data:
            try:
                self.receiver.feed(data)
            except Exception:
                self.failed()
        else:
            self._watch(self._events & ~READ)
            if self.eof:
                self.abort()  # reported again though nobody asked: both directions are over
            else:
                self.feed_eof()

    def _watch(self, events: int) -> None:
        if events != self._events and not self.ended:
            self._events = events
            self._poller.modify(self._fd, events)

    def _send_eof(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()

    def _close(self) -> None:
        del self._pump.ends[self._fd]
        self._poller.forget(self._fd)
        self._sock.close()


class ListeningSocket:
    """A listening socket in the pump: accepts in batches, backs off when overloaded.

    Where somebody else accepts from it too, it leaves them a moment before each batch for which
    there is no room here.

    Arguments:
        sock: listening and non-blocking; closed by ``close()``.
        pump: who watches it.
        timers: for the back-off.
        accepted: called with each new socket, the peer's address and the listener's; takes the
            socket over.
        gives_way: whether the next newcomers are better off elsewhere.
    """

    def __init__(
        self,
        sock: Socket,
        pump: Pump,
        timers: Timers,
        accepted: Callable[[Socket, Any, Any], None],
        gives_way: Callable[[], bool] = lambda: False,
    ) -> None:
        if is_tcp(sock):
            # Linux hands this on to what is accepted: one system call instead of one each.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._fd = sock.fileno()
        self._pump = pump
        self._timers = timers
        self._accepted = accepted
        self._gives_way = gives_way
        self._gave_way = False
        self._silent_until = 0.0
        self.timer_tick = 0
        self._address = local_address(sock)
        pump.ends[self._fd] = self
        pump.lobby.register(self._fd, READ)

    def ready(self, events: int) -> None:
        """Accept what waits, at most a batch."""
        self._gave_way = not self._gave_way and self._gives_way()
        if self._gave_way:
            self._rest(GIVE_WAY)
            return
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, address = self._sock.accept()
                sock.setblocking(False)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OVERLOAD:
                    self._back_off(error)
                    return
                if error.errno == errno.EINVAL:  # it would be reported for ever
                    _log.error("the listening socket was shut down; it is let go")
                    self.close()
                    return
                # The peer is gone already (ECONNABORTED and its kin): the next, please.
                continue
            try:
                self._accepted(sock, address, self._address)
            except Exception:
                _log.exception("a new connection could not be taken")
                sock.close()

    def abort(self) -> None:
        """Nothing: one failed accept does not end a listener."""

    def expire(self) -> None:
        """The rest is over."""
        self._pump.lobby.modify(self._fd, READ)

    def close(self) -> None:
        """Stop accepting; idempotent."""
        if self._pump.ends.pop(self._fd, None) is not None:
            self._timers.disarm(self)
            # The listener it was duplicated from keeps the socket open, and epoll watches it then.
            self._pump.lobby.modify(self._fd, 0)
            self._pump.lobby.forget(self._fd)
            self._sock.close()

    def _rest(self, seconds: float) -> None:
        self._pump.lobby.modify(self._fd, 0)
        self._timers.arm(self, seconds)

    def _back_off(self, error: OSError) -> None:
        self._rest(_BACK_OFF)
        now = trio.current_time()
        if now >= self._silent_until:
            self._silent_until = now + _LOG_INTERVAL
            _log.error("cannot accept connections: %s; trying again", error.strerror)
