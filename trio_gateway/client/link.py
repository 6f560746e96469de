"""One connection, from trio-websocket's client and with what it lacks.

In: a stream. Out: a ``WebSocketConnection`` while it lives, then one exception about its end. The
rules: the stream is closed by who opened it; a link that is silent for too long is a broken one;
whatever trio-websocket's reader raises ends this link and nothing else.
"""

import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

# Messages taken off the socket beforehand; the feed bounds the rest.
_READ_AHEAD = 16


class Lost(Exception):
    """A connection that ended, or was never made, for a reason that may pass.

    Attributes:
        why: for people.
        told: seconds that the server asks to wait, or None.
        jittered: whether it tells each client another time.
    """

    def __init__(self, why: str, told: float | None = None, *, jittered: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.told = told
        self.jittered = jittered


class Watched(trio.abc.Stream):
    """A stream that breaks when its peer is silent or takes nothing for too long.

    Arguments:
        stream: what is watched; it stays the caller's to close.
        send_timeout: seconds for one ``send_all()``.

    Attributes:
        heard: when the last bytes came, on Trio's clock.
    """

    def __init__(self, stream: trio.abc.Stream, send_timeout: float) -> None:
        self._stream = stream
        self._send_timeout = send_timeout
        self._silence = math.inf
        self._receiving = trio.CancelScope()
        self.heard = trio.current_time()

    def expect(self, seconds: float) -> None:
        """Break when nothing comes for so many seconds, from now on."""
        self._silence = seconds
        self._receiving.deadline = trio.current_time() + seconds

    async def send_all(self, data: Any) -> None:
        """Send; raises trio.BrokenResourceError after ``send_timeout`` too."""
        with trio.move_on_after(self._send_timeout) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the peer takes nothing")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as long as it takes."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive; raises trio.BrokenResourceError too when nothing comes for too long."""
        with trio.move_on_after(self._silence) as self._receiving:
            data = await self._stream.receive_some(max_bytes)
            self.heard = trio.current_time()
            return data
        raise trio.BrokenResourceError("the peer is silent")

    async def aclose(self) -> None:
        """Close at once, without what TLS would send."""
        await trio.aclose_forcefully(self._stream)


async def talk(
    stream: Watched,
    host: str,
    resource: str,
    use: Callable[[WebSocketConnection], Awaitable[None]],
    *,
    headers: list[tuple[bytes, bytes]],
    max_message_size: int,
) -> None:
    """Upgrade a stream and hand the connection to ``use``; has no deadline of its own.

    Arguments:
        stream: closed by the caller.
        host: for the ``Host`` header.
        resource: the request target.
        use: works with the connection; when it returns, the connection is dropped.
        headers: sent besides.
        max_message_size: characters of one message.

    Raises:
        ConnectionRejected: the server answered with another status than 101.
        Lost: there was no answer.
        Exception: whatever ``use`` raises.
    """
    begun = trio.Event()
    opening = trio.CancelScope()
    failures: list[Exception] = []

    async def read(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        try:
            async with trio.open_nursery() as reader:
                task_status.started(reader)
                await begun.wait()
        except* Exception as group:
            failures.extend(_leaves(group))
        opening.cancel()

    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        reader: trio.Nursery = await nursery.start(read)
        begun.set()
        connection: WebSocketConnection | None = None
        with opening:
            connection = await wrap_client_stream(
                reader,
                stream,  # type: ignore[arg-type]  # it takes any; its annotation is too narrow
                host,
                resource,
                extra_headers=headers,
                message_queue_size=_READ_AHEAD,
                max_message_size=max_message_size,
            )
        try:
            if connection is None:
                raise _unopened(failures)
            await use(connection)
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _unopened(failures: list[Exception]) -> Exception:
    for failure in failures:
        if isinstance(failure, ConnectionRejected):
            return failure
    return Lost("the server hung up during the handshake")


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
