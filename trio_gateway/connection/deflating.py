"""The connection of a client with which permessage-deflate is agreed.

In: what a ``Connection`` takes. Out: the same messages, and data frames that are compressed where
that makes them shorter. The rules: what a read inflates to is bounded, as is all that waits for a
handler; a send compresses first and is then taken whole or not at all, as any other.
"""

from trio_gateway.connection.compression import InflatingDecoder, SharedDeflater
from trio_gateway.connection.connection import Connection, ConnectionDesk
from trio_gateway.handshake.head import RequestHead
from trio_gateway.settings import Heartbeat, Limits
from trio_gateway.transport.link import Link
from trio_gateway.transport.outbox import Lane, Verdict


class DeflatingConnection(Connection):
    """A ``Connection`` over permessage-deflate (RFC 7692); those without it pay nothing for it.

    Arguments:
        deflater: compresses what is sent, for all connections with the same agreement.
        limits: ``max_message_bytes`` holds for a message as it comes and as it is inflated.
    """

    __slots__ = ("_deflater", "_inflating")

    def __init__(
        self,
        deflater: SharedDeflater,
        link: Link,
        *,
        head: RequestHead,
        subprotocol: str | None,
        limits: Limits,
        heartbeat: Heartbeat,
        desk: ConnectionDesk,
    ) -> None:
        super().__init__(
            link, head=head, subprotocol=subprotocol, limits=limits, heartbeat=heartbeat, desk=desk
        )
        self._deflater = deflater
        self._decoder = self._inflating = InflatingDecoder(
            max_message_bytes=limits.max_message_bytes,
            max_fragments=limits.max_fragments,
            # So much fills the handler's queue, which is where reading pauses.
            max_inflated_bytes=limits.max_queued_bytes,
        )

    async def send_frame(self, frame: bytes) -> None:
        await super().send_frame(self._deflater.deflate(frame))

    def offer(self, frame: bytes, /) -> Verdict:
        return self._link.outbox.offer(self._deflater.deflate(frame))

    @property
    def lane(self) -> Lane:
        return self

    def disconnect(self, code: int, reason: str | None = None) -> None:
        super().disconnect(code, reason)
        # The peer's Close may be held back, behind messages that nobody wants now.
        self._inflating.forget()
        self._go_on()

    def feed(self, data: bytes) -> None:
        super().feed(data)
        while self._inflating.held_back and not self._paused:
            super().feed(b"")

    def feed_eof(self) -> None:
        if not self._inflating.held_back:
            super().feed_eof()

    def _read_on(self) -> None:
        self._paused = False
        self._go_on()
        if not self._paused:
            self._link.resume()

    def _go_on(self) -> None:
        """Read what was held back, and the end of file that had to wait for it."""
        if self._inflating.held_back:
            self.feed(b"")
            if self._link.eof:
                self.feed_eof()
