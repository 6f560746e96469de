"""Well-behaved connections of the storm's own: is somebody there, who is it, does it still accept?

In: a network and a target. Out: a ``Talk``, a ``Survey``, seconds. The rule: nothing here is rude.
"""

from collections.abc import Callable
from typing import Literal

import attrs
import trio

from trio_gateway.storm.faults import Profile
from trio_gateway.storm.octets import CLOSE, PING, PONG, close, frame, request, text
from trio_gateway.storm.reader import Message, Reader
from trio_gateway.storm.target import Target
from trio_gateway.storm.transport import Broken, Line, Network, Unreachable

Kind = Literal["chat", "echo", "ping", "mute"]
_WELCOME = 0.3
_ANSWER = 2.0
_READ = 65536
_CROWD = 8


class NoUpgrade(Exception):
    """A good handshake got something else; ``str()`` says what."""

    def __init__(self, status: int | str | None) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        if self.status is None:
            return "it hung up on a good WebSocket handshake"
        return f"it answered a good WebSocket handshake with {self.status}"


class Talk:
    """An upgraded connection; made by ``upgrade()``."""

    def __init__(self, line: Line, reader: Reader) -> None:
        self.line = line
        self.reader = reader

    async def send(self, data: bytes) -> None:
        """Send frames; raises Broken."""
        await self.line.send(data)

    async def read(self) -> bool:
        """Take what comes next, answer pings and Close; return False at the end."""
        try:
            data = await self.line.receive(_READ)
            if not data:
                return False
            self.reader.feed(data)
            answer = b"".join(frame(PONG, ping) for ping in self.reader.pings)
            self.reader.pings.clear()
            if self.reader.closing is not None:
                answer += frame(CLOSE, self.reader.closing)
                self.reader.closing = None
            if answer:
                await self.line.send(answer)
        except Broken:
            return False
        return not self.reader.complaints

    async def leave(self) -> None:
        """Close with 1000, wait a moment for the answer, hang up."""
        with trio.move_on_after(1.0, shield=True):
            try:
                if self.reader.close is None:
                    await self.line.send(close(1000))
                while self.reader.close is None and await self.read():
                    pass
            except Broken:
                pass
        self.line.close()


async def upgrade(
    network: Network,
    target: Target,
    path: str | None = None,
    on_message: Callable[[Message], None] | None = None,
) -> Talk:
    """Open a WebSocket. Has no deadline; a cancelled one is closed.

    Raises:
        Unreachable: there is no connection.
        NoUpgrade: the answer is no 101.
    """
    reader = Reader(on_message)
    asked = path or target.path
    line = await network.connect(tls=True, window=None)
    try:
        data = request(line=b"GET %s HTTP/1.1" % asked.encode("latin-1"))
        await line.send(data.replace(b"{authority}", target.authority.encode("latin-1")))
        while not reader.upgraded and not reader.answers and not reader.complaints:
            received = await line.receive(_READ)
            if not received:
                break
            reader.feed(received)
    except Broken:
        pass
    except BaseException:
        line.close()
        raise
    if not reader.upgraded:
        line.close()
        raise NoUpgrade(reader.status)
    return Talk(line, reader)


async def accept_once(network: Network, target: Target, within: float) -> float:
    """Upgrade and leave; return the seconds to the 101.

    Raises:
        Unreachable, NoUpgrade, trio.TooSlowError: it was not accepted, or not in time.
    """
    begun = trio.current_time()
    with trio.fail_after(within):
        talk = await upgrade(network, target)
    seconds = trio.current_time() - begun
    await talk.leave()
    return seconds


async def crowd(network: Network, target: Target, within: float) -> tuple[int, Exception | None]:
    """Open a few good connections at once, and leave.

    Returns:
        How many there were, and what went wrong with one of the others.
    """
    talks: list[Talk] = []
    wrong: list[Exception] = []

    async def join() -> None:
        try:
            with trio.fail_after(within):
                talks.append(await upgrade(network, target))
        except (Unreachable, NoUpgrade, trio.TooSlowError) as error:
            wrong.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(_CROWD):
            nursery.start_soon(join)
    async with trio.open_nursery() as nursery:
        for talk in talks:
            nursery.start_soon(talk.leave)
    return len(talks), wrong[0] if wrong else None


@attrs.frozen
class Survey:
    """Who is there.

    Attributes:
        profile: what it promises.
        kind: what a control connection can do with it.
    """

    profile: Profile
    kind: Kind


async def survey(network: Network, target: Target, within: float = 10.0) -> Survey:
    """Find out what is at a target.

    A welcome of this package's chat makes it ``gateway`` and ``chat``. Elsewhere a text is sent: if
    it comes back, alone or in something, the server is an ``echo``; if a ping is answered, that
    has to do; else it is ``mute``, and control connections are only held.

    Raises:
        Unreachable, NoUpgrade, trio.TooSlowError: there is no WebSocket to be had.
    """
    heard: list[str] = []

    def hear(message: Message) -> None:
        heard.append(message if isinstance(message, str) else message.decode("latin-1"))

    with trio.fail_after(within):
        talk = await upgrade(network, target, on_message=hear)

    async def comes(condition: Callable[[], bool], seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while not condition() and await talk.read():
                pass
        return condition()

    try:
        if await comes(lambda: bool(heard), _WELCOME) and '"server":"trio-gateway/' in heard[0]:
            chat = '"type":"welcome"' in heard[0] and '"room":' in heard[0]
            return Survey("gateway", "chat" if chat else "ping")
        word = "storm survey"
        await talk.send(text(word))
        if await comes(lambda: any(word in message for message in heard), _ANSWER):
            return Survey("any", "echo")
        await talk.send(frame(PING, b"storm"))
        if await comes(lambda: talk.reader.pongs > 0, _ANSWER):
            return Survey("any", "ping")
    except Broken:
        pass
    finally:
        await talk.leave()
    return Survey("any", "mute")


__all__ = [
    "NoUpgrade",
    "Survey",
    "Talk",
    "Unreachable",
    "accept_once",
    "crowd",
    "survey",
    "upgrade",
]
