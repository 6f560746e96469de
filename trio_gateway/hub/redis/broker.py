"""The broker in Redis: publications, history and cursors by scripts, deliveries by channels.

In: publications and reads from many tasks, and what other nodes publish. Out: acknowledgements
after the script has run, deliveries in the order of offsets. The rule: everything that must be one
step is one script; this file only asks and reads the answers.
"""

import itertools
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from trio_gateway.errors import ConfigurationError, StoreUnavailable
from trio_gateway.hub.broker import Neighbour, Page, Publication, Retention, check_page
from trio_gateway.hub.positions import Position
from trio_gateway.hub.redis.address import Address, parse_address
from trio_gateway.hub.redis.failures import FAILURES, explain, is_lasting
from trio_gateway.hub.redis.feeds import Feeds, Stretch
from trio_gateway.hub.redis.peers import Peers
from trio_gateway.hub.redis.scripts import ADVANCE, LOOK, PUBLISH, READ
from trio_gateway.hub.redis.settings import Names, RedisSettings
from trio_gateway.hub.redis.wire import Call, Wires

_STRETCH = 64  # publications read on at once
_MICROSECONDS = 1_000_000

_log = logging.getLogger(__name__)


@attrs.frozen
class RedisStatistics:
    """What a ``RedisBroker`` does.

    Attributes:
        available: whether publications can be stored, as 0 or 1.
        commands: sent so far, pings and subscriptions apart.
        outages: how often the connection was lost so far.
        nodes: alive, this one included.
    """

    available: int
    commands: int
    outages: int
    nodes: int


@attrs.frozen(eq=False)
class Receipt:
    """A publication on its way into the store; made by ``RedisBroker.submit``."""

    _wires: Wires
    _call: Call

    async def position(self) -> Position:
        """Wait for the server's answer and return the position.

        Raises:
            StoreUnavailable: it may have been stored or not.

        Cancelled: it is stored and delivered all the same, if the server can.
        """
        epoch, offset = await self._wires.finish(self._call)
        return Position(epoch.decode(), offset)


class RedisBroker:
    """A ``Broker`` and ``Cluster`` in Redis; made by ``open_redis``. See the package.

    Attributes:
        address: of Redis, for people.
        node: the name of this node.
    """

    def __init__(
        self,
        address: Address,
        retention: Retention,
        settings: RedisSettings,
        clock: Callable[[], float] | None,
    ) -> None:
        self.address = str(address)
        self.node = secrets.token_hex(5)
        self._retention = retention
        self._settings = settings
        self._clock = clock
        self._names = Names(settings.prefix, address.db)
        self._fresh = itertools.count()
        self._problem: str | None = "it is not connected yet"
        self._outages = 0
        self._connected_before = False
        self._neighbour: Neighbour | None = None
        self._life = trio.CancelScope()
        self._wires = Wires(
            address,
            deadline=settings.deadline,
            max_waiting=settings.max_waiting,
            noted=self._noted,
            # Whether an ACL user may use our keys and channels.
            probes=[
                (b"EVAL", b"return 1", 1, self._names.nodes),
                (b"PUBLISH", self._names.probe, b""),
            ],
        )

        async def connect(attempt: int) -> Any:
            return await address.connection(attempt, budget=self._feeds.budget)

        self._feeds = Feeds(connect, self._names, self, settings.deadline)
        self._peers = Peers(self.node, self._names, settings, self._wires, self._look_again)

    @property
    def available(self) -> bool:
        """Whether publications can be stored, as far as is known."""
        return self._problem is None

    @property
    def problem(self) -> str | None:
        """Why the store is unavailable, for people; None while it is not."""
        return self._problem

    def statistics(self) -> RedisStatistics:
        """Return a snapshot."""
        return RedisStatistics(
            available=int(self.available),
            commands=self._wires.commands,
            outages=self._outages,
            nodes=len(self._peers.alive),
        )

    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        """Store and deliver, in one script; cancelled, it may be stored, and is delivered then."""
        receipt = await self.submit(topic, payload, key=key)
        return await receipt.position()

    async def submit(self, topic: str, payload: bytes, *, key: str | None = None) -> Receipt:
        """Send a publication without waiting for the answer; see ``Pipelined``.

        Raises:
            StoreUnavailable: it was not sent.

        Cancelled: it was not sent.
        """
        retention = self._retention
        known = self._feeds.known(topic) or Position("", 0)
        call = await self._wires.begin(
            PUBLISH,
            self._names.keys(topic, "era", "meta", "log", "keys", "read"),
            self._names.channel(topic),
            payload,
            "" if key is None else f"k{key}",
            self._name(),
            retention.max_publications,
            retention.max_bytes,
            self._max_age,
            self._now(),
            self._forget_after,
            self._settings.inline_bytes,
            known.epoch,
            known.offset,
        )
        return Receipt(self._wires, call)

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        """Read a page, with one script."""
        check_page(since, before, limit)
        mode, at = "new", Position("", 0)
        if since is not None:
            mode, at = "since", since
        elif before is not None:
            mode, at = "before", Position("", before)
        latest, first, _, _, publications = await self._read(topic, mode, at, limit)
        end = latest.offset if before is None else min(latest.offset, before - 1)
        recovered = since is None or (
            since.epoch == latest.epoch
            and first - 1 <= since.offset <= latest.offset
            and latest.offset - since.offset <= limit
        )
        behind = latest.offset - end
        kept = latest.offset - first + 1
        return Page(publications, latest, recovered, behind + len(publications) < kept, first)

    async def subscribe(self, topic: str) -> None:
        """Deliver the topic, from when the server has acknowledged it."""
        await self._feeds.add(topic)

    async def unsubscribe(self, topic: str) -> None:
        """Stop delivering the topic, at once."""
        self._feeds.remove(topic)
        self._peers.close(topic)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def advance(self, topic: str, reader: str, offset: int) -> int:
        """Move a cursor forward, with one script."""
        keys = self._names.keys(topic, "era", "meta", "read")
        moved = await self._wires.call(ADVANCE, keys, reader, offset, self._forget_after)
        return int(moved)

    async def cursor(self, topic: str, reader: str) -> int:
        """Return where a cursor is."""
        return await self.advance(topic, reader, 0)

    async def run(
        self,
        deliver: Callable[[Publication], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver until cancelled; where Redis isn't reached, from when it is."""
        await self._feeds.run(deliver, task_status=task_status)

    def meet(self, neighbour: Neighbour) -> None:
        """Tell a hub what the hubs of the other nodes do; see ``Cluster``."""
        self._neighbour = self._peers.neighbour = neighbour

    def arrived(self, topic: str, user: str) -> None:
        """Tell the other nodes that a user is in here, soon."""
        self._peers.arrived(topic, user)

    def departed(self, topic: str, user: str) -> None:
        """Tell the other nodes that a user is in here no more, soon."""
        self._peers.departed(topic, user)

    def broadcast(self, topic: str, frame: bytes) -> None:
        """Send a frame to the topic's other nodes, at most once and without waiting."""
        head = f"e{self.node}\n".encode()
        self._wires.main.post(b"PUBLISH", self._names.channel(topic), head + frame)

    async def members(self, topic: str, limit: int) -> tuple[int, list[str]]:
        """Read who is in a topic, at whichever nodes."""
        _, _, fields = await self._look(topic)
        return await self._peers.members(fields, limit)

    async def control(self, message: bytes) -> None:
        """Send a message to all other nodes that run."""
        deadline = trio.current_time() + self._settings.deadline
        head = f"{self.node}\n".encode()
        wire = self._wires.main
        sent = await wire.begin(deadline, (b"PUBLISH", self._names.control, head + message))
        await wire.finish(sent, deadline)

    def hear(self, topic: str, data: bytes) -> None:
        """Take what another node sent about a topic."""
        head, _, body = data.partition(b"\n")
        if head[:1] == b"m":
            self._peers.hear(topic, head[1:].decode(), body)
        elif head[1:].decode() != self.node and self._neighbour is not None:
            self._neighbour.ephemeral(topic, body)

    def controlled(self, message: bytes) -> None:
        """Take what another node sent to all."""
        head, _, body = message.partition(b"\n")
        if head.decode() != self.node and self._neighbour is not None:
            self._neighbour.controlled(body)

    async def look(self, topic: str) -> tuple[Position, bytes]:
        """Return a topic's position and its stamp; take note of who is in at other nodes."""
        while True:
            self._peers.begin(topic)
            position, stamp, fields = await self._look(topic)
            if topic not in self._feeds:
                self._peers.close(topic)
                return position, stamp
            if self._peers.open(topic, fields):
                return position, stamp

    async def read_on(self, topic: str, after: Position, stamp: bytes) -> Stretch:
        """Read what follows a position, for the stream."""
        latest, _, _, end_stamp, publications = await self._read(
            topic, "after", after, _STRETCH, stamp
        )
        end = publications[-1].position if publications else latest
        return Stretch(publications, latest, end, end_stamp)

    async def work(self, task_status: trio.TaskStatus[None]) -> None:
        """Keep connected and tell the other nodes, until ``close``; cancelled only at the start."""
        with self._life:
            await self._work(task_status)

    async def _work(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wires.run)
            await self._wires.main.tried.wait()
            failure = self._wires.main.failure
            if failure is not None and is_lasting(failure):
                raise ConfigurationError(f"{self.address} is of no use: {explain(failure)}")
            if failure is None:
                await self._warn_of_eviction()
            nursery.start_soon(self._peers.run)
            self._life.shield = True  # there is something to say at the end
            task_status.started()

    async def _warn_of_eviction(self) -> None:
        wire, deadline = self._wires.main, trio.current_time() + self._settings.deadline
        try:
            text = await wire.finish(await wire.begin(deadline, (b"INFO", b"memory")), deadline)
        except (StoreUnavailable, *FAILURES):
            return  # it may not be allowed to ask
        entries = dict(entry.partition(":")[::2] for entry in text.decode().splitlines())
        policy = entries.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and entries.get("maxmemory") != "0":
            _log.warning(
                "the store %s may throw away what was acknowledged: its maxmemory-policy is %s; "
                "set it to noeviction",
                self.address,
                policy,
            )

    async def close(self) -> None:
        """Tell the other nodes that this one ends, if that can be done soon."""
        if self.available:
            with trio.move_on_after(1.0, shield=True):
                await self._peers.leave()
        self._problem = "it is closed"
        self._wires.main.close()
        self._life.cancel()

    async def _read(
        self, topic: str, mode: str, at: Position, limit: int, stamp: bytes = b""
    ) -> tuple[Position, int, int, bytes, tuple[Publication, ...]]:
        name, latest, first, start, end_stamp, *payloads = await self._wires.call(
            READ,
            self._names.keys(topic, "era", "meta", "log"),
            mode,
            at.epoch,
            at.offset,
            limit,
            self._name(),
            self._max_age,
            self._now(),
            self._forget_after,
            stamp,
        )
        epoch = name.decode()
        publications = tuple(
            Publication(topic, Position(epoch, start + index), payload)
            for index, payload in enumerate(payloads)
        )
        return Position(epoch, latest), first, start, end_stamp, publications

    async def _look(self, topic: str) -> tuple[Position, bytes, dict[str, str]]:
        epoch, latest, stamp, flat = await self._wires.call(
            LOOK,
            self._names.keys(topic, "era", "meta", "log", "here"),
            self._name(),
            self._now(),
            self._forget_after,
        )
        texts = [item.decode() for item in flat]
        return Position(epoch.decode(), latest), stamp, dict(zip(*[iter(texts)] * 2, strict=True))

    async def _look_again(self, topic: str) -> None:
        """See who is in a topic at other nodes, after a message about it was missed."""
        if topic in self._feeds:
            await self.look(topic)

    def _name(self) -> str:
        """Return a name that no epoch ever had."""
        return f"{self.node}{next(self._fresh):x}"

    def _now(self) -> str:
        """Return the time of a test's clock; nothing for the server's."""
        return "" if self._clock is None else f"{self._clock() * _MICROSECONDS:.0f}"

    @property
    def _max_age(self) -> str:
        return f"{self._retention.max_age * _MICROSECONDS:.0f}"

    @property
    def _forget_after(self) -> str:
        seconds = max(self._settings.forget_after, 2 * self._retention.max_age)
        return f"{seconds * _MICROSECONDS:.0f}"

    def _noted(self, error: Exception | None) -> None:
        if error is None:
            if self._connected_before:
                _log.warning("the store %s is available again", self.address)
                # Perhaps another server, after a failover.
                self._feeds.renew()
            self._connected_before = True
            self._problem = None
            self._peers.back()
            return
        if self._problem is None or not self._connected_before:
            log = _log.error if self._problem is None else _log.warning
            if self._problem is None:
                self._outages += 1
            text = explain(error)
            if text != self._problem:
                log("the store %s is unavailable: %s", self.address, text)
        self._problem = explain(error)


@asynccontextmanager
async def open_redis(
    url: str,
    *,
    retention: Retention | None = None,
    settings: RedisSettings | None = None,
    clock: Callable[[], float] | None = None,
) -> AsyncGenerator[RedisBroker, None]:
    """Open a store in Redis until the end of the ``async with``.

    A server that is not reached is no error: the broker is unavailable until it is, and tries on.

    Args:
        url: of Redis; see the package.
        retention: the bounds of each topic, the same at all nodes; None for the defaults.
        settings: how it is run; None for the defaults of ``RedisSettings``. The URL goes before it.
        clock: the time of publications, in seconds since 1970, for tests; None for the server's.

    Raises:
        ConfigurationError: the URL cannot be right, or one of the two refuses who the other is.

    Cancelled: calls under way end as ``Broker`` says.
    """
    try:
        address = parse_address(url)
        settings = attrs.evolve(settings or RedisSettings(), **address.settings)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    # What it has to say of connections, the broker says itself, once.
    library = logging.getLogger("coredis")
    if library.level == logging.NOTSET:
        library.setLevel(logging.CRITICAL)
    broker = RedisBroker(address, retention or Retention(), settings, clock)
    single: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.work)
            try:
                yield broker
            finally:
                await broker.close()
    except BaseExceptionGroup as group:
        single, *others = group.exceptions
        while isinstance(single, BaseExceptionGroup) and len(single.exceptions) == 1:
            (single,) = single.exceptions
        if others:
            raise
    if single is not None:
        raise single  # of the body, or of the first attempt, as it is
