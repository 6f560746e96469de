"""Bytes of the client side of RFC 6455, and sockets that have been upgraded.

In: a port, frames. Out: blocking sockets behind their upgrade and greetings, or ConnectionError
saying what came instead. Every wait here is bounded by the load client's own alarm.
"""

import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from ..job import ROOM, Job

TEXT = 0x1
CLOSE = 0x8
PING = 0x9
PONG = 0xA

_MASK = bytes.fromhex("37fa213d")
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python has no name for it
_BATCH = 50  # connects at once: under the smallest listen backlog of the peers, asyncio's 100


def client_frame(opcode: int, payload: bytes) -> bytes:
    """A final, masked frame. The mask is always the same: this client has nothing to hide."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    mask = (_MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload) ^ int.from_bytes(mask)
    return head + _MASK + masked.to_bytes(size)


CLOSE_FRAME = client_frame(CLOSE, b"\x03\xe8")


def frame_end(data: bytes, start: int) -> int:
    """Where the server's frame at ``start`` ends; 0 while it is not all there."""
    if len(data) < start + 2:
        return 0
    size = data[start + 1]
    end = start + 2
    if size == 126:
        end += 2
        size = int.from_bytes(data[start + 2 : end])
    elif size == 127:
        end += 8
        size = int.from_bytes(data[start + 2 : end])
    end += size
    return end if end <= len(data) else 0


def frames(data: bytes) -> Iterator[tuple[int, int]]:
    """The whole frames that ``data`` starts with, as (opcode, end)."""
    start = 0
    while end := frame_end(data, start):
        yield data[start] & 0x0F, end
        start = end


def pong(data: bytes, end: int) -> bytes:
    """The answer to the ping whose frame ends at ``end`` and starts ``data``."""
    return client_frame(PONG, data[2:end])


def upgrade_request(job: Job, number: int, room: str = ROOM) -> bytes:
    """An opening handshake for connection ``number``, which starts in a room."""
    return (
        f"GET {job.path.format(n=number, room=room)} HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{job.port}\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode("latin-1")


def dial(job: Job, first_bytes: bytes) -> socket.socket:
    """A connected blocking socket with ``first_bytes`` sent, in plain TCP."""
    sock = _connect(job)
    sock.send(first_bytes)
    return sock


def dial_all(job: Job, requests: Sequence[bytes]) -> Sequence[socket.socket]:
    """A connected blocking socket for each request, with it sent, through TLS where asked for."""
    if not job.tls:
        return [dial(job, request) for request in requests]
    # Every ClientHello is sent before the first answer is read: the server finds work waiting.
    sockets = [_say_hello(_connect(job)) for _ in requests]
    for sock, request in zip(sockets, requests, strict=True):
        sock.do_handshake()
        sock.send(request)
    return sockets


def _connect(job: Job) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if job.receive_buffer:
        hold(sock, job.receive_buffer)
    sock.connect(("127.0.0.1", job.port))
    return sock


def hold(sock: socket.socket, size: int) -> None:
    """Let the kernel hold so many bytes for a socket, or as many as it allows."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)  # over net.core.rmem_max
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _say_hello(sock: socket.socket) -> ssl.SSLSocket:
    secured = _tls().wrap_socket(sock, do_handshake_on_connect=False)
    secured.setblocking(False)
    try:
        secured.do_handshake()
    except ssl.SSLWantReadError:
        pass
    secured.setblocking(True)
    return secured


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate is the runner's own; what checking it costs would be the client's.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """The response head and what came behind it."""
    data = sock.recv(65536)
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError(f"the server closed during the handshake, after {data!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def expect_upgrade(sock: socket.socket) -> bytes:
    """Read a 101; what came behind it is returned."""
    head, rest = read_head(sock)
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"no upgrade but {head!r} {rest!r}")
    return rest


def read_greetings(sock: socket.socket, data: bytes, greetings: int) -> None:
    """Read on until the server has said all it says by itself."""
    while True:
        whole = list(frames(data))
        said = [opcode for opcode, _ in whole]
        end = whole[-1][1] if whole else 0
        if CLOSE in said or said.count(TEXT) > greetings:
            raise ConnectionError(f"expected {greetings} greetings, got {data!r}")
        if said.count(TEXT) == greetings and end == len(data):
            return
        more = sock.recv(65536)
        if not more:
            raise ConnectionError(f"the server closed while greeting, after {data!r}")
        data += more


def _one_room(_number: int) -> str:
    return ROOM


def open_connections(
    job: Job, count: int, first: int = 0, room: Callable[[int], str] = _one_room
) -> list[socket.socket]:
    """``count`` upgraded and greeted connections, numbered from ``first``, each in its room."""
    opened: list[socket.socket] = []
    while len(opened) < count:
        start = first + len(opened)
        numbers = range(start, min(start + _BATCH, first + count))
        batch = dial_all(job, [upgrade_request(job, each, room(each)) for each in numbers])
        for sock in batch:
            read_greetings(sock, expect_upgrade(sock), job.greetings)
        opened += batch
    return opened


def close_politely(sock: socket.socket) -> None:
    """Close handshake (RFC 6455 §7.1.2), then TCP."""
    sock.send(CLOSE_FRAME)
    read_close(sock)
    sock.close()


def read_close(sock: socket.socket, data: bytes = b"") -> bool:
    """Read to the server's Close frame; False when TCP ended without one."""
    while not any(opcode == CLOSE for opcode, _ in frames(data)):
        try:
            more = sock.recv(65536)
        except ConnectionResetError:
            return False
        if not more:
            return False
        data += more
    return True
