"""The sockets of ``serve``: TCP, TLS over it, a Unix socket.

In: options. Out: listeners and the URLs they are at. The rules: one host name on several addresses
has one port; a Unix socket's file is there exactly as long as somebody listens; whatever cannot be
opened is one line that names the setting.
"""

import errno
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import quote

import attrs
import trio

from trio_gateway.cli.options import ServeOptions
from trio_gateway.cli.sources import Given
from trio_gateway.errors import ConfigurationError
from trio_gateway.transport.listeners import AnyListener

_FREE_PORT_TRIES = 10
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_UDS_MODE = 0o660
_BACKLOG = 0xFFFF  # the kernel takes its own limit where that is less


@attrs.frozen
class Opened:
    """What is being listened on.

    Attributes:
        listeners: for a gateway.
        urls: where it is, the TCP one first.
        local: whether only this machine can get there.
    """

    listeners: list[AnyListener]
    urls: list[str]
    local: bool


@asynccontextmanager
async def open_listeners(options: ServeOptions) -> AsyncGenerator[Opened, None]:
    """Open everything, and close it in the end; the file of a Unix socket goes with it.

    Raises:
        ConfigurationError: a certificate cannot be read or an address cannot be bound.
    """
    context = _tls(options)
    scheme = "http" if context is None else "https"
    plain: list[trio.SocketListener] = []
    files: list[_SocketFile] = []
    urls: list[str] = []
    local = True
    try:
        if options.tcp:
            plain += await _open_tcp(options)
            address: Any = plain[0].socket.getsockname()
            urls.append(f"{scheme}://{_bracketed(options.host)}:{address[1]}")
            local = all(_is_loopback(listener) for listener in plain)
        if options.uds is not None:
            plain.append(await _open_uds(options.given["uds"], files))
            urls.append(f"{scheme}+unix://{quote(options.uds, safe='')}")
        yield Opened([_wrapped(listener, context) for listener in plain], urls, local)
    finally:
        for file in files:
            file.remove()
        for listener in plain:
            listener.socket.close()


def _tls(options: ServeOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None or options.tls_key is None:
        return None
    certificate, key = options.given["tls_cert"], options.given["tls_key"]
    for given in (certificate, key):
        try:
            with open(given.value, "rb"):
                pass
        except (OSError, ValueError) as error:
            raise given.wrong(f"cannot read {given.value!r}: {_reason(error)}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])

    def password() -> str:
        raise key.wrong("is encrypted; give one that is not")

    try:
        context.load_cert_chain(options.tls_cert, options.tls_key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise key.wrong("is not the key of the certificate") from None
        if _has_certificate(certificate):
            raise key.wrong(f"{key.value!r} has no usable private key in PEM") from None
        raise certificate.wrong(f"{certificate.value!r} has no certificate in PEM") from None
    return context


def _has_certificate(certificate: Given) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate.value)
    except ssl.SSLError:
        return False
    return True


def _wrapped(listener: trio.SocketListener, context: ssl.SSLContext | None) -> AnyListener:
    if context is None:
        return listener
    return trio.SSLListener(listener, context, https_compatible=True)


async def _open_tcp(options: ServeOptions) -> list[trio.SocketListener]:
    """Listen on every address of the host, all on the same port."""
    host, port = options.given["host"], options.given["port"]
    addresses = await _addresses(host)
    for tries_left in reversed(range(_FREE_PORT_TRIES)):
        try:
            return await _listen(addresses, options.port)
        except OSError as error:
            # With port 0, the port that is free on one address may be taken on the next.
            if error.errno == errno.EADDRINUSE and options.port == 0 and tries_left:
                continue
            raise _explain(error, host, port) from None
    raise AssertionError


async def _addresses(host: Given) -> list[str]:
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
class _SocketFile:
    path: str
    identity: tuple[int, int, int]

    @classmethod
    def at(cls, path: str) -> Self:
        status = os.lstat(path)
        # A number of a removed file is soon another's, its time of change is not.
        return cls(path, (status.st_dev, status.st_ino, status.st_ctime_ns))

    def remove(self) -> None:
        """Remove the file, unless another program has put its own in its place."""
        try:
            if _SocketFile.at(self.path) == self:
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or the folder is


async def _open_uds(uds: Given, files: list[_SocketFile]) -> trio.SocketListener:
    path: str = uds.value
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_way(path)
        await sock.bind(path)
        # Nobody can connect before listen(), so nobody connects with other permissions.
        os.chmod(path, _UDS_MODE)
        files.append(_SocketFile.at(path))
        sock.listen(_BACKLOG)
        return trio.SocketListener(sock)
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


def _is_loopback(listener: trio.SocketListener) -> bool:
    address: Any = listener.socket.getsockname()
    return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
