"""The floor: an epoll loop of system calls and next to nothing of WebSocket.

It answers any request with a 101 and takes whatever follows for masked frames of up to 64 KiB, so
it is no server. What it costs is what the kernel and CPython ask of anybody.
"""

import base64
import hashlib
import select
import socket

from .announce import listening, role

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE = b"\x88\x02\x03\xe8"


def main() -> None:
    broadcast = role() == "broadcast"
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    listening(listener.getsockname()[1])
    poller = select.epoll()
    poller.register(listener.fileno(), select.EPOLLIN)
    opening: dict[int, socket.socket] = {}
    upgraded: dict[int, socket.socket] = {}
    parts: dict[int, bytearray] = {}  # frames that have come in half
    buffer = bytearray(65536)
    while True:
        for fd, _ in poller.poll():
            if fd in upgraded:
                sock = upgraded[fd]
                try:
                    size = sock.recv_into(buffer)
                    data = parts.pop(fd) + buffer[:size] if fd in parts else buffer[:size]
                    if not size or data[0] & 0x0F == 8:
                        if size:
                            sock.send(_CLOSE)
                        del upgraded[fd]
                        sock.close()
                        continue
                except ConnectionError:
                    del upgraded[fd]
                    sock.close()
                    continue
                answers, rest = _answers(data)
                if rest:
                    parts[fd] = rest
                targets = list(upgraded.values()) if broadcast else [sock]
                for frame in answers:
                    for target in targets:
                        target.send(frame)
            elif fd in opening:
                sock = opening[fd]
                request = sock.recv(65536)
                if request.endswith(b"\r\n\r\n"):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.send(_switching_protocols(request))
                    upgraded[fd] = opening.pop(fd)
                elif not request:
                    del opening[fd]
                    sock.close()
            else:
                sock, _peer = listener.accept()
                sock.setblocking(False)
                opening[sock.fileno()] = sock
                poller.register(sock.fileno(), select.EPOLLIN)


def _switching_protocols(request: bytes) -> bytes:
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def _answers(data: bytearray) -> tuple[list[bytes], bytearray]:
    """The unmasked frame for every whole masked one, and what is behind them."""
    found = []
    start = 0
    while len(data) > start + 8:
        length = data[start + 1] & 0x7F
        mask_at = start + 2
        if length == 126:
            length = int.from_bytes(data[start + 2 : start + 4])
            mask_at = start + 4
        payload_at = mask_at + 4
        end = payload_at + length
        if end > len(data):
            break
        mask = int.from_bytes((data[mask_at:payload_at] * (length // 4 + 1))[:length])
        found.append(_unmasked((int.from_bytes(data[payload_at:end]) ^ mask).to_bytes(length)))
        start = end
    return found, data[start:]


def _unmasked(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    return b"\x81\x7e" + size.to_bytes(2) + payload


if __name__ == "__main__":
    main()
