"""What a worker and the process that started it say to each other: a JSON object a line.

In: one end of a socket pair. Out: messages. The rules: an unknown message is for a newer version
and passed over; the end of the channel is the end of the other; nobody waits for one who does not
read.

===============  ========  ==================================================================
message          to        meaning
===============  ========  ==================================================================
``charge``       worker    the first: sockets, API token
``prepared``     parent    all is loaded, only the store is not open yet
``go``           worker    open the store and accept
``ready``        parent    it accepts
``deaf``         worker    accept no more
``leave``        worker    drain; with ``at_once``, tell all at once and let go of the store
``released``     parent    nothing is accepted any more and the store is closed
``stop``         worker    end now
``ask``          parent    wants the sum of all metrics; has an ``id``
``answer``       worker    the sum, in ``text``
``tell``         worker    wants its metrics; has an ``id``
``told``         parent    they are in ``text``
``ping``         worker    is its event loop turning?
``pong``         parent    it is
===============  ========  ==================================================================
"""

import json
import os
import socket
from collections.abc import MutableMapping
from typing import Any, Self

import trio

VARIABLE = "_TRIO_GATEWAY_CONTROL"
"""Names the descriptor of a worker's end."""

_MAX_LINE = 2**24
_SEND_TIMEOUT = 5.0


class Channel:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.set_inheritable(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._sending = trio.Lock()
        self._buffer = bytearray()

    @classmethod
    def inherited(cls, environ: MutableMapping[str, str]) -> Self | None:
        """Return a worker's end, None where nobody has started this process as a worker."""
        number = environ.pop(VARIABLE, "")
        return cls(socket.socket(fileno=int(number))) if number.isdigit() else None

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._stream.socket.fileno()

    async def send(self, kind: str, **message: Any) -> None:
        """Say something; it is lost where the other has gone or does not read.

        Cancelled: it may have been cut, and nothing more gets through.
        """
        data = json.dumps({"kind": kind, **message}).encode() + b"\n"
        with trio.move_on_after(_SEND_TIMEOUT):
            async with self._sending:
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await trio.lowlevel.checkpoint()

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, None once the other has gone.

        Cancelled: nothing is lost.
        """
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                if (message := _read(line)) is not None:
                    return message
                continue
            try:
                data = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data or len(self._buffer) > _MAX_LINE:
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
