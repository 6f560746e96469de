"""Several processes that answer an operator as one.

In: a question by name, with what it is about. Out: what each process says, and which said nothing.
The rules: a question is answered by the process that it reached and by its siblings in the same
way; nobody waits longer for an answer than the carrier's deadline; where there is but one process,
nothing is carried.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import msgspec
import trio

_log = logging.getLogger("trio_gateway")

Teller = Callable[[Mapping[str, Any]], Any]
"""Answers for this process alone, without waiting: from what is asked about to JSON's values."""


@attrs.frozen
class Carried:
    """What came back.

    Attributes:
        texts: what each process said, by its id; None for one that did not in time.
        workers: how many there are, those that come up included.
        restarts: how many were started in the place of a dead one.
    """

    texts: Mapping[int, str | None]
    workers: int
    restarts: int


Carry = Callable[[str, str], Awaitable[Carried | None]]
"""Brings a question, by name and text, to all processes; None where nobody can bring it now."""


@attrs.frozen
class Answers:
    """What all have said.

    Attributes:
        said: each process's answer, by its id.
        silent: the ids of those that live and did not answer in time.
        workers: how many there are; None where this process is the only one.
        restarts: as ``Carried`` has it.
    """

    said: Mapping[int, Any]
    silent: Sequence[int] = ()
    workers: int | None = None
    restarts: int = 0

    def mark(self, value: dict[str, Any]) -> dict[str, Any]:
        """Add to an answer who is missing in it, as ``incomplete``, where somebody is."""
        return {**value, "incomplete": list(self.silent)} if self.silent else value


class Ensemble:
    """The processes that serve an address together; at first this one alone.

    Attributes:
        carry: brings questions to all of them, this one included; None for one process.
    """

    def __init__(self) -> None:
        self.carry: Carry | None = None
        self._tellers: dict[str, Teller] = {}

    def teach(self, what: str, teller: Teller) -> None:
        """Have a question answered for this process by ``teller``."""
        self._tellers[what] = teller

    def tell(self, what: str, about: str) -> str | None:
        """Answer for this process alone; None where it cannot.

        Arguments:
            what: the name of the question; another version of this program may have others.
            about: what is asked about, as ``ask`` has had it carried.
        """
        teller = self._tellers.get(what)
        if teller is None:
            return None
        try:
            return msgspec.json.encode(teller(msgspec.json.decode(about))).decode()
        except Exception:
            _log.exception("a worker cannot tell its %s", what)
            return None

    async def ask(self, what: str, **about: Any) -> Answers:
        """Ask all, and wait for those that answer in time.

        Arguments:
            what: a name that was taught to every one of them.
            about: JSON's values.

        Returns:
            What they say. Where nothing can be carried, what this process says, and its parent is
            the silent one.

        Cancelled: they may have been asked.
        """
        if self.carry is None:
            await trio.lowlevel.checkpoint_if_cancelled()
            return Answers({os.getpid(): self._tellers[what](about)})
        text = msgspec.json.encode(about).decode()
        carried = await self.carry(what, text)
        if carried is None:
            return Answers({os.getpid(): self._tellers[what](about)}, (os.getppid(),))
        return Answers(
            {pid: msgspec.json.decode(text) for pid, text in carried.texts.items() if text},
            tuple(pid for pid, text in carried.texts.items() if not text),
            carried.workers,
            carried.restarts,
        )
