"""Gateways as processes on one Redis: started, killed, rolled; and what their logs say."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from tests.cli.process import children, command, environment
from tests.cluster.server import DURABLE, Server, free_port, redis_server

_PATIENCE = 60.0


async def settle(condition: Callable[[], bool], what: str) -> None:
    """Wait for what happens in other processes."""
    with trio.move_on_after(_PATIENCE) as scope:
        while not condition():  # noqa: ASYNC110 - it comes from other processes
            await trio.sleep(0.05)
    assert not scope.cancelled_caught, f"not in time: {what}"


async def gone(pid: int) -> None:
    """Wait for the end of a process, whoever started it."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        await trio.lowlevel.checkpoint()
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


@attrs.define(eq=False)
class Node:
    """A gateway that may be killed, or replaced, and comes again on its port.

    Attributes:
        workers: 1 is a process by itself, more are processes under a supervisor.
        log: the file that it writes; of the processes after it too.
        process: None while it is not there, or is about to go.
    """

    store: str
    log: Path
    workers: int = 1
    port: int = attrs.Factory(free_port)
    process: trio.Process | None = None

    async def start(self) -> None:
        supervised = ("--workers", str(self.workers))
        mark = self.mark()
        with self.log.open("ab") as log:
            process = await trio.lowlevel.open_process(
                command(
                    *("--store", self.store, "--port", str(self.port), "--api-token", "secret"),
                    *("--max-connections-per-ip", "100000", "--log-format", "json"),
                    *("--grace", "10"),
                    *(supervised if self.workers > 1 else ()),
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment(),
            )
        self.process = process
        await self.until("supervising" if self.workers > 1 else "serving", mark)

    def mark(self) -> int:
        """Return where the log ends now."""
        return self.log.stat().st_size if self.log.exists() else 0

    def said(self, pattern: str, mark: int) -> bool:
        """Return whether the log has it, after a mark."""
        return re.search(pattern.encode(), self.log.read_bytes()[mark:]) is not None

    async def until(self, pattern: str, mark: int) -> None:
        """Wait until the log has it, after a mark."""
        await settle(lambda: self.said(pattern, mark), f"{pattern!r} in {self.log}")

    @property
    def pids(self) -> list[int]:
        """Its workers; none of a process by itself."""
        return [] if self.process is None or self.workers == 1 else children(self.process.pid)

    async def kill(self) -> None:
        """End all its processes as a machine's failure does."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(signal.SIGSTOP)  # it starts no more of them
        pids = children(process.pid)
        for pid in (process.pid, *pids):
            os.kill(pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
            for pid in pids:
                await gone(pid)

    async def roll(self) -> None:
        """Put new processes in the place of those there are, as a deploy does.

        Under a supervisor: new workers accept before old ones go. By itself: it drains, ends, and
        starts again; meanwhile the balancer sends nobody there.
        """
        assert self.process is not None
        if self.workers > 1:
            before, mark = self.pids, self.mark()
            self.process.send_signal(signal.SIGHUP)
            await self.until("the workers are replaced", mark)
            assert self.workers == len(self.pids)
            assert set(before).isdisjoint(self.pids)
            return
        process, self.process = self.process, None
        try:
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(_PATIENCE):
                status = await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        assert status == 0
        await self.start()


@attrs.define(eq=False)
class Site:
    """Nodes on a Redis.

    Attributes:
        ends: how connections ended, and attempts failed, in the words of the clients, by port.
    """

    server: Server
    nodes: list[Node]
    ends: Counter[tuple[int, str]] = attrs.Factory(Counter)

    def ports(self) -> list[int]:
        return [node.port for node in self.nodes if node.process is not None]

    def ended(self, port: int, how: str) -> None:
        self.ends[port, how] += 1


@asynccontextmanager
async def site(count: int) -> AsyncGenerator[Site, None]:
    """Run nodes on one Redis: every other one is under a supervisor, with two workers."""
    folder = Path(tempfile.mkdtemp(prefix="trio-gateway-site-"))
    with redis_server(*DURABLE) as server:
        store = f"{server.url}?deadline=3&lease=3"
        nodes = [Node(store, folder / f"node-{n}", workers=2 - n % 2) for n in range(count)]
        try:
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(node.start)
            yield Site(server, nodes)
        except BaseException:
            for node in nodes:
                if node.log.exists():
                    print(f"{node.log.name}:", *node.log.read_text().splitlines()[-30:], sep="\n")
            raise
        finally:
            for node in nodes:
                await node.kill()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial(shutil.rmtree, folder))
