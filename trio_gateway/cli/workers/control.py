"""What a worker and the process that started it say to each other: a JSON object a line.

In: one end of a socket pair. Out: messages. The rules: an unknown message is for a newer version
and passed over; the end of the channel is the end of the other; nobody waits for one who does not
read; a message that was cut takes no other with it.

===============  ========  ==================================================================
message          to        meaning
===============  ========  ==================================================================
``charge``       worker    the first: sockets, API token, its number and of how many
``prepared``     parent    all is loaded, only the store is not open yet
``go``           worker    open the store and accept
``ready``        parent    it accepts
``deaf``         worker    accept no more
``leave``        worker    drain; with ``at_once``, tell all at once and let go of the store
``released``     parent    nothing is accepted any more and the store is closed
``stop``         worker    end now
``ask``          parent    a question to all: ``id``, ``what``, and ``about`` what in a text
``tell``         worker    the same, to each
``told``         parent    its answer to that ``id``, in ``text``; null where it has none
``answer``       worker    the same with its ``pid``, to who asked; null if it came too late
``answered``     worker    that ``id`` has all its answers; ``workers`` and ``restarts``
``ping``         worker    is its event loop turning?
``pong``         parent    it is
===============  ========  ==================================================================
"""

import json
import os
import socket
from collections.abc import MutableMapping
from typing import Any, Self

import structlog
import trio

VARIABLE = "_TRIO_GATEWAY_CONTROL"
"""Names the descriptor of a worker's end."""

MAX_LINE = 2**24
"""The most bytes of a message; a longer one would be taken for the end of the other."""

_SEND_TIMEOUT = 5.0
_log = structlog.stdlib.get_logger("trio_gateway.cli")


class Channel:
    """One end.

    Arguments:
        sock: becomes this object's.
        cut: whether somebody has used this end before, and perhaps not said the last to its end.
    """

    def __init__(self, sock: socket.socket, *, cut: bool = False) -> None:
        sock.set_inheritable(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._sending = trio.Lock()
        self._cut = cut
        self._buffer = bytearray()
        self._searched = 0

    @classmethod
    def inherited(cls, environ: MutableMapping[str, str]) -> Self | None:
        """Return a worker's end, None where nobody has started this process as a worker."""
        number = environ.pop(VARIABLE, "")
        return cls(socket.socket(fileno=int(number))) if number.isdigit() else None

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._stream.socket.fileno()

    async def send(self, kind: str, **message: Any) -> None:
        """Say something; lost where it is too long, or the other has gone or does not read.

        Cancelled: it may be lost.
        """
        data = json.dumps({"kind": kind, **message}).encode() + b"\n"
        if len(data) > MAX_LINE:
            _log.error("a message to another process is too long", kind=kind, size=len(data))
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(_SEND_TIMEOUT):
            async with self._sending:
                data = b"\n" + data if self._cut else data
                self._cut = True
                try:
                    await self._stream.send_all(data)
                    self._cut = False
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await trio.lowlevel.checkpoint()

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, None once the other has gone.

        Cancelled: nothing is lost.
        """
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = self._buffer[:end]
                del self._buffer[: end + 1]
                self._searched = 0
                if (message := _read(line)) is not None:
                    return message
                continue
            self._searched = len(self._buffer)
            try:
                data = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data or len(self._buffer) > MAX_LINE:
                return None
            self._buffer += data

    def detach(self) -> int:
        """Give the descriptor up, for another program; what was not received stays in the kernel's.

        Half a line that was read already would be lost with this one, so none is kept here longer
        than a message takes.
        """
        return os.dup(self.fileno())

    def close(self) -> None:
        """End it."""
        self._stream.socket.close()


def _read(line: bytearray) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and isinstance(message.get("kind"), str) else None


def pair() -> tuple[Channel, socket.socket]:
    """Return the parent's end and the socket of the worker's."""
    here, there = socket.socketpair()
    return Channel(here), there
