"""What the pump needs of a socket, so that a virtual network can stand in for the kernel.

In: nothing. Out: protocols, which ``socket.socket`` and the sockets of a ``VirtualNet`` keep.
"""

from typing import Any, Protocol, runtime_checkable

from trio_gateway.transport.pollers import Poller


class Socket(Protocol):
    """A non-blocking stream socket; its calls raise OSError as Linux's do."""

    @property
    def family(self) -> int:
        """The address family."""
        ...

    def fileno(self) -> int:
        """Return its descriptor, for the poller."""
        ...

    def setblocking(self, flag: bool, /) -> None:
        """Is called with False."""
        ...

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option."""
        ...

    def send(self, data: bytes | memoryview, /) -> int:
        """Send what fits."""
        ...

    def recv(self, max_bytes: int, /) -> bytes:
        """Return what has come, ``b""`` at the end."""
        ...

    def accept(self) -> "tuple[Socket, Any]":
        """Return the next connection and its address."""
        ...

    def shutdown(self, how: int, /) -> None:
        """End one direction."""
        ...

    def dup(self) -> "Socket":
        """Return another descriptor of the same socket."""
        ...

    def getsockname(self) -> Any:
        """Return our address."""
        ...

    def close(self) -> None:
        """Give the descriptor back."""
        ...


@runtime_checkable
class PolledListener(Protocol):
    """A listener whose sockets are no kernel's, and which brings what polls them."""

    @property
    def socket(self) -> Socket:
        """The listening socket."""
        ...

    def open_poller(self) -> Poller:
        """Return a poller for it and for what it accepts."""
        ...
