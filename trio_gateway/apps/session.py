"""One connection of an application: commands in, replies out.

In: the messages of a connection. Out: replies on the same connection, in the order of the
commands. The rule: whatever a client sends gets its answer and leaves the connection open; only the
end of the connection, or cancellation, ends a session.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

import attrs
import msgspec
import trio

from trio_gateway import __version__
from trio_gateway.apps.limits import ClientLimits, Meter
from trio_gateway.connection.frames import text_frame
from trio_gateway.errors import CloseCode, StoreUnavailable
from trio_gateway.handshake.authentication import Action, Authenticate, Authorize, Identity
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.hub.broker import Publication
from trio_gateway.hub.topics import Subscriber
from trio_gateway.wire import Id, InvalidField, Problem


class ConnectionLike(Subscriber, Protocol):
    """What the applications need of a ``Connection``."""

    @property
    def id(self) -> str:
        """Unique and short."""
        ...

    def send_frame(self, frame: bytes) -> Awaitable[None]:
        """Queue a whole frame once there is room; raises ConnectionClosed."""
        ...

    def aclose(self, code: int = 1000, reason: str | None = None) -> Awaitable[None]:
        """Close, with a Close frame."""
        ...

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Iterate over the messages until the connection ends."""
        ...


class UpgradeLike(Protocol):
    """What the applications need of an ``Upgrade``."""

    @property
    def query(self) -> Mapping[str, str]:
        """The query string, percent-decoded."""
        ...

    @property
    def identity(self) -> Identity | None:
        """Who it is for, where that is known."""
        ...

    def identify(self, authenticate: Authenticate) -> Awaitable[Identity | Refusal]:
        """Find out who it is for, within a deadline."""
        ...

    def accept(self) -> Awaitable[ConnectionLike]:
        """Answer 101."""
        ...

    def reject(
        self,
        status_code: int,
        *,
        extra_headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes | None = None,
    ) -> Awaitable[None]:
        """Answer with an HTTP refusal."""
        ...


_C = TypeVar("_C")


class Session(ABC, Generic[_C]):
    """Reads commands of the type ``_C`` and obeys them, one after the other.

    Attributes:
        identity: who it speaks for.
        user: their name.
        limits: how much the client may ask; None for as much as it likes.
    """

    limits: ClientLimits | None = None
    _meter: Meter | None = None  # made with the first message: many only listen

    def __init__(
        self, connection: ConnectionLike, identity: Identity, authorize: Authorize
    ) -> None:
        self.connection = connection
        self.identity = identity
        self.user = identity.user
        self._authorize = authorize
        self._unsettled: list[tuple[Callable[[], Awaitable[None]], Id | None]] = []

    @abstractmethod
    def decode(self, text: str) -> _C | Problem:
        """Read a text frame; never raises."""

    @abstractmethod
    async def obey(self, command: _C) -> None:
        """Do what a command says and reply.

        May raise ``Refused`` or ``InvalidField`` (nothing was done) and ``StoreUnavailable``.
        """

    async def run(self) -> None:
        """Serve the connection until it ends; raises ConnectionClosed when it ends in a reply."""
        async for message in self.connection:
            if self.limits is None or await self._admit(self._metered(self.limits), message):
                await self.answer(message)
            if self._unsettled and (
                len(self._unsettled) >= _MAX_UNSETTLED
                or not getattr(self.connection, "unread", 0)  # whatever can't tell has none
            ):
                await self.settle()

    def later(self, work: Callable[[], Awaitable[None]], id: Id | None) -> None:
        """Finish a command when no more of its kind are at hand: their waits are one wait."""
        self._unsettled.append((work, id))

    async def settle(self) -> None:
        """Finish what was left for later, in its order."""
        unsettled, self._unsettled = self._unsettled, []
        for work, id in unsettled:
            await self.attempt(work(), id)

    def overlaps(self, command: _C) -> bool:
        """Whether a command may be obeyed before those that were left for later are finished."""
        return False

    async def answer(self, message: str | bytes) -> None:
        """Obey one message, or say why not."""
        if isinstance(message, bytes):
            await self.settle()
            problem = Problem("unsupported", "binary messages mean nothing here; send JSON text")
            await self.send(problem.encode())
            return
        command = self.decode(message)
        if self._unsettled and (isinstance(command, Problem) or not self.overlaps(command)):
            await self.settle()
        if isinstance(command, Problem):
            await self.send(command.encode())
        else:
            await self.attempt(self.obey(command), getattr(command, "id", None))

    def check_join(self) -> None:
        """Raise Refused where this would be one join too many for now."""
        if self.limits is not None:
            wait = self._metered(self.limits).take_join(trio.current_time())
            if wait:
                raise Refused("rate_limited", "too many joins; join again later", retry=wait)

    def _metered(self, limits: ClientLimits) -> Meter:
        if self._meter is None:
            self._meter = Meter(limits, self.user)
        return self._meter

    async def _admit(self, meter: Meter, message: str | bytes) -> bool:
        """Count a message; False when it was one too many, and that has been told."""
        now = trio.current_time()
        if pause := meter.spend_bytes(now, message):
            await trio.sleep(pause)
            now = trio.current_time()
        wait = meter.take_message(now)
        if not wait:
            return True
        await self.settle()
        if meter.take_refusal(now):
            command = None if isinstance(message, bytes) else self.decode(message)
            problem = Refused("rate_limited", "too many messages; send it again later", retry=wait)
            await self.send(attrs.evolve(problem.problem, id=getattr(command, "id", None)).encode())
        else:
            await self.connection.aclose(CloseCode.RATE, f"retry {_milliseconds(meter.recovery)}")
        return False

    async def attempt(self, work: Awaitable[None], id: Id | None = None) -> bool:
        """Await ``work``, turn its failure into an ``error`` frame, return whether it was done."""
        try:
            await work
        except Refused as error:
            await self.settle()
            await self.send(attrs.evolve(error.problem, id=id).encode())
        except InvalidField as error:
            await self.settle()
            await self.send(Problem("invalid_field", str(error), error.field, id).encode())
        except StoreUnavailable:
            await self.settle()
            await self.send(Problem("store_unavailable", STORE_UNAVAILABLE, None, id).encode())
        else:
            return True
        return False

    async def check(self, action: Action, topic: str) -> None:
        """Raise Refused unless the user may do this with a topic of the hub."""
        if not await self._authorize(self.identity, action, topic):
            raise Refused("forbidden", forbidden(action, topic))

    async def send(self, payload: bytes) -> None:
        """Reply with a text frame, waiting for room: who doesn't read its replies isn't read."""
        await self.connection.send_frame(text_frame(payload))


SERVER = f"trio-gateway/{__version__}"
_MAX_UNSETTLED = 64  # commands of one connection on their way into the store
_DOING = {
    Action.CONNECT: "connect to",
    Action.SUBSCRIBE: "join",
    Action.PUBLISH: "publish to",
    Action.READ: "read",
}
STORE_UNAVAILABLE = "the store cannot be reached now; nothing was stored, try again"


class Refused(Exception):
    """A command that is right in itself and still may not be obeyed.

    Attributes:
        problem: the answer.
    """

    def __init__(self, code: str, message: str, *, retry: float | None = None) -> None:
        super().__init__(code, message)
        self.problem = Problem(code, message, retry=None if retry is None else _milliseconds(retry))


def _milliseconds(seconds: float) -> int:
    """Return seconds as a client counts them, never too few."""
    return max(1, math.ceil(seconds * 1000 - 1e-6))


def forbidden(action: Action, topic: str) -> str:
    """Return the sentence that says no."""
    name = topic.partition(":")[2] or topic
    return f"you may not {_DOING[action]} {name!r}"


async def first_refusal(
    authorize: Authorize, identity: Identity, *wanted: tuple[Action, str]
) -> Refusal | None:
    """Return a 403 for the first of these that the user may not do; None for none."""
    for action, topic in wanted:
        if not await authorize(identity, action, topic):
            return Refusal(403, "forbidden", forbidden(action, topic))
    return None


async def refuse(upgrade: UpgradeLike, refusal: Refusal) -> None:
    """Reject an upgrade with a refusal's status, headers and JSON body."""
    body = msgspec.json.encode({"error": refusal.error, "message": refusal.message}) + b"\n"
    headers = [
        (b"Content-Type", b"application/json"),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in refusal.headers),
    ]
    await upgrade.reject(refusal.status, extra_headers=headers, body=body)


def newest_that_fit(
    publications: Sequence[Publication], encode: Callable[[Publication], bytes], max_bytes: int
) -> tuple[list[bytes], bool]:
    """Encode the newest publications that fit into ``max_bytes``, one at the least.

    Returns them oldest first, and whether older ones had to be left out.
    """
    encoded: list[bytes] = []
    size = 0
    for publication in reversed(publications):
        item = encode(publication)
        size += len(item)
        if encoded and size > max_bytes:
            break
        encoded.append(item)
    encoded.reverse()
    return encoded, len(encoded) < len(publications)


def timestamp(clock: float) -> str:
    """Return seconds since 1970 as RFC 3339 has it, in UTC, with milliseconds."""
    return datetime.fromtimestamp(clock, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def seconds(interval: float) -> float:
    """Return an interval as JSON can say it: 0 for one that never ends."""
    if math.isinf(interval):
        return 0
    return int(interval) if interval == int(interval) else interval
