"""Commands on their way: asked once, sent as often as it takes.

In: commands of any task, answers of any connection. Out: each command's answer to the task that
asked. The rule: a command is kept until it is answered, refused or given up; a new connection is
sent all that are kept, in the order they were asked.
"""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs
import msgspec
import trio

from trio_gateway.client.backoff import Backoff
from trio_gateway.client.errors import ClientError, CommandRefused
from trio_gateway.client.frames import AnyFrame, ErrorFrame, Frame

F = TypeVar("F", bound=Frame)


@attrs.define(eq=False)
class _Command:
    text: str
    answered: trio.Event = attrs.Factory(trio.Event)
    answer: AnyFrame | None = None


class Commands:
    """What was asked and is not answered yet.

    Arguments:
        backoff: makes the waits of one command that the server cannot obey now.
    """

    def __init__(self, backoff: Callable[[], Backoff]) -> None:
        self._backoff = backoff
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Command] = {}
        self._unsent: dict[int, _Command] = {}
        self._asked = trio.Event()
        self._error: ClientError | None = None

    async def ask(self, kind: type[F], type: str, **fields: Any) -> F:
        """Send a command and return its answer, over as many connections as it takes.

        Arguments:
            kind: of the answer.
            type: of the command.
            fields: of the command.

        If this is cancelled, the command may or may not have been obeyed.

        Raises:
            CommandRefused: it was not obeyed.
            ClientError: there will be no more connection.
        """
        backoff = self._backoff()
        while True:
            answer = await self._exchange(type, fields)
            if isinstance(answer, kind):
                return answer
            if not isinstance(answer, ErrorFrame):
                raise CommandRefused("unexpected_answer", f"the answer to {type} is none")
            if not answer.passes:
                raise CommandRefused(answer.code, answer.message, answer.field)
            await trio.sleep((answer.retry or 0) / 1000 + backoff.next())

    async def _exchange(self, type: str, fields: dict[str, Any]) -> AnyFrame:
        if self._error is not None:
            await trio.lowlevel.checkpoint()
            raise self._error
        number = next(self._ids)
        text = msgspec.json.encode({"type": type, "id": number, **fields}).decode()
        command = self._waiting[number] = self._unsent[number] = _Command(text)
        self._asked.set()
        try:
            await command.answered.wait()
        finally:
            self._waiting.pop(number, None)
            self._unsent.pop(number, None)
        if command.answer is None:
            assert self._error is not None
            raise self._error
        return command.answer

    async def send(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Send all that wait, and then what is asked, until cancelled; for each connection anew."""
        self._unsent = dict(self._waiting)
        while True:
            self._asked = trio.Event()
            while self._unsent:
                number = next(iter(self._unsent))
                await send(self._unsent.pop(number).text)
            await self._asked.wait()

    def answer(self, frame: AnyFrame) -> bool:
        """Hand an answer to who asked; return whether anybody did."""
        command = self._waiting.pop(frame.id, None) if isinstance(frame.id, int) else None
        if command is None:
            return False
        command.answer = frame
        command.answered.set()
        return True

    def fail(self, error: ClientError) -> None:
        """Raise ``error`` in all who wait or will ask."""
        self._error = error
        for command in self._waiting.values():
            command.answered.set()
