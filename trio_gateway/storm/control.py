"""Control connections: healthy clients that live through the storm and must notice nothing.

In: a network, what the server can do. Out: latencies, findings. The rules: one message is under way
at a time; it comes back once, within the bound, on a connection that nobody ends; while the server
is being restarted they wait and come again.
"""

import json
from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from trio_gateway.storm.octets import PING, frame, text
from trio_gateway.storm.oracle import Bounds
from trio_gateway.storm.probe import Kind, NoUpgrade, Talk, upgrade
from trio_gateway.storm.reader import Message
from trio_gateway.storm.target import Target
from trio_gateway.storm.transport import Broken, Network, Unreachable

_INTERVAL = 0.05
_AGAIN = 0.2


class Watcher(Protocol):
    """Who is told."""

    bounds: Bounds

    @property
    def excused(self) -> bool:
        """Whether the server is known to be gone, or on its way back."""
        ...

    def lag_since(self, second: float, /) -> float:
        """Return how many seconds this process itself was late since ``second`` of Trio's clock."""
        ...

    def control(self, latency: float) -> None:
        """A message came back after so many seconds."""
        ...

    def lost(self, rule: str, message: str) -> None:
        """A rule was broken."""
        ...


@attrs.define(eq=False)
class Control:
    """One of them.

    Arguments:
        number: which.
        kind: what the server can do.
        tag: of this storm, so that nobody else's message passes for ours.
        interval: seconds from a message's return to the next.
    """

    number: int
    kind: Kind
    tag: str
    network: Network
    target: Target
    watcher: Watcher
    interval: float = _INTERVAL
    _sent: int = 0
    _back: int = 0
    _twice: bool = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Talk until cancelled; started once it is connected, or has said that it cannot be."""
        while True:
            try:
                with trio.fail_after(self.watcher.bounds.accept):
                    talk = await upgrade(self.network, self.target, self._path(), self._hear)
            except (Unreachable, NoUpgrade, trio.TooSlowError) as error:
                if not self.watcher.excused:
                    self.watcher.lost(
                        "control-lost", f"it cannot connect: {str(error) or 'too slow'}"
                    )
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await trio.sleep(_AGAIN)
                continue
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            try:
                await self._talk(talk)
            finally:
                await talk.leave()
            await trio.sleep(_AGAIN)

    def _path(self) -> str:
        if self.kind != "chat":
            return self.target.path
        # The same in every storm: a room of each storm's own would be kept by the server's history.
        name = f"storm-control-{self.number}"
        return self.target.with_query(f"user={name}&room={name}")

    async def _talk(self, talk: Talk) -> None:
        self._sent = self._back = talk.reader.pongs
        while True:
            begun = trio.current_time()
            self._sent += 1
            try:
                await self._say(talk)
            except Broken:
                self._ended(talk)
                return
            if not await self._comes_back(talk):
                return
            if self.kind != "mute":
                self.watcher.control(trio.current_time() - begun)
            if self._twice and self.kind == "chat":  # others may echo and acknowledge
                self.watcher.lost("control-twice", "a message came back twice")
                return
            with trio.move_on_after(self.interval):
                if not await self._while_open(talk, lambda: False):
                    return

    async def _say(self, talk: Talk) -> None:
        match self.kind:
            case "chat":
                command = {"type": "message", "text": self._word(self._sent)}
                await talk.send(text(json.dumps(command)))
            case "echo":
                await talk.send(text(self._word(self._sent)))
            case "ping":
                await talk.send(frame(PING, b"storm"))
            case "mute":
                self._back = self._sent

    def _word(self, number: int) -> str:
        return f"storm {self.tag}/{self.number}/{number}/"

    def _hear(self, message: Message) -> None:
        words = message if isinstance(message, str) else message.decode("latin-1")
        if self._word(self._sent) in words:
            self._twice = self._twice or self._back == self._sent
            self._back = self._sent
        elif self._sent > 1 and self._word(self._sent - 1) in words:
            self._twice = True

    async def _comes_back(self, talk: Talk) -> bool:
        def back() -> bool:
            return self._back >= self._sent or (
                self.kind == "ping" and talk.reader.pongs >= self._sent
            )

        begun, bound = trio.current_time(), self.watcher.bounds.control
        with trio.move_on_after(bound) as scope:
            if not await self._while_open(talk, back):
                return False
        if scope.cancelled_caught and not back():
            if not self.watcher.excused and self.watcher.lag_since(begun) < bound / 2:
                self.watcher.lost(
                    "control-lost",
                    f"the {self.kind} of a healthy client is not back in {bound:g} s",
                )
            return False
        return True

    async def _while_open(self, talk: Talk, done: Callable[[], bool]) -> bool:
        while not done():
            if not await talk.read() or talk.reader.close is not None:
                self._ended(talk)
                return False
        return True

    def _ended(self, talk: Talk) -> None:
        for complaint in talk.reader.complaints:
            self.watcher.lost(complaint.rule, f"a healthy client: {complaint.message}")
        if not self.watcher.excused and not talk.reader.complaints:
            code = talk.reader.close
            how = "without a Close" if code is None else f"with {code}"
            self.watcher.lost("control-lost", f"a healthy client's connection was ended {how}")
