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

from trio_gateway import __version__
from trio_gateway.connection.frames import text_frame
from trio_gateway.errors import StoreUnavailable
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
    """Reads commands of the type ``_C`` and obeys them, one after the other."""

    def __init__(self, connection: ConnectionLike, user: str) -> None:
        self.connection = connection
        self.user = user

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
            await self.answer(message)

    async def answer(self, message: str | bytes) -> None:
        """Obey one message, or say why not."""
        if isinstance(message, bytes):
            problem = Problem("unsupported", "binary messages mean nothing here; send JSON text")
            await self.send(problem.encode())
            return
        command = self.decode(message)
        if isinstance(command, Problem):
            await self.send(command.encode())
        else:
            await self.attempt(self.obey(command), getattr(command, "id", None))

    async def attempt(self, work: Awaitable[None], id: Id | None = None) -> bool:
        """Await ``work``, turn its failure into an ``error`` frame, return whether it was done."""
        try:
            await work
        except Refused as error:
            await self.send(attrs.evolve(error.problem, id=id).encode())
        except InvalidField as error:
            await self.send(Problem("invalid_field", str(error), error.field, id).encode())
        except StoreUnavailable:
            await self.send(Problem("store_unavailable", STORE_UNAVAILABLE, None, id).encode())
        else:
            return True
        return False

    async def send(self, payload: bytes) -> None:
        """Reply with a text frame, waiting for room: who doesn't read its replies isn't read."""
        await self.connection.send_frame(text_frame(payload))


SERVER = f"trio-gateway/{__version__}"
STORE_UNAVAILABLE = "the store cannot be reached now; nothing was stored, try again"


class Refused(Exception):
    """A command that is right in itself and still may not be obeyed.

    Attributes:
        problem: the answer.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.problem = Problem(code, message)


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
