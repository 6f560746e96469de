"""What a storm needs of a network: sockets that can end badly.

In: nothing. Out: the protocols that real sockets (``sockets.py``) and virtual ones keep. The rules:
every wait is Trio's and can be cancelled; after a cancelled ``send`` the line is only good for
being closed; ``reset``, ``close`` and ``half_close`` never wait.
"""

from typing import Protocol


class Unreachable(Exception):
    """There is no connection to be had; ``str()`` says why.

    Attributes:
        refused: somebody is there and nobody listens (ECONNREFUSED), told from all other reasons.
        ours: it is this side that lacks something (descriptors, ports); no fault of the server.
    """

    def __init__(self, why: str, *, refused: bool = False, ours: bool = False) -> None:
        super().__init__(why)
        self.refused = refused
        self.ours = ours


class Broken(Exception):
    """The peer has reset the connection, or TLS has failed; ``str()`` says which."""


class Line(Protocol):
    """One connection, at the client's end."""

    def send_now(self, data: bytes) -> int:
        """Send what goes at once and return how much that was, 0 for nothing; raises Broken."""
        ...

    async def send(self, data: bytes) -> None:
        """Send all of ``data`` in one segment if it goes in one; raises Broken."""
        ...

    async def receive(self, max_bytes: int) -> bytes:
        """Return what has come, ``b""`` at the end; raises Broken. Cancelled, it took nothing."""
        ...

    async def half_close(self) -> None:
        """Send a FIN; what comes can still be received."""
        ...

    def reset(self) -> None:
        """Close with an RST. Idempotent, also after ``close()``."""
        ...

    def close(self) -> None:
        """Close with a FIN. Idempotent."""
        ...


class Network(Protocol):
    """A way to the target."""

    async def connect(self, *, tls: bool, window: int | None) -> Line:
        """Open a line.

        Arguments:
            tls: speak TLS where the target does.
            window: bytes of the receive buffer; None for the usual.

        Raises:
            Unreachable: there is none to be had.
        """
        ...
