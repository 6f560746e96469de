"""Group commit and delivery: the event loop's side of the SQLite store.

In: publications and reads from many tasks. Out: acknowledgements after the commit, deliveries in
the order of the commits. The rules: one task commits, everything that waits goes into its next
transaction, and nobody's cancellation but the store's own end reaches a transaction; a store that
fails is tried again for as long as the broker is open.
"""

import logging
import math
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

import apsw
import apsw.aio
import attrs
import trio

from trio_gateway.errors import ConfigurationError, StoreUnavailable
from trio_gateway.hub.broker import Page, Publication, Retention, check_page
from trio_gateway.hub.positions import Position
from trio_gateway.hub.sqlite.feeds import Feeds
from trio_gateway.hub.sqlite.lock import FileLock
from trio_gateway.hub.sqlite.schema import SqliteSettings, Unusable, damaged, prepare, seal
from trio_gateway.hub.sqlite.store import Advance, Append, FileGone, Store

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_FIRST_RETRY = 0.1
_LAST_RETRY = 5.0
_FLUSH_SECONDS = 1.0  # how long a commit waits for the disk, with synchronous "normal"
_SWEEPS_AN_AGE = 20
_MAX_SWEEP_SECONDS = 60.0
# The connection is as good as before; only what was asked of it failed.
_PASSING = (apsw.FullError, apsw.BusyError, apsw.LockedError, apsw.ReadOnlyError)
# What an operator must mend, when a store is opened.
_LASTING = (
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.PermissionsError,
    apsw.ReadOnlyError,
)
_FAILURES = (apsw.Error, FileGone, Unusable, OSError)

_log = logging.getLogger(__name__)


@attrs.frozen
class SqliteStatistics:
    """What a ``SqliteBroker`` does.

    Attributes:
        available: whether publications can be stored, as 0 or 1.
        waiting: publications and cursors that wait for a commit now.
        commits: transactions so far.
        publications: stored so far.
        failures: commits that failed so far, trial writes included.
    """

    available: int
    waiting: int
    commits: int
    publications: int
    failures: int


@attrs.define(eq=False)
class _Batch:
    """What goes into one transaction, and who waits for it."""

    entries: list[Append | Advance] = attrs.Factory(list)
    size: int = 0
    done: trio.Event = attrs.Factory(trio.Event)
    failure: str | None = None

    def end(self, failure: str | None = None) -> None:
        self.failure = failure
        self.done.set()


@attrs.frozen(eq=False)
class Receipt:
    """A publication on its way into the store; made by ``SqliteBroker.submit``."""

    _append: Append
    _batch: _Batch

    async def position(self) -> Position:
        """Wait until it is committed and return its position.

        Raises:
            StoreUnavailable: it may have been stored or not.

        Cancelled: it is stored and delivered all the same, if the store can.
        """
        if not self._batch.done.is_set():
            await self._batch.done.wait()
        if self._batch.failure is not None:
            raise StoreUnavailable(self._batch.failure)
        assert self._append.position is not None
        return self._append.position


class SqliteBroker:
    """A ``Broker`` in a file; made by ``open_sqlite``. See the package for what it promises."""

    def __init__(
        self,
        path: str,
        retention: Retention,
        settings: SqliteSettings,
        clock: Callable[[], float],
    ) -> None:
        self.path = path
        self._retention = retention
        self._settings = settings
        self._clock = clock
        # In its own thread it is an apsw.Connection, which its type does not say.
        self._db: Any = None
        self._store: Store | None = None
        self._problem: str | None = "it is not open yet"
        self._corrupt = False
        self._pins: dict[str, int] = {}
        self._feeds = Feeds(self._read_on)
        self._batch = _Batch()
        self._wake = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._commits = self._publications = self._failures = 0
        self._unflushed = False

    @property
    def available(self) -> bool:
        """Whether publications can be stored, as far as is known."""
        return self._problem is None

    @property
    def problem(self) -> str | None:
        """Why the store is unavailable, for people; None while it is not."""
        return self._problem

    def statistics(self) -> SqliteStatistics:
        """Return a snapshot."""
        return SqliteStatistics(
            available=int(self.available),
            waiting=len(self._batch.entries),
            commits=self._commits,
            publications=self._publications,
            failures=self._failures,
        )

    async def publish(self, topic: str, payload: bytes, *, key: str | None = None) -> Position:
        """Store and deliver; cancelled, it is stored and delivered all the same if it was taken."""
        receipt = await self.submit(topic, payload, key=key)
        return await receipt.position()

    async def submit(self, topic: str, payload: bytes, *, key: str | None = None) -> Receipt:
        """Take a publication for the next commit, waiting only while that is full.

        Publications of one task are stored in the order of submitting; see ``publish``.

        Raises:
            StoreUnavailable: it was not taken.

        Cancelled: it was not taken.
        """
        _check_text(topic, key or "")
        await trio.lowlevel.checkpoint_if_cancelled()
        append = Append(topic, payload, key)
        return Receipt(append, await self._take(append, len(payload)))

    async def history(
        self,
        topic: str,
        *,
        since: Position | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Page:
        """Read a page."""
        check_page(since, before, limit)
        _check_text(topic)
        return await self._read(Store.page, topic, since, before, limit, self._clock())

    async def subscribe(self, topic: str) -> None:
        """Deliver the topic from now on; cancelled, it has not happened."""
        _check_text(topic)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._store is None:
            raise StoreUnavailable(self._problem)
        self._store.pin(topic)
        self._feeds.add(topic)

    async def unsubscribe(self, topic: str) -> None:
        """Stop delivering the topic; cancelled, it has not happened."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._feeds.remove(topic)
        self._pins.pop(topic, None)

    async def advance(self, topic: str, reader: str, offset: int) -> int:
        """Move a cursor forward; cancelled, it moves all the same if the store can."""
        _check_text(topic, reader)
        await trio.lowlevel.checkpoint_if_cancelled()
        entry = Advance(topic, reader, offset)
        batch = await self._take(entry, 0)
        await batch.done.wait()
        if batch.failure is not None:
            raise StoreUnavailable(batch.failure)
        return entry.offset

    async def cursor(self, topic: str, reader: str) -> int:
        """Return where a cursor is."""
        _check_text(topic, reader)
        return await self._read(Store.cursor, topic, reader)

    async def run(
        self,
        deliver: Callable[[Publication], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver until cancelled, beginning with what was published while nobody ran this."""
        await self._feeds.run(deliver, task_status=task_status)

    async def open(self) -> None:
        """Open the file; it may end up unavailable.

        Raises:
            Unusable, apsw.Error: an operator must mend it.
        """
        try:
            await self._open()
            self._problem = None
        except (Unusable, *_LASTING):
            raise
        except _FAILURES as error:
            self._failed(error)

    async def work(self) -> None:
        """Commit, sweep, and heal, until cancelled."""
        pause = min(self._retention.max_age / _SWEEPS_AN_AGE, _MAX_SWEEP_SECONDS)
        sweep_at = trio.current_time() + pause
        flush_at = math.inf
        retry = _FIRST_RETRY
        while True:
            if self._problem is not None:
                await trio.sleep(retry)
                retry = min(retry * 2, _LAST_RETRY)
                await self._heal()
                continue
            if not self._batch.entries:
                self._wake = trio.Event()
                with trio.move_on_at(min(sweep_at, flush_at)):
                    await self._wake.wait()
            with trio.CancelScope(shield=True):
                if self._batch.entries:
                    if await self._commit():
                        retry = _FIRST_RETRY
                    if flush_at == math.inf and self._settings.synchronous == "normal":
                        flush_at = trio.current_time() + _FLUSH_SECONDS
                elif trio.current_time() >= flush_at:
                    flush_at = math.inf
                    await self._attempt(Store.flush)
                elif trio.current_time() >= sweep_at and not await self._attempt(
                    Store.sweep, self._clock()
                ):
                    sweep_at = trio.current_time() + pause
            await trio.lowlevel.checkpoint_if_cancelled()

    async def close(self) -> None:
        """Refuse what waits, put everything on the disk, close the file; never raises."""
        with trio.CancelScope(shield=True):
            if self._db is not None and self._problem is None:
                try:
                    await self._call(seal, self._db)
                except _FAILURES as error:
                    _log.warning("the store was closed in a hurry: %s", error)
            self._problem = "it is closed"
            self._refuse_waiting()
            await self._disconnect()

    async def _take(self, entry: Append | Advance, size: int) -> _Batch:
        settings = self._settings
        while True:
            if self._problem is not None:
                raise StoreUnavailable(self._problem)
            batch = self._batch
            if len(batch.entries) < settings.max_batch and batch.size < settings.max_batch_bytes:
                break
            await self._room.park()
        batch.entries.append(entry)
        batch.size += size
        self._wake.set()
        return batch

    async def _commit(self) -> bool:
        batch, self._batch = self._batch, _Batch()
        self._room.unpark_all()
        store = self._store
        assert store is not None
        try:
            new = await self._call(store.commit, batch.entries, self._clock())
        except _FAILURES as error:
            self._feeds.doubt(entry for entry in batch.entries if isinstance(entry, Append))
            self._failed(error)
            batch.end(self._problem)
            return False
        self._commits += 1
        self._publications += len(new)
        for publication in new:
            self._feeds.deliver(publication)
        batch.end()
        return True

    async def _heal(self) -> None:
        """Try to write, on a new connection unless the old one is as good."""
        try:
            if self._store is None:
                await self._open()
            if self._corrupt:
                await self._check()
            with trio.CancelScope(shield=True):
                assert self._store is not None
                await self._call(self._store.try_to_write)
        except _FAILURES as error:
            self._failed(error)
            if not isinstance(error, _PASSING):
                await self._disconnect()
            return
        self._problem = None
        self._corrupt = False
        _log.warning("the store %s is available again", self.path)
        self._feeds.look()

    async def _check(self) -> None:
        assert self._db is not None
        found = await self._call(damaged, self._db)
        if found is not None:
            raise apsw.CorruptError(found)

    async def _open(self) -> None:
        """Open and prepare; not to be cancelled, or its thread would outlive the program."""
        with trio.CancelScope(shield=True):
            self._db = await apsw.Connection.as_async(self.path)
            try:
                self._store = await self._call(self._prepare, self._db)
            except BaseException:
                await self._disconnect()
                raise

    def _prepare(self, db: Any) -> Store:
        era = prepare(db, self._settings)
        return Store(db, self.path, era, self._retention, self._settings, pins=self._pins)

    async def _disconnect(self) -> None:
        db, self._db, self._store = self._db, None, None
        if db is not None:
            with trio.CancelScope(shield=True):
                try:
                    await db.aclose()
                except apsw.Error:
                    await db.aclose(force=True)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._problem is None or self._store is None:
            log = _log.error if self._problem is None else _log.debug
            log("the store %s is unavailable: %s", self.path, error)
        self._problem = str(error) or type(error).__name__
        self._corrupt = self._corrupt or isinstance(error, apsw.CorruptError | apsw.NotADBError)
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        batch, self._batch = self._batch, _Batch()
        batch.end(self._problem)
        self._room.unpark_all()

    async def _attempt(self, method: Callable[..., _T], *arguments: object) -> _T | None:
        try:
            assert self._store is not None
            return await self._call(method, self._store, *arguments)
        except _FAILURES as error:
            self._failed(error)
            return None

    async def _read(self, method: Callable[..., _T], *arguments: object) -> _T:
        store = self._store
        if store is None:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise StoreUnavailable(self._problem)
        try:
            return await self._call(method, store, *arguments)
        except _FAILURES as error:
            if self._store is store and self._problem is None:
                self._failed(error)
                self._wake.set()
            raise StoreUnavailable(str(error)) from error

    async def _read_on(self, topic: str, since: Position) -> Page:
        """Read what follows a position, for the stream."""
        return await self.history(topic, since=since, limit=self._retention.max_publications)

    async def _call(self, function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Run a function in the connection's thread; cancelled, it is stopped when it can be.

        The caller's deadline is Trio's to keep: apsw would raise its own exception for it.
        """
        db = self._db
        if db is None:
            raise StoreUnavailable(self._problem)
        token = apsw.aio.deadline.set(math.inf)
        try:
            result: _T = await db.async_run(function, *arguments)
        finally:
            apsw.aio.deadline.reset(token)
        return result


@asynccontextmanager
async def open_sqlite(
    path: str | os.PathLike[str],
    *,
    retention: Retention | None = None,
    settings: SqliteSettings | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[SqliteBroker, None]:
    """Open a store, made if it is not there, until the end of the ``async with``.

    At the end what was acknowledged is put on the disk; what still waits to be stored then is
    refused with ``StoreUnavailable``.

    Args:
        path: of the database; its folder must exist. ``PATH-wal`` and ``PATH-lock`` are beside it.
        retention: the bounds of each topic; None for the defaults of ``Retention``.
        settings: how it is run; None for the defaults of ``SqliteSettings``.
        clock: the time of publications, in seconds since 1970.

    Raises:
        ConfigurationError: the file cannot be used, in one line; see the package.

    Cancelled: a transaction under way is finished, then the file is closed properly.
    """
    name = os.path.realpath(path)  # noqa: ASYNC240 - a few look-ups, once
    broker = SqliteBroker(name, retention or Retention(), settings or SqliteSettings(), clock)
    single: BaseException | None = None
    try:
        lock = FileLock(name)
    except Unusable as error:
        raise ConfigurationError(f"cannot use {os.fspath(path)}: {error}") from error
    try:
        try:
            await broker.open()
        except (Unusable, apsw.Error) as error:
            raise ConfigurationError(f"cannot use {os.fspath(path)}: {_explain(error)}") from error
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broker.work)
                yield broker
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            single, *others = group.exceptions
            if others:
                raise
        if single is not None:
            raise single  # of the body, as it is
    finally:
        await broker.close()
        lock.release()


def _explain(error: Exception) -> str:
    match error:
        case apsw.NotADBError():
            return "it is not a SQLite database"
        case apsw.CorruptError():
            return f"it is damaged ({error}); put a backup back, or move it away to begin anew"
        case apsw.ReadOnlyError():
            return "it cannot be written"
        case apsw.CantOpenError():
            return "it cannot be opened"
        case _:
            return str(error)


def _check_text(*texts: str) -> None:
    """Raise ValueError for what no database can hold as text."""
    for text in texts:
        if not text.isascii():
            text.encode()
