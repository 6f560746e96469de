"""A worker's line to the process that started it.

In: the parent's messages. Out: events, and questions and answers both ways. The rule: a worker
whose parent has gone drains, because nobody would ever stop it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from trio_gateway.cli.workers.control import Channel
from trio_gateway.http.ensemble import Carried, Ensemble

_ANSWER_TIMEOUT = 5.0  # the parent gives each worker less
Obey = Callable[[str, dict[str, Any]], Awaitable[None]]


@attrs.define(eq=False)
class _Question:
    texts: dict[int, str | None] = attrs.Factory(dict)
    carried: Carried | None = None
    answered: trio.Event = attrs.Factory(trio.Event)


class Line:
    """A worker's end of the channel, and what is said on it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.may_go = trio.Event()
        self._count = 0
        self._questions: dict[int, _Question] = {}
        self._ensemble: Ensemble | None = None

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
                case {"kind": "tell", "id": int(number), "what": str(what), "about": str(about)}:
                    told = None if self._ensemble is None else self._ensemble.tell(what, about)
                    await self.channel.send("told", id=number, text=told)
                case {"kind": "answer" | "answered", "id": int(number)}:
                    if (question := self._questions.get(number)) is not None:
                        _hear(question, message)
                case {"kind": "deaf" | "leave" | "stop" as kind}:
                    await obey(kind, message)
                case _:
                    pass
        await obey("leave", {})

    def join(self, ensemble: Ensemble) -> None:
        """Make this process one of several that answer as one."""
        self._ensemble = ensemble
        ensemble.carry = self._carry

    async def _carry(self, what: str, about: str) -> Carried | None:
        """Put a question to all workers; None if the parent does not see to it in time."""
        self._count += 1
        number = self._count
        self._questions[number] = question = _Question()
        try:
            with trio.move_on_after(_ANSWER_TIMEOUT):
                await self.channel.send("ask", id=number, what=what, about=about)
                await question.answered.wait()
            return question.carried
        finally:
            del self._questions[number]


def _hear(question: _Question, message: dict[str, Any]) -> None:
    match message:
        case {"kind": "answer", "pid": int(pid), "text": str() | None as text}:
            question.texts[pid] = text
        case {"kind": "answered", "workers": int(workers), "restarts": int(restarts)}:
            question.carried = Carried(question.texts, workers, restarts)
            question.answered.set()
        case _:
            pass
