"""The addresses of ``serve``, opened: TCP and Unix sockets.

In: what is to be listened on. Out: listening sockets. The rules: one host name on several addresses
has one port; a Unix socket's file is removed by whoever made it and nobody else; whatever cannot be
opened is one line that names the setting.
"""

import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import quote

import attrs
import trio

from trio_gateway.cli.options import ServeOptions
from trio_gateway.cli.sources import Given
from trio_gateway.errors import ConfigurationError

_FREE_PORT_TRIES = 10
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_UDS_MODE = 0o660
_BACKLOG = 0xFFFF  # the kernel takes its own limit where that is less


@attrs.frozen(kw_only=True)
class Address:
    """Somewhere to listen.

    Attributes:
        tls: whether TLS is spoken there.
        host: the setting that names the host, with that host alone as its value.
        port: likewise the port.
        path: likewise the path of a Unix socket; None for TCP.
    """

    tls: bool
    host: Given
    port: Given
    path: Given | None = None

    @property
    def is_default(self) -> bool:
        """Whether nobody has asked for it."""
        return self.path is None and all(
            part.is_default or part.ambient for part in (self.host, self.port)
        )

    @property
    def name(self) -> str:
        """What it is called when its sockets are handed on."""
        if self.path is not None:
            return f"unix:{os.path.abspath(self.path.value)}"
        return f"tcp:{self.host.value}:{self.port.value}"


@attrs.define(eq=False)
class Bound:
    """A listening socket.

    Attributes:
        name: of the address it was opened for.
        url: where it is.
        tls: whether TLS is spoken there.
        sock: the socket.
        file: what a Unix socket has in the file system, if it is ours to remove.
    """

    name: str
    url: str
    tls: bool
    sock: socket.socket
    file: "SocketFile | None" = None

    @property
    def local(self) -> bool:
        """Whether only this machine can get there."""
        return is_local(self.sock)


def addresses(options: ServeOptions) -> list[Address]:
    """Return where the options say to listen, the TCP ones first where they are not in order."""
    host, port, uds, listen = (options.given[name] for name in ("host", "port", "uds", "listen"))
    tls = options.tls_cert is not None
    if listen.value:
        return [_address(url, listen, port) for url in listen.value]
    found = [Address(tls=tls, host=host, port=port)] if options.tcp else []
    if options.uds is not None:
        found.append(Address(tls=tls, host=host, port=port, path=uds))
    return found


def _address(url: str, listen: Given, port: Given) -> Address:
    scheme, _, rest = url.partition(":")
    if scheme == "unix":
        path = attrs.evolve(listen, value=rest)
        return Address(tls=False, host=listen, port=port, path=path)
    found = re.fullmatch(r"//\[?([^\]]*)\]?:([0-9]+)", rest)
    assert found is not None, url
    return Address(
        tls=scheme == "https",
        host=attrs.evolve(listen, value=found[1]),
        port=attrs.evolve(listen, value=int(found[2])),
    )


async def bind(address: Address) -> list[Bound]:
    """Listen on an address, on several sockets where its name stands for several.

    Raises:
        ConfigurationError: it cannot be bound.
    """
    if address.path is not None:
        sock, file = _open_uds(address.path)
        return [Bound(address.name, url_of(sock, address.tls), address.tls, sock, file)]
    socks = await _open_tcp(address.host, address.port)
    host = address.host.value
    url = url_of(socks[0], address.tls, host=f"[{host}]" if ":" in host else host)
    return [Bound(address.name, url, address.tls, sock) for sock in socks]


def url_of(sock: socket.socket, tls: bool, *, host: str | None = None) -> str:
    """Return where a listening socket is, at ``host`` if that is what it is called."""
    scheme = "https" if tls else "http"
    where: Any = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"{scheme}+unix://{quote(os.fsdecode(where), safe='')}"
    if host is None:
        host = f"[{where[0]}]" if ":" in where[0] else where[0]
    return f"{scheme}://{host}:{where[1]}"


def is_local(sock: socket.socket) -> bool:
    """Return whether only this machine can connect to a listening socket."""
    address: Any = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback


async def _open_tcp(host: Given, port: Given) -> list[socket.socket]:
    """Listen on every address of the host, all on the same port."""
    found = await _look_up(host)
    for tries_left in reversed(range(_FREE_PORT_TRIES)):
        try:
            return [_plain(listener) for listener in await _listen(found, port.value)]
        except OSError as error:
            # With port 0, the port that is free on one address may be taken on the next.
            if error.errno == errno.EADDRINUSE and port.value == 0 and tries_left:
                continue
            raise _explain(error, host, port) from None
    raise AssertionError


async def _look_up(host: Given) -> list[str]:
    try:
        found = await trio.socket.getaddrinfo(host.value, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise host.wrong(f"there is no address for {host.value!r}; check the name") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _listen(addresses: Sequence[str], port: int) -> list[trio.SocketListener]:
    opened: list[trio.SocketListener] = []
    unavailable: OSError | None = None
    try:
        for address in addresses:
            try:
                opened += await trio.open_tcp_listeners(port, host=address)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                unavailable = error  # a name may have an IPv6 address where there is no IPv6
                continue
            port = port or opened[0].socket.getsockname()[1]
        if not opened and unavailable is not None:
            raise unavailable
    except BaseException:
        for listener in opened:
            listener.socket.close()
        raise
    return opened


def _explain(error: OSError, host: Given, port: Given) -> ConfigurationError:
    match error.errno:
        case errno.EADDRINUSE:
            return port.wrong(f"{port.value} on {host.value} is in use; choose another, or 0")
        case errno.EACCES | errno.EPERM:
            return port.wrong(f"this user may not listen on {port.value}; choose one from 1024 on")
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return host.wrong(f"{host.value} is not an address of this machine")
        case _:
            return host.wrong(f"cannot listen on {host.value}: {_reason(error)}")


@attrs.frozen
class SocketFile:
    """The file of a Unix socket, told from one that another program put in its place."""

    path: str
    identity: tuple[int, int, int]

    @classmethod
    def at(cls, path: str) -> Self:
        """Return the file that is at a path now; raises OSError."""
        status = os.lstat(path)
        # A number of a removed file is soon another's, its time of change is not.
        return cls(path, (status.st_dev, status.st_ino, status.st_ctime_ns))

    def remove(self) -> None:
        """Remove the file, unless another program has put its own in its place."""
        try:
            if SocketFile.at(self.path) == self:
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or the folder is


def _open_uds(uds: Given) -> tuple[socket.socket, SocketFile]:
    path: str = uds.value
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_way(path)
        sock.bind(path)
        # Nobody can connect before listen(), so nobody connects with other permissions.
        os.chmod(path, _UDS_MODE)
        sock.listen(_BACKLOG)
        return sock, SocketFile.at(path)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError | ValueError):
            raise uds.wrong(f"cannot listen on {path!r}: {_reason(error)}") from None
        raise


def _make_way(path: str) -> None:
    """Remove the file of a socket that nobody listens on any more; raises OSError for others."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError("it is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody listens, with a full backlog
    raise OSError("it is in use by another program")


def _plain(listener: trio.SocketListener) -> socket.socket:
    return socket.socket(fileno=listener.socket.detach())


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
