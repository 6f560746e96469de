"""A TCP proxy that misbehaves on command: cuts, resets, stands still, refuses."""

import contextlib
import socket
import struct
import threading
from collections.abc import Generator

import attrs

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: closing sends RST
_LOOK = 0.02


@attrs.define(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    open: bool = True
    carrying: int = 2

    def end(self, *, reset: bool) -> None:
        self.open = False
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        self.open = False
        for end in (self.client, self.server):
            end.close()


class Proxy:
    """Carries bytes between whoever connects and one port of this machine.

    Arguments:
        target: the port.

    Attributes:
        port: where it listens.
        refusing: whether who connects is hung up on.
        breaks: connections that were ended by ``cut()`` and ``reset()``.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.refusing = False
        self.breaks = 0
        self._pairs: list[_Pair] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many it carries now."""
        return sum(pair.open for pair in self._pairs)

    def cut(self) -> None:
        """End every connection with a FIN, in the middle of whatever it carries."""
        self._end(reset=False)

    def reset(self) -> None:
        """End every connection with an RST; what the peers have not read is lost."""
        self._end(reset=True)

    def pause(self) -> None:
        """Carry nothing until ``resume()``; nobody is told."""
        self._flowing.clear()

    def resume(self) -> None:
        """Carry what has waited, too."""
        self._flowing.set()

    def close(self) -> None:
        """Listen no longer and end what there is."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end(reset=True)

    def _end(self, *, reset: bool) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self.breaks += pair.open
            pair.end(reset=reset)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refusing:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                pair = _Pair(client, server)
                self._pairs = [other for other in self._pairs if other.open]
                self._pairs.append(pair)
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(pair, *ends), daemon=True).start()

    def _carry(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while not self._flowing.wait(_LOOK):
                    if not pair.open:
                        break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        pair.carrying -= 1
        if not pair.carrying:
            pair.close()


@contextlib.contextmanager
def proxy_to(port: int) -> Generator[Proxy]:
    """Open a proxy for as long as the ``with``."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
