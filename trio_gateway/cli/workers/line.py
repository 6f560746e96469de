"""A worker's line to the process that started it.

In: the parent's messages. Out: events, and answers about metrics. The rule: a worker whose parent
has gone drains, because nobody would ever stop it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from trio_gateway.cli.workers.control import Channel
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.messages import HttpHandler, HttpRequest, HttpResponse

_SUM_TIMEOUT = 2.0
_METRICS = HttpRequest(
    method="GET", path="/metrics", query={}, headers={}, body=b"", remote="127.0.0.1"
)
Obey = Callable[[str, dict[str, Any]], Awaitable[None]]


class Line:
    """A worker's end of the channel, and what is said on it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.may_go = trio.Event()
        self._count = 0
        self._waiting: dict[int, trio.MemorySendChannel[str]] = {}
        self._local: HttpHandler | None = None

    async def run(self, obey: Obey) -> None:
        """Follow the parent until it has gone.

        Arguments:
            obey: called with ``deaf``, ``leave`` and ``stop``, and what they come with; when the
                parent has gone, with a ``leave``.
        """
        while (message := await self.channel.receive()) is not None:
            match message:
                case {"kind": "go"}:
                    self.may_go.set()
                case {"kind": "ping"}:
                    await self.channel.send("pong")
                case {"kind": "tell", "id": int(number)}:
                    await self.channel.send("told", id=number, text=await self._own())
                case {"kind": "answer", "id": int(number), "text": str(text)}:
                    if (waiting := self._waiting.get(number)) is not None:
                        waiting.send_nowait(text)
                case {"kind": "deaf" | "leave" | "stop" as kind}:
                    await obey(kind, message)
                case _:
                    pass
        await obey("leave", {})

    def summing(self, http: HttpHandler) -> HttpHandler:
        """Return a handler that is ``http``, but tells the metrics of all workers."""
        self._local = http

        async def answer(request: HttpRequest) -> HttpResponse | Refusal | None:
            own = await http(request)
            if request.path != _METRICS.path or not isinstance(own, HttpResponse):
                return own
            total = await self._total()
            return own if total is None else attrs.evolve(own, body=total.encode())

        return answer

    async def _own(self) -> str:
        own = None if self._local is None else await self._local(_METRICS)
        return own.body.decode() if isinstance(own, HttpResponse) else ""

    async def _total(self) -> str | None:
        """Return the sum of all workers' metrics; None if nobody tells in time."""
        self._count += 1
        number = self._count
        send, receive = trio.open_memory_channel[str](1)
        self._waiting[number] = send
        try:
            with trio.move_on_after(_SUM_TIMEOUT):
                await self.channel.send("ask", id=number)
                return await receive.receive()
            return None
        finally:
            del self._waiting[number]
