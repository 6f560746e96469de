"""A worker as the process sees it that started it.

In: what the worker says over its channel. Out: events, its exit status. The rule: a worker that
ended is reaped, whoever started it: this program, or the one that stood in its place before.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio

from trio_gateway.cli.listening import Opened
from trio_gateway.cli.workers.control import VARIABLE, Channel, pair

_POLL = 0.05
Ask = Callable[["Worker", int, str, str], Awaitable[None]]


@attrs.define(eq=False, kw_only=True)
class Worker:
    """A worker.

    Attributes:
        number: from 1; a successor has its predecessor's.
        pid: of its process.
        channel: our end.
        born: when it was started, on Trio's clock.
        heard: when it said something last.
        prepared: set when only its store is missing.
        ready: set when it accepts.
        released: set when it has let go of its store.
        parted: whether it has ended, or at least said its last.
        gone: set when it has ended and its status is known.
        status: its exit status, negative for a signal; None before.
    """

    number: int
    pid: int
    channel: Channel
    _reap: Callable[[], Awaitable[int]] = attrs.field(alias="reap")
    born: float = attrs.Factory(trio.current_time)
    heard: float = attrs.Factory(trio.current_time)
    prepared: trio.Event = attrs.Factory(trio.Event)
    ready: trio.Event = attrs.Factory(trio.Event)
    released: trio.Event = attrs.Factory(trio.Event)
    gone: trio.Event = attrs.Factory(trio.Event)
    parted: bool = False
    status: int | None = None
    store: str = ""
    _asked: dict[int, "trio.MemorySendChannel[str | None]"] = attrs.Factory(dict)
    _count: int = 0

    async def run(self, ask: Ask | None = None) -> None:
        """Listen to it until it has ended.

        Arguments:
            ask: called with the id, name and text of a question that it has for all.
        """
        try:
            while (message := await self.channel.receive()) is not None:
                await self._hear(message, ask)
            self.parted = True
            for waiting in self._asked.values():
                waiting.close()
            self.status = await self._reap()
            self.gone.set()
        finally:
            self.channel.close()

    async def _hear(self, message: dict[str, Any], ask: Ask | None) -> None:
        self.heard = trio.current_time()
        match message:
            case {"kind": "prepared"}:
                self.prepared.set()
            case {"kind": "ready"}:
                self.store = str(message.get("store", ""))
                self.ready.set()
            case {"kind": "released"}:
                self.released.set()
            case {"kind": "told", "id": int(number), "text": str() | None as text}:
                if (waiting := self._asked.pop(number, None)) is not None:
                    waiting.send_nowait(text)
            case {"kind": "ask", "id": int(number), "what": str(what), "about": str(about)} if (
                ask is not None
            ):
                await ask(self, number, what, about)
            case _:
                pass

    async def tell(self, what: str, about: str, *, within: float) -> str | None:
        """Return its answer to a question, None if it ends before or has none in time.

        Arguments:
            what: the name of the question.
            about: what is asked about.
            within: seconds.

        Cancelled: it may have been asked.
        """
        self._count += 1
        number = self._count
        send, receive = trio.open_memory_channel[str | None](1)
        self._asked[number] = send
        try:
            with trio.move_on_after(within), suppress(trio.EndOfChannel):
                await self.channel.send("tell", id=number, what=what, about=about)
                if not self.parted:
                    return await receive.receive()
            return None
        finally:
            self._asked.pop(number, None)
            send.close()

    async def until(self, event: trio.Event, *, within: float) -> bool:
        """Wait for one of its events; return whether it came before its end and in time."""
        with trio.move_on_after(within):
            async with trio.open_nursery() as nursery:

                async def wait(one: trio.Event) -> None:
                    await one.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(wait, event)
                nursery.start_soon(wait, self.gone)
        return event.is_set()

    def kill(self) -> None:
        """End it the hard way; nothing if it has ended."""
        if not self.gone.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


async def spawn(number: int, opened: Opened, token: str | None, *, workers: int = 1) -> Worker:
    """Start this program again, as it is on the disk now, as a worker.

    Arguments:
        number: its number.
        opened: the sockets it gets.
        token: of the HTTP API; None for none.
        workers: how many there are to be.

    Raises:
        OSError: there is no such program any more, or no memory.
    """
    channel, theirs = pair()
    with theirs:
        process = await trio.lowlevel.open_process(
            [sys.executable, *sys.orig_argv[1:]],
            stdin=subprocess.DEVNULL,
            pass_fds=(*opened.fds(), theirs.fileno()),
            env={**os.environ, VARIABLE: str(theirs.fileno())},
            # Ctrl+C in a terminal reaches a whole group, and is the parent's to pass on.
            process_group=0,
        )
    await channel.send(
        "charge", listeners=opened.told(), token=token, number=number, workers=workers
    )
    return Worker(number=number, pid=process.pid, channel=channel, reap=process.wait)


def adopt(number: int, pid: int, channel: Channel) -> Worker:
    """Return a worker that accepts already, started by the program before this one."""
    worker = Worker(number=number, pid=pid, channel=channel, reap=partial(_wait_for, pid))
    worker.prepared.set()
    worker.ready.set()
    return worker


async def _wait_for(pid: int) -> int:
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
        except ChildProcessError:
            return 1  # somebody else has reaped it; nobody knows how it ended
        if found:
            return os.waitstatus_to_exitcode(status)
        await trio.sleep(_POLL)


def said(worker: Worker) -> dict[str, Any]:
    """Return what a log says about the end of a worker."""
    status = worker.status
    if status is not None and status < 0:
        try:
            how: Any = signal.Signals(-status).name
        except ValueError:
            how = -status
        return {"worker": worker.number, "pid": worker.pid, "signal": how}
    return {"worker": worker.number, "pid": worker.pid, "status": status}
