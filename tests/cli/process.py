"""The gateway as a process, and what it prints."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from trio_gateway.cli import main

ROOT = Path(__file__).parents[2]
_START = 30.0
_END = 20.0


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what configures a gateway, and ``extra``."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_GATEWAY")}
    own.pop("PORT", None)
    # A test that is about a file names one.
    own |= {"PYTHONPATH": str(ROOT), "TRIO_GATEWAY_STORE": "memory"}
    return own | dict(extra or {})


def command(*arguments: str) -> list[str]:
    """Return what starts the program."""
    return [sys.executable, "-P", "-m", "trio_gateway", *arguments]


@attrs.frozen
class Ended:
    """A process that has ended."""

    status: int
    out: list[str]
    err: list[str]


async def run(*arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run the program to its end."""
    with trio.fail_after(_START + _END):
        done = await trio.run_process(
            command(*arguments),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(env),
        )
    return Ended(
        done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().splitlines()
    )


async def run_here(capfd: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    """As ``run()``, in a thread of this process: for commands that take no signals."""
    capfd.readouterr()
    with trio.fail_after(_START + _END):
        status = await trio.to_thread.run_sync(main, arguments)
    captured = capfd.readouterr()
    return Ended(status, captured.out.splitlines(), captured.err.splitlines())


@attrs.define(eq=False)
class Lines:
    """The lines of a stream, as they come."""

    stream: trio.abc.ReceiveStream
    seen: list[str] = attrs.Factory(list)
    _buffer: bytes = b""

    async def next(self) -> str | None:
        """Return the next line, or None at the end."""
        while b"\n" not in self._buffer:
            data = await self.stream.receive_some()
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.seen.append(line.decode())
        return self.seen[-1]

    async def until(self, pattern: str) -> str:
        """Read up to the first line that has ``pattern`` in it, and return it."""
        while (line := await self.next()) is not None:
            if re.search(pattern, line):
                return line
        raise AssertionError(f"{pattern!r} is not in {self.seen}")

    async def rest(self) -> list[str]:
        """Return the lines until the end."""
        lines: list[str] = []
        while (line := await self.next()) is not None:
            lines.append(line)
        return lines


@attrs.define(eq=False)
class Running:
    """A gateway that is running.

    Attributes:
        process: its process.
        out: what it prints after the start line.
        err: its logs.
        urls: where it listens.
    """

    process: trio.Process
    out: Lines
    err: Lines
    urls: list[str] = attrs.Factory(list)

    @property
    def url(self) -> str:
        return self.urls[-1]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def token(self) -> str:
        """Return the token that it made, from its second line."""
        line = await self.out.until("^api token ")
        return line.split()[-1]

    async def terminate(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(signum)
        return await self.process.wait()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, whichever of its threads did."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(word) for task in tasks for word in task.read_text().split())


def is_running(pid: int) -> bool:
    """Return whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


@asynccontextmanager
async def start(
    arguments: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    stdout: int = subprocess.PIPE,
    patience: float = _START + _END,
    pass_fds: Sequence[int] = (),
) -> AsyncGenerator[Running, None]:
    """Start a process; it is killed in the end if it still runs."""
    process = await trio.lowlevel.open_process(
        list(arguments),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        env=environment(env),
    )
    assert process.stderr is not None
    _, unread = trio.testing.memory_stream_one_way_pair()
    streams: list[trio.abc.ReceiveStream] = [process.stdout or unread, process.stderr]
    try:
        with trio.fail_after(patience):
            yield Running(process, Lines(streams[0]), Lines(streams[1]))
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in streams:
                await stream.aclose()


@asynccontextmanager
async def gateway(
    *arguments: str, env: Mapping[str, str] | None = None, patience: float = _START + _END
) -> AsyncGenerator[Running, None]:
    """Start a gateway on a free port, wait for its start line."""
    arguments = (
        (*arguments, "--port", "0") if not {"--uds", "--listen"} & {*arguments} else arguments
    )
    async with start(command(*arguments), env, patience=patience) as running:
        line = await running.out.next()
        if line is None:
            raise AssertionError(f"the gateway did not start: {await running.err.rest()}")
        said, _, urls = line.partition(" on ")
        assert said == "listening"
        running.urls = urls.split()
        yield running


@contextmanager
def taken_port() -> Generator[int, None, None]:
    """A port of 127.0.0.1 that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]
