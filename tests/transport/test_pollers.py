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
