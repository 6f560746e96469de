"""Request heads, read from bytes as they are in life."""

from trio_gateway.handshake.head import HeadReader, RequestHead

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3


def handshake(*fields: bytes, target: str = "/") -> bytes:
    """Return an opening handshake with further fields."""
    return b"\r\n".join(
        (
            b"GET " + target.encode("ascii") + b" HTTP/1.1",
            b"Host: gateway.test",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Key: " + KEY,
            b"Sec-WebSocket-Version: 13",
            *fields,
            b"\r\n",
        )
    )


def read_head(request: bytes) -> RequestHead:
    """Return the head that ``request`` begins with."""
    head = HeadReader().feed(request)
    assert isinstance(head, RequestHead)
    return head
