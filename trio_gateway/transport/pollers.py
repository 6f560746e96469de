"""Pollers: which of many descriptors is ready, asked of the kernel in one call.

In: descriptors and what they are watched for. Out: what is ready, in epoll's terms. The rules: the
poller has a descriptor of its own, which Trio or another poller watches; nothing here waits but
``wait()``; what is ready is told in turn, whoever has not been told of for longest first.
"""

import select
import sys
from typing import Any, Protocol

import trio

READ, WRITE, ERROR, HANGUP = 0x001, 0x004, 0x008, 0x010  # as in <sys/epoll.h>


class Poller(Protocol):
    """What the pump needs of epoll."""

    def register(self, fd: int, events: int) -> None:
        """Watch a descriptor for ``READ`` and ``WRITE``; errors and hang-ups come unasked."""

    def modify(self, fd: int, events: int) -> None:
        """Watch it for others."""

    def unregister(self, fd: int) -> None:
        """Watch it no more."""

    def forget(self, fd: int) -> None:
        """The descriptor is about to be closed, which ends the watching."""

    def nest(self) -> "tuple[int, Poller]":
        """Open another poller, and watch it: it is ready to read while anything in it is ready.

        Returns:
            What stands for its descriptor in this one, and the poller.
        """
        ...

    def poll(self, max_events: int) -> list[tuple[int, int]]:
        """Return descriptors and what they are ready for, without waiting."""
        ...

    async def wait(self) -> None:
        """Wait until something is ready; always a checkpoint."""

    def close(self) -> None:
        """Give the poller's own descriptor back."""


if sys.platform == "linux":

    class Epoll:
        """Linux's epoll, level-triggered."""

        def __init__(self) -> None:
            self._epoll = select.epoll()

        def register(self, fd: int, events: int) -> None:
            """Watch a descriptor for ``events``."""
            self._epoll.register(fd, events)

        def modify(self, fd: int, events: int) -> None:
            """Watch it for others."""
            self._epoll.modify(fd, events)

        def unregister(self, fd: int) -> None:
            """Watch it no more."""
            self._epoll.unregister(fd)

        def forget(self, fd: int) -> None:
            """Nothing to do: closing takes the descriptor out."""

        def nest(self) -> "tuple[int, Epoll]":
            """Open another poller, and watch it."""
            inner = Epoll()
            fd = inner._epoll.fileno()
            self.register(fd, READ)
            return fd, inner

        def poll(self, max_events: int) -> list[tuple[int, int]]:
            """Return what is ready now."""
            return self._epoll.poll(0, max_events)

        async def wait(self) -> None:
            """Wait until something is ready."""
            await trio.lowlevel.wait_readable(self._epoll.fileno())

        def close(self) -> None:
            """Give the descriptor back."""
            self._epoll.close()


class Kqueue:
    """The BSDs' and macOS's kqueue in epoll's terms.

    A descriptor that is watched for nothing reports nothing: a broken socket whose reading is
    paused is noticed when it is written or read again.

    Arguments:
        kernel: the ``select`` module, or what stands in for it.
    """

    def __init__(self, kernel: Any = select) -> None:
        self._kernel = kernel
        self._queue = kernel.kqueue()
        self._watched: dict[int, int] = {}

    def register(self, fd: int, events: int) -> None:
        """Watch a descriptor for ``events``."""
        self._watched[fd] = 0
        self.modify(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Watch it for others."""
        kernel, before = self._kernel, self._watched[fd]
        filters = ((READ, kernel.KQ_FILTER_READ), (WRITE, kernel.KQ_FILTER_WRITE))
        changes = [
            kernel.kevent(fd, which, kernel.KQ_EV_ADD if events & bit else kernel.KQ_EV_DELETE)
            for bit, which in filters
            if (events ^ before) & bit
        ]
        if changes:
            self._queue.control(changes, 0)
        self._watched[fd] = events

    def unregister(self, fd: int) -> None:
        """Watch it no more."""
        self.modify(fd, 0)
        del self._watched[fd]

    def forget(self, fd: int) -> None:
        """Stop knowing the descriptor; closing takes it out of the kernel's queue."""
        self._watched.pop(fd, None)

    def nest(self) -> "tuple[int, Kqueue]":
        """Open another poller, and watch it."""
        inner = Kqueue(self._kernel)
        fd = inner._queue.fileno()
        self.register(fd, READ)
        return fd, inner

    def poll(self, max_events: int) -> list[tuple[int, int]]:
        """Return what is ready now; a peer's end of file reads as ``READ``, as with epoll."""
        ready: dict[int, int] = {}
        for event in self._queue.control(None, max_events, 0):
            bit = READ if event.filter == self._kernel.KQ_FILTER_READ else WRITE
            ready[event.ident] = ready.get(event.ident, 0) | bit
        return list(ready.items())

    async def wait(self) -> None:
        """Wait until something is ready."""
        await trio.lowlevel.wait_readable(self._queue.fileno())

    def close(self) -> None:
        """Give the descriptor back."""
        self._queue.close()


def open_poller() -> Poller | None:
    """Return this platform's poller; None where sockets have to be read by a task each."""
    if sys.platform == "linux":
        return Epoll()
    return Kqueue() if hasattr(select, "kqueue") else None
