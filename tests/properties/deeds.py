"""What handlers do, deed by deed, and what they must find on the way.

In: an upgrade and a script. Out: a record of what was decided, sent and received. The rule: what a
handler finds wrong is written down, because whatever it raises stays on its connection.
"""

from collections.abc import Awaitable, Callable

import attrs
import trio
from trio_websocket import ConnectionClosed

from tests.properties.programs import DEEDS, MAX_MESSAGE_BYTES, Client, HandlerScript
from trio_gateway import (
    Connection,
    InvalidResponse,
    Upgrade,
    UpgradeAlreadyDecided,
    UpgradeState,
)


@attrs.define
class Record:
    """What became of one client and its handler.

    Attributes:
        received: the bytes the client got, and when.
        sent_all: the client could send all it had.
        ended: the client saw the end of its connection.
        runs: how often a handler was called for it.
        accepts: successful calls of ``accept()``.
        rejects: of ``reject()``.
        messages_in: what the handler received.
        messages_out: what it sent.
        hangs: the handler has decided, and waits for ever.
        fate: how the handler ended.
        wrong: what should not have happened.
    """

    client: Client
    script: HandlerScript
    received: list[tuple[float, bytes]] = attrs.Factory(list)
    sent_all: bool = True
    ended: bool = False
    runs: int = 0
    accepts: int = 0
    rejects: int = 0
    messages_in: list[str | bytes] = attrs.Factory(list)
    messages_out: list[str | bytes] = attrs.Factory(list)
    hangs: bool = False
    fate: str = ""
    wrong: list[str] = attrs.Factory(list)

    @property
    def dropped(self) -> bool:
        """Whether the handler cancelled its own ``aclose()``, which then drops the socket."""
        return self.fate == "cancelled" and "close" in self.script.deeds

    @property
    def wire(self) -> bytes:
        """All bytes the client got."""
        return b"".join(data for _, data in self.received)


class Actor:
    """One run of a handler."""

    def __init__(self, upgrade: Upgrade, record: Record) -> None:
        self._upgrade = upgrade
        self._record = record
        self._connection: Connection | None = None

    async def act(self) -> None:
        """Do all deeds of the script."""
        self._record.runs += 1
        self._record.fate = "cancelled"
        try:
            for deed in self._record.script.deeds:
                await self._do(deed)
        except Exception:
            self._record.fate = "failed"
            raise
        self._record.fate = "returned"

    async def _do(self, deed: str) -> None:
        try:
            await _DEEDS[deed](self)
        except (UpgradeAlreadyDecided, ConnectionClosed):
            if not self._record.script.careful:
                raise

    # Decisions.

    async def accept(self) -> None:
        before = self._upgrade.state
        connection = await self._upgrade.accept()
        self._record.accepts += 1
        self._note(before is UpgradeState.PENDING, f"accepted when {before}")
        self._note(self._connection is None, "accepted twice")
        self._connection = connection

    async def accept_badly(self) -> None:
        await self._decide_badly(lambda: self._upgrade.accept(subprotocol="not offered"))

    async def reject(self) -> None:
        before = self._upgrade.state
        await self._upgrade.reject(403)
        self._record.rejects += 1
        self._note(before is UpgradeState.PENDING, f"rejected when {before}")

    async def reject_badly(self) -> None:
        await self._decide_badly(lambda: self._upgrade.reject(101))

    async def race(self) -> None:
        """Decide in two ways at once."""

        async def attempt(decide: Callable[[], Awaitable[None]]) -> None:
            try:
                await decide()
            except UpgradeAlreadyDecided as error:
                self._note(error.state is not UpgradeState.PENDING, "lost to nobody")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, self.accept)
            nursery.start_soon(attempt, self.reject)

    async def cancel_itself(self) -> None:
        before = self._upgrade.state
        with trio.CancelScope() as scope:
            scope.cancel()
            await self._upgrade.accept()
        self._note(scope.cancelled_caught, "accepted although cancelled")
        self._note(before is self._upgrade.state, "decided although cancelled")

    async def cancel_its_nursery(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.accept)
            nursery.start_soon(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    async def cancel_its_scope(self) -> None:
        self._upgrade.scope.cancel()

    # Time, and failures.

    async def wait(self) -> None:
        await trio.sleep(1)

    async def hang(self) -> None:
        # Before its decision the gateway would end it.
        self._record.hangs = bool(self._record.accepts or self._record.rejects)
        try:
            await trio.sleep_forever()
        finally:
            self._record.hangs = False

    async def swallow(self) -> None:
        """Wait, and take no notice of being cancelled."""
        try:
            await trio.sleep(2)
        except BaseException:  # what careless handlers do
            return

    async def fail(self) -> None:
        raise RuntimeError("fails")

    async def fail_in_a_group(self) -> None:
        raise ExceptionGroup("fail", [RuntimeError("one"), ExceptionGroup("", [ValueError()])])

    async def stray_cancelled(self) -> None:
        """Raise a Cancelled out of the scope it belongs to."""
        kept: trio.Cancelled | None = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                kept = error
        if kept is not None:
            raise kept

    async def crash_its_nursery(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.fail)
            await trio.sleep_forever()

    # With a connection; without one there is nothing to do.

    async def echo(self) -> None:
        if self._connection is not None:
            async for message in self._connection:
                self._record.messages_in.append(message)
                await self._send(self._connection, message)

    async def read(self) -> None:
        if self._connection is not None:
            self._record.messages_in.append(await self._connection.get_message())

    async def send(self) -> None:
        if self._connection is not None:
            await self._send(self._connection, "from the handler")

    async def send_much(self) -> None:
        if self._connection is not None:
            for number in range(20):
                await self._send(self._connection, bytes([number]) * MAX_MESSAGE_BYTES)

    async def ping(self) -> None:
        if self._connection is not None:
            with trio.move_on_after(1):
                await self._connection.ping(b"from the handler")

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.aclose(4000, "done")

    async def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.disconnect(4001, "enough")

    async def _send(self, connection: Connection, message: str | bytes) -> None:
        await connection.send_message(message)
        self._record.messages_out.append(message)

    async def _decide_badly(self, decide: Callable[[], Awaitable[object]]) -> None:
        before = self._upgrade.state
        try:
            await decide()
        except InvalidResponse:
            self._note(before is self._upgrade.state, "decided by a bad decision")
        else:
            self._note(False, "a bad decision went through")

    def _note(self, right: bool, wrong: str) -> None:
        if not right:
            self._record.wrong.append(wrong)


_DEEDS: dict[str, Callable[[Actor], Awaitable[None]]] = {
    deed: getattr(Actor, deed.replace("-", "_")) for deed in DEEDS
}
