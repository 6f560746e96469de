"""Real sockets for a storm, under Trio.

In: an address. Out: lines whose every call is one system call where it can be. The rules: addresses
are looked up once; certificates are not checked, since a storm has no secret to tell; a socket is
tried first and waited for only where that says "not yet".
"""

import errno
import math
import socket
import ssl
import struct
from typing import Any

import trio

from trio_gateway.storm.transport import Broken, Line, Unreachable

_RST = struct.pack("ii", 1, 0)
_OURS = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
_REFUSED = {errno.ECONNREFUSED, errno.ENOENT}


class SocketNetwork:
    """TCP to one address; made by ``resolve()``.

    Arguments:
        family: of the address.
        address: as ``socket.connect()`` takes it.
        server_name: for TLS; None for a target that speaks none.
    """

    def __init__(self, family: int, address: Any, server_name: str | None) -> None:
        self._family = family
        self._address = address
        self._server_name = server_name
        self._context = None if server_name is None else _trusting()

    async def connect(self, *, tls: bool, window: int | None) -> Line:
        try:
            sock = socket.socket(self._family, socket.SOCK_STREAM)
        except OSError as error:
            raise _unreachable(error) from None
        try:
            sock.setblocking(False)
            if window is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            if self._family != getattr(socket, "AF_UNIX", None):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex(self._address)
            if code == errno.EINPROGRESS:
                await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            else:
                await trio.lowlevel.checkpoint()
            if code:
                raise _unreachable(OSError(code, errno.errorcode.get(code, "?")))
            if tls and self._context is not None:
                return await self._secure(sock, self._context)
        except BaseException:
            sock.close()
            raise
        return SocketLine(sock)

    async def _secure(self, sock: socket.socket, context: ssl.SSLContext) -> Line:
        stream = trio.SSLStream(
            trio.SocketStream(trio.socket.from_stdlib_socket(sock)),
            context,
            server_hostname=self._server_name,
            https_compatible=True,
        )
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            raise Unreachable(f"TLS: {error.__cause__ or error}") from None
        return TlsLine(stream)


async def resolve(host: str, port: int, *, tls: bool) -> SocketNetwork:
    """Look an address up; raises Unreachable."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(f"{host}: {error.strerror or error}") from None
    family, _, _, _, address = found[0]
    return SocketNetwork(family, address, host if tls else None)


class SocketLine:
    """A plain TCP connection."""

    __slots__ = ("_closed", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._closed = False

    def send_now(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Broken(_name_of(error)) from None

    async def send(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while True:
            try:
                sent = self._sock.send(rest)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise Broken(_name_of(error)) from None
            if sent == len(rest):
                return
            rest = memoryview(rest)[sent:]
            await trio.lowlevel.wait_writable(self._sock)

    async def receive(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                return self._sock.recv(max_bytes)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
            except OSError as error:
                raise Broken(_name_of(error)) from None

    async def half_close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone already
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        if not self._closed:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            except OSError:
                pass  # macOS, once the peer is gone
            self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._sock.close()


class TlsLine:
    """A TLS connection over TCP; FIN and RST are those of TCP, without a close_notify."""

    __slots__ = ("_stream",)

    def __init__(self, stream: "trio.SSLStream[trio.SocketStream]") -> None:
        self._stream = stream

    @property
    def _sock(self) -> "trio.socket.SocketType":
        return self._stream.transport_stream.socket

    def send_now(self, data: bytes) -> int:
        return 0

    async def send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Broken(str(error.__cause__ or error)) from None

    async def receive(self, max_bytes: int) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Broken(str(error.__cause__ or error)) from None

    async def half_close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone already
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        except OSError:
            pass  # closed already
        self.close()

    def close(self) -> None:
        self._sock.close()


def open_files_allowed() -> float:
    """Raise this process's limit of descriptors as far as it goes, and return it."""
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # macOS, where "unlimited" is not to be had
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else float(soft)


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(error: OSError) -> Unreachable:
    code = error.errno
    return Unreachable(_name_of(error), refused=code in _REFUSED, ours=code in _OURS)


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
