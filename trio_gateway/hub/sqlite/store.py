"""What is in the database, and every statement that is run on it.

In: appends and cursors in batches, reads. Out: positions, pages. Everything here runs in the
connection's own thread, one call at a time, and knows no event loop. The rules: a batch is one
transaction; what a page shows is exact, by count, bytes and age, while rows are deleted some at a
time; nothing on the way of a publication costs more with the length of a history.
"""

import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import apsw
import attrs

from trio_gateway.hub.broker import Page, Publication, Retention
from trio_gateway.hub.positions import Position
from trio_gateway.hub.sqlite.schema import SqliteSettings

_BUCKETS = 1024
_MAX_CACHED = 10_000  # topics whose state is in memory
_WALK = 32  # rows looked at in one step when the oldest kept is searched
_USED_SECONDS = 60.0  # so exact is the order in which topics were used
# Looked at for a topic to forget: those without any history left, then the others.
_CANDIDATES = (
    "SELECT id, name FROM topics WHERE due IS NULL ORDER BY used LIMIT 64",
    "SELECT id, name FROM topics WHERE due IS NOT NULL ORDER BY used LIMIT 64",
)
_SWEPT = 64  # topics trimmed by age in one transaction
_INSERTS = {
    rows: f"INSERT INTO publications VALUES {','.join(['(?,?,?,?,?,?)'] * rows)}"  # noqa: S608 - ours
    for rows in (64, 16, 4, 1)
}


class FileGone(Exception):
    """The path no longer leads to the file that is open: what is written there is lost."""


@attrs.define(eq=False)
class Append:
    """A publication to store; ``position`` and ``repeated`` hold once the batch is committed."""

    topic: str
    payload: bytes
    key: str | None
    position: Position | None = None
    repeated: bool = False


@attrs.define(eq=False)
class Advance:
    """A cursor to move; ``offset`` is where it is once the batch is committed."""

    topic: str
    reader: str
    offset: int


@attrs.define(eq=False)
class _Topic:
    """A topic's row, with what its publications say.

    Attributes:
        kept: the offset from which on all may still be kept; everything before is past a bound.
        before: ``total`` before ``kept``.
        stored: the lowest offset in the table.
        stored_before: ``total`` before ``stored``.
    """

    id: int
    name: str
    epoch: str
    latest: int
    total: int
    kept: int
    before: int
    stored: int
    stored_before: int
    due: float | None
    used: float


class Store:
    """The topics, publications and cursors of one open database.

    Args:
        db: ready for use; see ``schema.prepare``.
        path: where its file is.
        era: the first part of every epoch's name.
        retention: of each topic.
        settings: the bounds.
        pins: topics that are subscribed, with the loss count of their epoch while they have no
            row; they are not forgotten. Belongs to the broker, which adds by ``pin``.
    """

    def __init__(
        self,
        db: apsw.Connection,
        path: str,
        era: str,
        retention: Retention,
        settings: SqliteSettings,
        *,
        pins: dict[str, int],
    ) -> None:
        self._db = db
        self._path = path
        self._era = era
        self._retention = retention
        self._settings = settings
        self._pins = pins
        self._file = self._identity()
        self._slack = retention.max_publications // 8
        self._slack_bytes = retention.max_bytes // 8
        self._now = 0.0
        self._topics: OrderedDict[str, _Topic] = OrderedDict()
        self._touched: dict[str, _Topic] = {}
        self._losses: dict[int, int] = {}
        self._count = 0
        self._cursors = 0
        self._reload()

    def commit(self, entries: Sequence[Append | Advance], now: float) -> list[Publication]:
        """Store a batch in one transaction; return what is new, in order.

        Raises:
            apsw.Error: SQLite's; nothing was stored, unless the commit itself failed unclearly.
            FileGone: it was stored where nobody will find it.
        """
        self._now = max(self._now, now)
        rows: list[tuple[object, ...]] = []
        new: list[Publication] = []
        fresh: set[tuple[int, str]] = set()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for entry in entries:
                if isinstance(entry, Append):
                    publication = self._append(entry, rows, fresh)
                    if publication is not None:
                        new.append(publication)
                else:
                    self._advance(entry)
            self._insert(rows)
            self._finish()
            self._db.execute("COMMIT")
        except BaseException:
            self._undo()
            raise
        self._check_file()
        return new

    def page(
        self, topic: str, since: Position | None, before: int | None, limit: int, now: float
    ) -> Page:
        """Read a page, as ``Broker.history`` describes it; its arguments are checked."""
        self._now = max(self._now, now)
        found = self._find(topic)
        if found is None:
            position = Position(self._name_epoch(topic), 0)
            return Page((), position, recovered=since is None or since == position, more=False)
        latest = found.latest
        first = self._first(found)
        position = Position(found.epoch, latest)
        end = latest if before is None else min(latest, before - 1)
        count = min(limit, max(0, end - first + 1))
        recovered = True
        if since is not None:
            missed = latest - since.offset
            recovered = since.epoch == found.epoch and 0 <= missed <= count
            if recovered:
                count = missed
        rows = (
            self._all(
                "SELECT offset, payload FROM publications"
                " WHERE topic = ? AND offset BETWEEN ? AND ? ORDER BY offset",
                (found.id, max(1, end - count + 1), max(0, end)),
            )
            if count
            else []
        )
        return Page(
            publications=tuple(
                Publication(topic, Position(found.epoch, offset), payload)
                for offset, payload in rows
            ),
            position=position,
            recovered=recovered,
            more=end - count >= first,
            first=first,
        )

    def cursor(self, topic: str, reader: str) -> int:
        """Return where a reader's cursor is."""
        found = self._find(topic)
        return 0 if found is None else self._cursor(found, reader) or 0

    def pin(self, topic: str) -> None:
        """Keep a topic, and the name of its epoch, while it is subscribed; from any thread."""
        self._pins.setdefault(topic, self._losses.get(_bucket(topic), 0))

    def sweep(self, now: float) -> bool:
        """Delete some publications that are past their age; return whether there are more.

        Raises: as ``commit``.
        """
        self._now = max(self._now, now)
        due = self._all(
            "SELECT name FROM topics WHERE due <= ? ORDER BY due LIMIT ?", (self._now, _SWEPT)
        )
        if not due:
            return False
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for (name,) in due:
                topic = self._find(name)
                if topic is not None:
                    self._expire(topic)
            self._db.execute("COMMIT")
        except BaseException:
            self._undo()
            raise
        return len(due) == _SWEPT

    def flush(self) -> None:
        """Put the log into the database, as far as readers allow, and both on the disk."""
        self._all("PRAGMA wal_checkpoint(PASSIVE)")

    def try_to_write(self) -> None:
        """Write something without a meaning.

        Raises: as ``commit``.
        """
        self._db.execute("UPDATE store SET tries = tries + 1")
        self._check_file()

    def _append(
        self, entry: Append, rows: list[tuple[object, ...]], fresh: set[tuple[int, str]]
    ) -> Publication | None:
        topic = self._find(entry.topic)
        if topic is None:
            topic = self._create(entry.topic)
        key = entry.key
        if key is not None:
            if (topic.id, key) in fresh:
                self._insert(rows)
            first = self._by_key(topic, key, rows)
            if first is not None:
                entry.position, entry.repeated = Position(topic.epoch, first), True
                return None
            fresh.add((topic.id, key))
        topic.latest += 1
        topic.total += len(entry.payload)
        position = entry.position = Position(topic.epoch, topic.latest)
        rows.append((topic.id, topic.latest, self._now, topic.total, key, entry.payload))
        self._touched[topic.name] = topic
        return Publication(entry.topic, position, entry.payload)

    def _by_key(self, topic: _Topic, key: str, rows: list[tuple[object, ...]]) -> int | None:
        """Return the offset kept under a key; one that is past a bound is deleted, with older."""
        row = self._one(
            "SELECT offset FROM publications WHERE topic = ? AND key = ?", (topic.id, key)
        )
        if row is None:
            return None
        self._insert(rows)  # how much is kept depends on what has come since
        offset: int = row[0]
        first = self._first(topic)
        if offset >= first:
            return offset
        self._delete(topic, first)
        return None

    def _insert(self, rows: list[tuple[object, ...]]) -> None:
        """Insert rows, many in one statement: each statement is a wait for the interpreter."""
        start = 0
        for size, sql in _INSERTS.items():
            while len(rows) - start >= size:
                values = [value for row in rows[start : start + size] for value in row]
                self._db.execute(sql, values)
                start += size
        rows.clear()

    def _finish(self) -> None:
        """Keep the topics' own rows, and delete what is past the bounds by count and bytes."""
        changed: list[tuple[object, ...]] = []
        for topic in self._touched.values():
            if topic.due is None or topic.used + _USED_SECONDS < self._now:
                topic.due = topic.due or self._now + self._retention.max_age
                topic.used = self._now
                changed.append((topic.due, topic.used, topic.id))
            if (
                topic.latest - topic.stored >= self._retention.max_publications + self._slack
                or topic.total - topic.stored_before > self._retention.max_bytes + self._slack_bytes
            ):
                self._delete(topic, self._first(topic))
        self._touched.clear()
        if changed:
            self._db.executemany("UPDATE topics SET due = ?, used = ? WHERE id = ?", changed)

    def _first(self, topic: _Topic) -> int:
        """Return the offset of the oldest publication kept, one above the latest for none.

        Looks at each publication once as it leaves, and at one that stays.
        """
        horizon = self._now - self._retention.max_age
        lowest = topic.latest - self._retention.max_publications + 1
        if topic.kept < lowest:
            row = self._one(
                "SELECT total FROM publications WHERE topic = ? AND offset = ?",
                (topic.id, lowest - 1),
            )
            if row is not None:
                topic.kept, topic.before = lowest, row[0]
        while topic.kept <= topic.latest:
            rows = self._all(
                "SELECT offset, time, total FROM publications"
                " WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT ?",
                (topic.id, topic.kept, _WALK),
            )
            for offset, time, total in rows:
                over = topic.total - topic.before > self._retention.max_bytes
                if time > horizon and offset >= lowest and (not over or offset == topic.latest):
                    return topic.kept
                topic.kept, topic.before = offset + 1, total
            if not rows:
                raise apsw.CorruptError(f"publications of topic {topic.id} are missing")
        return topic.kept

    def _delete(self, topic: _Topic, first: int) -> None:
        """Delete what is older than ``first``, which is the first that is kept."""
        if first > topic.stored:
            self._db.execute(
                "DELETE FROM publications WHERE topic = ? AND offset < ?", (topic.id, first)
            )
            topic.stored, topic.stored_before = topic.kept, topic.before

    def _expire(self, topic: _Topic) -> None:
        """Delete what is past its age, and note when to look again."""
        self._delete(topic, self._first(topic))
        row = self._one(
            "SELECT time FROM publications WHERE topic = ? ORDER BY offset LIMIT 1", (topic.id,)
        )
        topic.due = None if row is None else row[0] + self._retention.max_age
        self._db.execute(
            "UPDATE topics SET due = ?, latest = ?, total = ? WHERE id = ?",
            (topic.due, topic.latest, topic.total, topic.id),
        )

    def _advance(self, entry: Advance) -> None:
        topic = self._find(entry.topic)
        if topic is None:
            entry.offset = 0
            return
        before = self._cursor(topic, entry.reader)
        now = max(before or 0, min(entry.offset, topic.latest))
        if now > (before or 0):
            self._db.execute(
                "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?)",
                (topic.id, entry.reader, now, self._now),
            )
            self._cursors += before is None
            if self._cursors > self._settings.max_cursors:
                self._db.execute(
                    "DELETE FROM cursors WHERE (topic, reader) IN"
                    " (SELECT topic, reader FROM cursors ORDER BY moved LIMIT 1)"
                )
                self._cursors -= 1
        entry.offset = now

    def _cursor(self, topic: _Topic, reader: str) -> int | None:
        row = self._one(
            "SELECT offset FROM cursors WHERE topic = ? AND reader = ?", (topic.id, reader)
        )
        return None if row is None else row[0]

    def _find(self, name: str) -> _Topic | None:
        topic = self._topics.get(name)
        if topic is not None:
            self._topics.move_to_end(name)
            return topic
        row = self._one(
            "SELECT id, loss, latest, total, due, used FROM topics WHERE name = ?", (name,)
        )
        if row is None:
            return None
        id, loss, latest, total, due, used = row
        stored, before = latest + 1, total
        ends = self._all(
            "SELECT * FROM (SELECT offset, total, length(payload) FROM publications"
            " WHERE topic = ?1 ORDER BY offset LIMIT 1) UNION ALL"
            " SELECT * FROM (SELECT offset, total, 0 FROM publications"
            " WHERE topic = ?1 ORDER BY offset DESC LIMIT 1)",
            (id,),
        )
        if ends:
            (stored, before, size), (latest, total, _) = ends
            before -= size
        epoch = f"{self._era}-{loss}"
        return self._cache(
            _Topic(id, name, epoch, latest, total, stored, before, stored, before, due, used)
        )

    def _cache(self, topic: _Topic) -> _Topic:
        self._topics[topic.name] = topic
        if len(self._topics) > _MAX_CACHED:
            # What a batch has touched is newer in it than in the database.
            self._topics.pop(next(name for name in self._topics if name not in self._touched))
        return topic

    def _create(self, name: str) -> _Topic:
        loss = self._loss(name)
        due = self._now + self._retention.max_age
        self._db.execute(
            "INSERT INTO topics (name, loss, latest, total, due, used) VALUES (?, ?, 0, 0, ?, ?)",
            (name, loss, due, self._now),
        )
        id = self._db.last_insert_rowid()
        topic = _Topic(id, name, f"{self._era}-{loss}", 0, 0, 1, 0, 1, 0, due, self._now)
        self._touched[name] = self._cache(topic)
        self._count += 1
        if self._count - len(self._pins) > self._settings.max_topics:
            self._forget_one()
        return topic

    def _forget_one(self) -> None:
        """Forget the least recently used topic that is not subscribed, an empty one first."""
        for sql in _CANDIDATES:
            candidates = self._all(sql)
            for id, name in candidates:
                if name in self._touched:
                    continue
                if name in self._pins:  # in use: not to be looked at again soon
                    self._db.execute("UPDATE topics SET used = ? WHERE id = ?", (self._now, id))
                    continue
                bucket = _bucket(name)
                self._losses[bucket] = self._losses.get(bucket, 0) + 1
                self._db.execute(
                    "INSERT OR REPLACE INTO losses VALUES (?, ?)", (bucket, self._losses[bucket])
                )
                self._db.execute("DELETE FROM publications WHERE topic = ?", (id,))
                self._db.execute("DELETE FROM cursors WHERE topic = ?", (id,))
                self._cursors -= self._db.changes()
                self._db.execute("DELETE FROM topics WHERE id = ?", (id,))
                self._topics.pop(name, None)
                self._count -= 1
                return

    def _name_epoch(self, name: str) -> str:
        """Name the epoch of a topic without a row: new after each loss, the same until then."""
        return f"{self._era}-{self._loss(name)}"

    def _loss(self, name: str) -> int:
        return self._pins.get(name, self._losses.get(_bucket(name), 0))

    def _undo(self) -> None:
        """End a transaction that failed, and forget what it seemed to have done."""
        self._touched.clear()
        self._topics.clear()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._reload()

    def _reload(self) -> None:
        self._losses = dict(self._all("SELECT bucket, count FROM losses"))
        counts = "SELECT (SELECT count(*) FROM topics), (SELECT count(*) FROM cursors)"
        ((self._count, self._cursors),) = self._all(counts)

    def _all(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        rows = self._all(sql, values)
        return rows[0] if rows else None

    def _check_file(self) -> None:
        if self._identity() != self._file:
            raise FileGone("the file was taken away or replaced")

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _bucket(name: str) -> int:
    return zlib.crc32(name.encode()) % _BUCKETS
