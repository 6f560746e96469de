"""Which worker has a connection, and as many connections with each worker.

In: upgraded connections to a server of several processes that share a listener. Out: the same, by
the process that holds the other end, as the kernel tells it; and as many for each, whoever the
kernel woke first.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..job import Job
from ..meter import tree
from .wire import close_politely, open_connections

_ROUNDS = 40
_FIELDS = 10  # of a line of /proc/net/tcp, to the inode


def level_connections(job: Job) -> tuple[list[list[socket.socket]], float]:
    """``connections`` of them, as many for each worker.

    Returns them by worker, and the share of them that the busiest worker had got by itself.

    Raises:
        ConnectionError: a worker gets none.
    """
    opened = open_connections(job, job.connections)
    kept = by_process(job, opened)
    came = max(map(len, kept.values())) / job.connections
    count = job.connections
    share = -(-job.connections // job.workers)
    for _ in range(_ROUNDS):
        for sockets in kept.values():
            while len(sockets) > share:
                close_politely(sockets.pop())
        missing = job.connections - sum(map(len, kept.values()))
        if not missing:
            return list(kept.values()), came
        more = by_process(job, open_connections(job, missing, count))
        count += missing
        for pid, sockets in more.items():
            kept.setdefault(pid, []).extend(sockets)
    shares = ", ".join(str(len(sockets)) for sockets in kept.values())
    raise ConnectionError(f"the workers do not share {job.connections} connections: {shares}")


def by_process(job: Job, sockets: Sequence[socket.socket]) -> dict[int, list[socket.socket]]:
    """Connections by the process of the server that has the other end."""
    numbers = _inodes(job.port)
    owners: dict[int, int] = {}
    for pid in tree(job.pid):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                name = os.readlink(link)
                if name.startswith("socket:["):
                    owners[int(name[8:-1])] = pid
    found: dict[int, list[socket.socket]] = {}
    for sock in sockets:
        found.setdefault(owners[numbers[sock.getsockname()[1]]], []).append(sock)
    return found


def _inodes(port: int) -> dict[int, int]:
    """The client's port to the inode of the server's socket."""
    found: dict[int, int] = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=_FIELDS)
        if int(fields[1].rpartition(":")[2], 16) == port:
            found[int(fields[2].rpartition(":")[2], 16)] = int(fields[9])
    return found
