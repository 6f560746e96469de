"""The pollers say the same things in the same terms."""

import socket
import sys
from types import SimpleNamespace

import pytest

from trio_gateway.transport.pollers import HANGUP, READ, WRITE, Kqueue, Poller, open_poller


class FakeKernel:
    """The part of ``select`` that kqueue needs, with a queue whose events a test sets."""

    KQ_FILTER_READ, KQ_FILTER_WRITE = -1, -2
    KQ_EV_ADD, KQ_EV_DELETE = 1, 2

    def __init__(self) -> None:
        self.changes: list[tuple[int, int, int]] = []
        self.ready: list[SimpleNamespace] = []
        self.closed = False

    def kqueue(self) -> "FakeKernel":
        return self

    def kevent(self, fd: int, which: int, flags: int) -> tuple[int, int, int]:
        return fd, which, flags

    def control(
        self, changes: list[tuple[int, int, int]] | None, most: int, _timeout: float = 0
    ) -> list[SimpleNamespace]:
        self.changes.extend(changes or ())
        return self.ready[:most]

    def fileno(self) -> int:
        return 99

    def close(self) -> None:
        self.closed = True


def test_kqueue_watches_what_changes() -> None:
    """Only filters that come or go are told to the kernel."""
    kernel = FakeKernel()
    poller: Poller = Kqueue(kernel)
    poller.register(7, READ)
    poller.modify(7, READ | WRITE)
    poller.modify(7, WRITE)
    poller.modify(7, WRITE)
    assert [(7, -1, 1), (7, -2, 1), (7, -1, 2)] == kernel.changes


def test_kqueue_joins_the_filters_of_a_descriptor() -> None:
    """Readable and writable is one event, as with epoll."""
    kernel = FakeKernel()
    poller = Kqueue(kernel)
    kernel.ready = [
        SimpleNamespace(ident=7, filter=-1),
        SimpleNamespace(ident=8, filter=-2),
        SimpleNamespace(ident=7, filter=-2),
    ]
    assert [(7, READ | WRITE), (8, WRITE)] == poller.poll(64)


def test_kqueue_forgets() -> None:
    """A number that is used again by another socket starts afresh."""
    kernel = FakeKernel()
    poller = Kqueue(kernel)
    poller.register(7, READ)
    poller.forget(7)
    poller.register(7, READ)
    poller.close()
    assert [(7, -1, 1), (7, -1, 1)] == kernel.changes
    assert kernel.closed


def test_kqueue_stops_watching() -> None:
    """One that stays open is taken out of the kernel's queue."""
    kernel = FakeKernel()
    poller = Kqueue(kernel)
    poller.register(7, READ)
    poller.unregister(7)
    assert [(7, -1, 1), (7, -1, 2)] == kernel.changes


def test_kqueue_in_a_kqueue() -> None:
    """The inner one's descriptor is watched like any other."""
    kernel = FakeKernel()
    number, _inner = Kqueue(kernel).nest()
    assert (99, [(99, -1, 1)]) == (number, kernel.changes)


@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
async def test_this_platforms_poller() -> None:
    """Ready to read, to write, and broken, on a real pair of sockets."""
    poller = open_poller()
    assert poller is not None
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    poller.register(fd, READ)
    assert [] == poller.poll(64)
    theirs.send(b"x")
    await poller.wait()
    assert [(fd, READ)] == poller.poll(64)
    poller.modify(fd, WRITE)
    assert [(fd, WRITE)] == poller.poll(64)
    poller.modify(fd, 0)
    theirs.close()
    assert [fd] == [ready for ready, events in poller.poll(64) if events & HANGUP]
    poller.forget(fd)
    ours.close()
    poller.close()


async def test_a_poller_in_a_poller() -> None:
    """The outer one is ready for as long as anything in the inner one is, which is told in turn."""
    outer = open_poller()
    assert outer is not None
    number, inner = outer.nest()
    pairs = [socket.socketpair() for _ in range(3)]
    fds = [ours.fileno() for ours, _ in pairs]
    for (_, theirs), fd in zip(pairs, fds, strict=True):
        inner.register(fd, READ)
        theirs.send(b"x")
    await outer.wait()
    assert [(number, READ)] == outer.poll(64)
    told = [fd for _ in range(3) for fd, _ in inner.poll(1)]
    assert sorted(fds) == sorted(told)
    inner.unregister(fds[0])
    outer.register(fds[0], READ)
    assert {(number, READ), (fds[0], READ)} == set(outer.poll(64))
    for (ours, _), fd in zip(pairs[1:], fds[1:], strict=True):
        inner.forget(fd)
        ours.close()
    assert [(fds[0], READ)] == outer.poll(64)
    inner.close()
    outer.close()
    for pair in pairs:
        for sock in pair:
            sock.close()
