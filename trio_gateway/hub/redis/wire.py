"""Calls of scripts over one connection, pipelined, each with a deadline.

In: scripts with keys and arguments, from many tasks. Out: replies. The rules: what was sent is
never sent again unless the server said that it did not run it; whoever calls gets a reply or
``StoreUnavailable`` within the deadline; and a connection that owes a reply for that long is ended
and made anew.
"""

import binascii
import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import attrs
import trio
from coredis.connection import BaseConnection
from coredis.exceptions import (
    AskError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from trio_gateway.errors import StoreUnavailable
from trio_gateway.hub.redis.address import Address
from trio_gateway.hub.redis.failures import FAILURES, explain
from trio_gateway.hub.redis.scripts import ALL, Script

Argument: TypeAlias = str | bytes | int | float
Connect: TypeAlias = Callable[[int], Awaitable[BaseConnection]]

_FIRST_RETRY = 0.05
_LAST_RETRY = 1.0
_PING_SECONDS = 1.0
_PAUSE = 0.02  # between two looks for room, or at a server that asks for patience
_MAX_REDIRECTIONS = 8
# The server did not run it, and may soon.
_PATIENCE = (BusyLoadingError, ClusterDownError, TryAgainError)

_log = logging.getLogger(__name__)


async def keep_connected(
    connect: Connect,
    serve: Callable[[BaseConnection], Awaitable[None]],
    failed: Callable[[Exception], None],
    deadline: float,
) -> None:
    """Make a connection, serve it until it ends, and so on, until cancelled.

    Args:
        connect: given how often it was tried since the last success.
        serve: returns, or raises one of ``FAILURES``, when the connection is of no more use.
        failed: told why there is no connection.
        deadline: seconds for connecting.
    """
    attempt = 0
    while True:
        connection: BaseConnection | None = None
        try:
            async with trio.open_nursery() as nursery:
                try:
                    with trio.fail_after(deadline):
                        connection = await connect(attempt)
                        await nursery.start(_host, connection)
                    attempt = 0
                    await serve(connection)
                finally:
                    nursery.cancel_scope.cancel()
        except* FAILURES as group:
            failed(_first(group))
        else:
            failed(ConnectionError("the connection ended"))
        attempt += 1
        pause = min(_FIRST_RETRY * 2 ** min(attempt - 1, 10), _LAST_RETRY)
        await trio.sleep(pause * random.uniform(0.5, 1.0))


async def _host(connection: BaseConnection, task_status: trio.TaskStatus[None]) -> None:
    await connection.run(task_status=task_status)
    raise ConnectionError("the connection was lost")


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found


async def ping(connection: BaseConnection, deadline: float) -> None:
    """See that a connection answers, until it doesn't.

    Raises:
        RedisError, TooSlowError: it doesn't.
    """
    while True:
        await trio.sleep(_PING_SECONDS)
        with trio.fail_after(deadline):
            await connection.create_request(b"PING")


@attrs.frozen(eq=False)
class Sent:
    """A command that was sent, on a connection that owes the reply."""

    connection: BaseConnection
    request: Any


class Wire:
    """One connection for commands, made again whenever it ends.

    Args:
        connect: makes it.
        deadline: seconds for a call.
        max_waiting: replies owed at once.
        noted: told when there is a connection (None), or why not.
        probes: commands without effect; a server that forbids one is of no use.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        deadline: float,
        max_waiting: int,
        noted: Callable[[Exception | None], None],
        probes: Sequence[Sequence[Argument]],
    ) -> None:
        self._connect = connect
        self._deadline = deadline
        self._max_waiting = max_waiting
        self._noted = noted
        self._probes = probes
        self._connection: BaseConnection | None = None
        self._up = trio.Event()
        self._down_since = math.inf
        self._failure: Exception | None = None
        self.tried = trio.Event()
        self.commands = 0

    @property
    def failure(self) -> Exception | None:
        """Why there is no connection; None if there is one, or none was tried yet."""
        return self._failure

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        self._down_since = trio.current_time()
        await keep_connected(self._connect, self._serve, self._failed, self._deadline)

    def post(self, command: bytes, *arguments: Argument) -> bool:
        """Send a command whose reply nobody needs; return false if it was not sent."""
        connection = self._connection
        if connection is None or not connection.usable or not self._has_room(connection):
            return False
        self.commands += 1
        connection.create_request(command, *arguments)
        return True

    async def begin(self, deadline: float, *commands: Sequence[Argument]) -> "Sent":
        """Send commands once there is a connection with room; return the last.

        Raises:
            StoreUnavailable: none was sent.

        Cancelled: none was sent.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        connection = self._connection
        while connection is None or not connection.usable or not self._has_room(connection):
            # An outage that has been told of for long is told of at once.
            until = min(deadline, self._down_since + self._deadline)
            if connection is not None and connection.usable:
                until = deadline
            if trio.current_time() >= until:
                raise StoreUnavailable(self._why())
            with trio.move_on_at(until):
                if connection is None:
                    await self._up.wait()
                else:
                    await trio.sleep(_PAUSE)
            connection = self._connection
        request = None
        for name, *arguments in commands:
            self.commands += 1
            request = connection.create_request(_bytes(name), *arguments)
        return Sent(connection, request)

    async def finish(self, sent: "Sent", deadline: float) -> Any:
        """Return the reply.

        Raises:
            RedisError: the server's.
            StoreUnavailable: it owes the reply.

        Cancelled: it has been sent.
        """
        with trio.move_on_at(deadline):
            return await sent.request
        sent.connection.invalidate("a reply is overdue")
        raise StoreUnavailable("Redis does not answer")

    def close(self) -> None:
        """Refuse what comes from now on, at once."""
        self._failure = OSError("the store is closed")
        self._down_since = -math.inf

    def give_up(self) -> None:
        """End the connection: its server is not the one to talk to."""
        if self._connection is not None:
            self._connection.invalidate("the server takes no writes")

    def _has_room(self, connection: BaseConnection) -> bool:
        return connection.statistics.requests_pending < self._max_waiting

    def _why(self) -> str:
        return "Redis is not reached" if self._failure is None else explain(self._failure)

    async def _serve(self, connection: BaseConnection) -> None:
        with trio.fail_after(self._deadline):
            for request in [
                connection.create_request(b"SCRIPT LOAD", script.source) for script in ALL
            ]:
                await request
            for name, *arguments in self._probes:
                try:
                    await connection.create_request(_bytes(name), *arguments)
                except AuthorizationError:
                    raise
                except ResponseError:
                    pass  # MOVED and the like: it is allowed
        self._connection = connection
        self._down_since = math.inf
        self._failure = None
        self._up.set()
        self.tried.set()
        self._noted(None)
        try:
            await ping(connection, self._deadline)
        finally:
            self._connection = None
            self._up = trio.Event()
            if self._down_since == math.inf:
                self._down_since = trio.current_time()

    def _failed(self, error: Exception) -> None:
        self._failure = error
        self.tried.set()
        self._noted(error)


@attrs.frozen(eq=False)
class Call:
    """A script that was sent."""

    wire: Wire
    sent: Sent
    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument]
    deadline: float


class Wires:
    """The connections for commands: one, or in a Redis Cluster one for each server that we met.

    Args:
        address: of Redis.
        deadline: see ``Wire``.
        max_waiting: see ``Wire``.
        noted: told when there is a connection (None), or why not.
        probes: see ``Wire``.
    """

    def __init__(
        self,
        address: Address,
        *,
        deadline: float,
        max_waiting: int,
        noted: Callable[[Exception | None], None],
        probes: Sequence[Sequence[Argument]] = (),
    ) -> None:
        self._address = address
        self._deadline = deadline
        self._max_waiting = max_waiting
        self._probes = probes
        self.main = self._wire(address.connection, noted)
        self._others: dict[tuple[str, int], Wire] = {}
        self._slots: dict[int, tuple[str, int]] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def commands(self) -> int:
        """How many were sent, pings apart."""
        return self.main.commands + sum(wire.commands for wire in self._others.values())

    async def run(self) -> None:
        """Keep the connections until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await self.main.run()

    async def call(self, script: Script, keys: Sequence[str], *arguments: Argument) -> Any:
        """Run a script and return its reply.

        Raises:
            StoreUnavailable: it may have been run or not.

        Cancelled: as StoreUnavailable.
        """
        return await self.finish(await self.begin(script, keys, *arguments))

    async def begin(self, script: Script, keys: Sequence[str], *arguments: Argument) -> Call:
        """Send a script; those of one task run in the order of sending.

        Raises:
            StoreUnavailable: it was not sent.

        Cancelled: it was not sent.
        """
        deadline = trio.current_time() + self._deadline
        wire = self._wire_for(keys[0])
        sent = await wire.begin(deadline, (b"EVALSHA", script.sha, len(keys), *keys, *arguments))
        return Call(wire, sent, script, keys, arguments, deadline)

    async def finish(self, call: Call) -> Any:
        """Return a script's reply.

        It is sent again where the server says that it did not run it, or where to run it twice
        makes no difference.

        Raises:
            StoreUnavailable: it may have been run or not.

        Cancelled: as StoreUnavailable.
        """
        wire, sent, deadline = call.wire, call.sent, call.deadline
        script, keys, arguments = call.script, call.keys, call.arguments
        command = (b"EVALSHA", script.sha, len(keys), *keys, *arguments)
        for _ in range(_MAX_REDIRECTIONS):
            try:
                return await wire.finish(sent, deadline)
            except NoScriptError:
                command = (b"EVAL", script.source, len(keys), *keys, *arguments)
                sent = await wire.begin(deadline, command)
            except MovedError as error:
                self._slots[_slot(keys[0])] = (error.host, error.port)
                wire = self._wire_for(keys[0])
                sent = await wire.begin(deadline, command)
            except AskError as error:
                wire = self._wire_at((error.host, error.port))
                sent = await wire.begin(deadline, (b"ASKING",), command)
            except _PATIENCE as error:
                if trio.current_time() + _PAUSE >= deadline:
                    raise StoreUnavailable(str(error)) from error
                await trio.sleep(5 * _PAUSE)
                sent = await wire.begin(deadline, command)
            except FAILURES as error:
                self._slots.pop(_slot(keys[0]), None)
                if _is_no_primary(error):
                    wire.give_up()
                if isinstance(error, ResponseError) or not script.repeatable:
                    raise StoreUnavailable(explain(error)) from error
                sent = await wire.begin(deadline, command)
        raise StoreUnavailable("Redis sends us from server to server")

    def _wire(self, connect: Connect, noted: Callable[[Exception | None], None]) -> Wire:
        return Wire(
            connect,
            deadline=self._deadline,
            max_waiting=self._max_waiting,
            noted=noted,
            probes=self._probes,
        )

    def _wire_for(self, key: str) -> Wire:
        if not self._slots:
            return self.main
        place = self._slots.get(_slot(key))
        return self.main if place is None else self._wire_at(place)

    def _wire_at(self, place: tuple[str, int]) -> Wire:
        wire = self._others.get(place)
        if wire is None:
            assert self._nursery is not None

            async def connect(_attempt: int) -> BaseConnection:
                return self._address.connection_to(*place)

            def noted(error: Exception | None) -> None:
                if error is not None:
                    # Whoever is asked instead knows who has its slots now.
                    self._slots = {s: p for s, p in self._slots.items() if p != place}

            wire = self._others[place] = self._wire(connect, noted)
            self._nursery.start_soon(wire.run)
        return wire


def _is_no_primary(error: BaseException) -> bool:
    return isinstance(error, ReadOnlyError) or str(error).startswith(("READONLY", "MASTERDOWN"))


def _slot(key: str) -> int:
    tag = key[key.index("{") + 1 : key.index("}")]
    return binascii.crc_hqx(tag.encode(), 0) % 16_384


def _bytes(name: Argument) -> bytes:
    assert isinstance(name, bytes)
    return name
