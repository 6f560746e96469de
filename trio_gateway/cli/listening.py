"""What ``serve`` listens on: sockets opened here, or handed in by whoever started it.

In: options, sockets from systemd, from a predecessor or from the supervisor. Out: listeners for a
gateway, and sockets to hand on. The rules: a socket that is handed in is used and not opened again;
the sockets stay open here until somebody closes them, so that none who connects is refused while
one process follows another.
"""

import os
import socket
import sys
from collections.abc import AsyncGenerator, Generator, Iterable, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs
import trio

from trio_gateway.cli.binding import Bound, SocketFile, addresses, bind, url_of
from trio_gateway.cli.certificates import Certificate
from trio_gateway.cli.options import ServeOptions
from trio_gateway.errors import ConfigurationError
from trio_gateway.transport.listeners import AnyListener, TlsListener

_FIRST_SYSTEMD_FD = 3
_SYSTEMD = "systemd:"


@attrs.define(eq=False)
class Opened:
    """What is being listened on.

    Attributes:
        bound: the sockets.
        certificate: what TLS shows; None without.
    """

    bound: list[Bound]
    certificate: Certificate | None

    @property
    def urls(self) -> list[str]:
        """Where it is, each once."""
        return list(dict.fromkeys(bound.url for bound in self.bound))

    @property
    def local(self) -> bool:
        """Whether only this machine can get there."""
        return all(bound.local for bound in self.bound)

    def listeners(self) -> list[AnyListener]:
        """Return listeners for a gateway to close, over the same sockets."""
        return [self._listener(bound) for bound in self.bound]

    def fds(self) -> list[int]:
        """Return the descriptors, for ``pass_fds``."""
        return [bound.sock.fileno() for bound in self.bound]

    def told(self) -> list[dict[str, Any]]:
        """Return what the process that gets the descriptors is told of them."""
        return [
            {"fd": bound.sock.fileno(), "name": bound.name, "url": bound.url, "tls": bound.tls}
            for bound in self.bound
        ]

    def close(self) -> None:
        """Listen no more, as far as this process goes; the files of Unix sockets stay."""
        for bound in self.bound:
            bound.sock.close()

    def remove_files(self) -> None:
        """Remove the files of Unix sockets that were made here."""
        for bound in self.bound:
            if bound.file is not None:
                bound.file.remove()

    def keep_files(self) -> None:
        """Leave the files of Unix sockets to a successor."""
        for bound in self.bound:
            bound.file = None

    def _listener(self, bound: Bound) -> AnyListener:
        sock = bound.sock.dup()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        if bound.tls and self.certificate is not None:
            return TlsListener(listener, self.certificate.context)
        return listener


@asynccontextmanager
async def open_listeners(
    options: ServeOptions, handed: Iterable[Bound] = ()
) -> AsyncGenerator[Opened, None]:
    """Listen on everything, and close it in the end; the files of Unix sockets go with it.

    Arguments:
        options: what was asked for.
        handed: systemd's sockets.

    Raises:
        ConfigurationError: a certificate cannot be read or an address cannot be bound.
    """
    opened = Opened(list(handed), None)
    try:
        opened.certificate = Certificate.of(options)
        for address in addresses(options):
            # systemd's sockets stand for the default address, not for one that was asked for.
            if not opened.bound or not address.is_default:
                opened.bound += await bind(address)
        yield opened
    finally:
        opened.remove_files()
        opened.close()


@contextmanager
def taken_over(handed: Iterable[Bound]) -> Generator[Opened, None, None]:
    """Keep what the program before this one has left, for workers, and close it in the end."""
    opened = Opened(list(handed), None)
    try:
        yield opened
    finally:
        opened.remove_files()
        opened.close()


def from_systemd(
    environ: MutableMapping[str, str], *, tls: bool, first: int = _FIRST_SYSTEMD_FD
) -> list[Bound]:
    """Return the sockets of socket activation (``sd_listen_fds(3)``), and forget about them.

    Arguments:
        environ: where ``LISTEN_FDS``, ``LISTEN_PID`` and ``LISTEN_FDNAMES`` are; they are removed.
        tls: whether there is a certificate. TLS is then spoken on all of them, but for those with
            ``FileDescriptorName=http``.
        first: their first descriptor.

    Raises:
        ConfigurationError: one of them is no listening stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    names += [""] * int(count)
    return [
        _handed(first + n, f"{_SYSTEMD}{n}", tls and names[n] != "http") for n in range(int(count))
    ]


def from_told(told: Sequence[dict[str, Any]], *, own: bool) -> list[Bound]:
    """Return the sockets that another of our processes told of, see ``Opened.told``.

    Arguments:
        told: what was said.
        own: whether the files of Unix sockets are to be removed by this process.
    """
    return [_retold(one, own) for one in told]


def _retold(told: dict[str, Any], own: bool) -> Bound:
    bound = Bound(told["name"], told["url"], told["tls"], _adopt(told["fd"]))
    kind, _, path = bound.name.partition(":")
    if own and kind == "unix":
        try:
            bound.file = SocketFile.at(path)
        except OSError:
            pass  # somebody removed it; there is nothing to remove any more
    return bound


def _handed(fd: int, name: str, tls: bool) -> Bound:
    try:
        sock = _adopt(fd)
    except OSError as error:
        raise ConfigurationError(f"LISTEN_FDS: cannot use descriptor {fd}: {error}") from None
    if sock.type != socket.SOCK_STREAM or not _listens(sock):
        sock.close()
        raise ConfigurationError(f"LISTEN_FDS: descriptor {fd} is no listening stream socket")
    return Bound(name, url_of(sock, tls), tls, sock)


def _listens(sock: socket.socket) -> bool:
    if sys.platform == "darwin":
        return True  # it cannot tell
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _adopt(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    return sock
