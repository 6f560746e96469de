"""What a program leaves to the one that takes its place in the same process.

In: listening sockets, workers, the API token. Out: the same, after ``exec``. The rules: the process
keeps its id, so whoever watches it sees no change; a signal that comes in between waits for the
new program; an ``exec`` that fails changes nothing.
"""

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import MutableMapping
from typing import Any

import attrs

from trio_gateway.cli.binding import Bound
from trio_gateway.cli.listening import from_told
from trio_gateway.cli.workers.control import Channel
from trio_gateway.cli.workers.worker import Worker, adopt

VARIABLE = "_TRIO_GATEWAY_HERITAGE"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


@attrs.frozen
class Heritage:
    """What goes over.

    Attributes:
        listeners: the sockets, as ``Opened.told()`` has them; descriptors of their own.
        workers: number, process id and descriptor of each.
        token: of the HTTP API, if one was made or given.
    """

    listeners: list[dict[str, Any]]
    workers: list[tuple[int, int, int]]
    token: str | None = attrs.field(repr=False)

    @classmethod
    def of(cls, bound: list[Bound], workers: list[Worker], token: str | None) -> "Heritage":
        """Keep what there is, on descriptors that nobody else closes."""
        return cls(
            [
                {"fd": os.dup(b.sock.fileno()), "name": b.name, "url": b.url, "tls": b.tls}
                for b in bound
            ],
            [(worker.number, worker.pid, worker.channel.detach()) for worker in workers],
            token,
        )

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> "Heritage | None":
        """Return what the program before this one has left, if there was one."""
        number = environ.pop(VARIABLE, "")
        if not number.isdigit():
            return None
        with os.fdopen(int(number), encoding="utf-8") as file:
            file.seek(0)
            told = json.load(file)
        return cls(told["listeners"], [tuple(one) for one in told["workers"]], told["token"])

    def bound(self) -> list[Bound]:
        """Return the sockets; their files are this process's to remove, as before."""
        return from_told(self.listeners, own=True)

    def adopted(self) -> list[Worker]:
        """Return the workers."""
        return [
            adopt(number, pid, Channel(socket.socket(fileno=fd), cut=True))
            for number, pid, fd in self.workers
        ]

    def pass_on(self, environ: dict[str, str], pending: list[int]) -> None:
        """Become this program as it is on the disk now; returns only where that cannot be.

        Arguments:
            environ: of the new program.
            pending: signals that came and have not been obeyed.

        Raises:
            OSError: there is no such program; signals are as they were.
        """
        fds = [one["fd"] for one in self.listeners] + [fd for *_, fd in self.workers]
        # A file, not a pipe: it takes any number of workers.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            json.dump(attrs.asdict(self), file)
            file.flush()
            for fd in (*fds, file.fileno()):
                os.set_inheritable(fd, True)
            environ = {**environ, VARIABLE: str(file.fileno())}
            # Blocked ones wait; the new program unblocks them once it has handlers.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                for signum in pending:
                    os.kill(os.getpid(), signum)
                program = [sys.executable, *sys.orig_argv[1:]]
                os.execve(sys.executable, program, environ)  # noqa: S606 - it is this program
            finally:
                for fd in fds:
                    os.set_inheritable(fd, False)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
