"""A gateway that runs out of descriptors, on virtual time; prints what happened as JSON.

Clients wait in the backlog before the first accept, the limit leaves room for a few of them, ten
virtual seconds pass, then the limit is lifted.
"""

import json
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import trio
import trio.testing

from tests.rude.peer import Peer, handshake
from tests.rude.site import Certificates, Site, Transport, open_listener, until
from trio_gateway import Timeouts, Upgrade

CLIENTS = 40
ROOM = 10
SECONDS = 10

transport: Transport = "tls" if sys.argv[1] == "tls" else "tcp"


class Lines(logging.Handler):
    """Collects what is logged, with the virtual second."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = list[tuple[float, str, bool]]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((trio.current_time(), record.getMessage(), bool(record.exc_info)))


def limit(descriptors: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))


async def handler(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    await connection.send_message(await connection.get_message())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def main() -> None:
    lines = Lines()
    logging.getLogger("trio_gateway").addHandler(lines)
    certificates = Certificates.issue()
    listener = await open_listener(transport, certificates, Path())
    timeouts = Timeouts(handshake_timeout=10_000)
    site = Site(handler, listener, certificates.client, timeouts=timeouts)
    baseline = open_descriptors() - 1  # the listener
    # Plain sockets on purpose: with TLS too, it is the accept that has to survive.
    crowd = list[socket.socket]()
    for _ in range(CLIENTS):
        client = socket.create_connection(site.address)
        client.setblocking(False)
        crowd.append(client)
    async with trio.open_nursery() as nursery:
        limit(open_descriptors() + ROOM)
        await nursery.start(site.gateway.run)
        await trio.sleep(SECONDS)
        starved = site.now.sockets
        logged = list(lines.lines)
        limit(4096)
        await until_virtually(lambda: site.now.sockets == CLIENTS)
        for client in crowd:
            client.close()
        await until_virtually(lambda: not site.now.sockets)
        async with Peer(await site.stream()) as peer:
            await peer.send(handshake() + b"\x81\x85\0\0\0\0hello")
            assert (await peer.answer()).status == 101
            healthy = (await peer.frame()).payload == b"hello"
        nursery.cancel_scope.cancel()
    print(
        json.dumps(
            {
                "accepted while starved": starved,
                "lines": [message for _, message, _ in logged],
                "tracebacks": sum(traceback for *_, traceback in logged),
                "lines later": len(lines.lines) - len(logged),
                "healthy": healthy,
                "left": open_descriptors() - baseline,
            }
        )
    )


async def until_virtually(condition: Callable[[], object]) -> None:
    """Within a few back-offs of the listener."""
    with trio.fail_after(5):
        await until(condition)


trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.001))
