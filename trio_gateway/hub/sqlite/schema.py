"""The database file: opening it, and bringing it to this version's schema.

In: a connection, in its own thread. Out: one that is ready for the store, and what its file says of
itself. The rule: a file that is not ours, or newer than ours, is left as it was found.
"""

import secrets
from pathlib import Path
from typing import Literal, TypeAlias

import apsw
import attrs

Synchronous: TypeAlias = Literal["normal", "full"]

APPLICATION_ID = 0x5447_7773  # "TGws"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_IDLE_LOG = 2**26  # bytes of write-ahead log that stay allocated

# Each brings the schema from the version of its place to the next. What was released is never
# changed; a new version adds a step.
_MIGRATIONS = (
    """
    CREATE TABLE store (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        era TEXT NOT NULL,    -- first part of every epoch's name; another one begins all anew
        boot TEXT NOT NULL,   -- of the machine, when the file was opened last
        closed INTEGER NOT NULL,  -- 1 if nothing that was written can be missing
        tries INTEGER NOT NULL    -- counts trial writes
    );
    CREATE TABLE losses (  -- topics forgotten, by hash of the name: last part of an epoch's name
        bucket INTEGER PRIMARY KEY,
        count INTEGER NOT NULL
    );
    CREATE TABLE topics (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        loss INTEGER NOT NULL,    -- its bucket's when it began
        latest INTEGER NOT NULL,  -- offset, valid while no publication is kept
        total INTEGER NOT NULL,   -- bytes ever published, likewise
        due REAL,                 -- when to look for publications past their age; NULL if none kept
        used REAL NOT NULL        -- published to last, to the minute
    );
    CREATE INDEX topics_due ON topics (due) WHERE due IS NOT NULL;
    CREATE INDEX topics_used ON topics (used);
    CREATE INDEX topics_spent ON topics (used) WHERE due IS NULL;
    CREATE TABLE publications (
        topic INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        time REAL NOT NULL,      -- seconds since 1970; never falls within a topic
        total INTEGER NOT NULL,  -- bytes of the topic's payloads up to and with this one
        key TEXT,
        payload BLOB NOT NULL,
        PRIMARY KEY (topic, offset)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX publications_key ON publications (topic, key) WHERE key IS NOT NULL;
    CREATE TABLE cursors (
        topic INTEGER NOT NULL,
        reader TEXT NOT NULL,
        offset INTEGER NOT NULL,
        moved REAL NOT NULL,
        PRIMARY KEY (topic, reader)
    ) WITHOUT ROWID;
    CREATE INDEX cursors_moved ON cursors (moved);
    """,
)
VERSION = len(_MIGRATIONS)


@attrs.frozen(kw_only=True)
class SqliteSettings:
    """How a SQLite store is run; what it keeps of each topic is ``Retention``'s.

    Attributes:
        synchronous: ``"normal"``: what was acknowledged survives the process; ``"full"``: and the
            machine.
        max_topics: topics kept while nobody subscribes to them, the least recently used forgotten
            first, those without any history left before all others.
        max_cursors: read cursors kept, the least recently moved forgotten first.
        max_batch: publications of one commit; more wait for the next.
        max_batch_bytes: their payloads, but for the last.
        lock_timeout: seconds that a write waits for another program's lock before it fails.
    """

    synchronous: Synchronous = attrs.field(
        default="normal", validator=attrs.validators.in_(("normal", "full"))
    )
    max_topics: int = attrs.field(default=50_000, validator=attrs.validators.ge(1))
    max_cursors: int = attrs.field(default=100_000, validator=attrs.validators.ge(1))
    max_batch: int = attrs.field(default=1_024, validator=attrs.validators.ge(1))
    max_batch_bytes: int = attrs.field(default=2**22, validator=attrs.validators.ge(1))
    lock_timeout: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))


class Unusable(Exception):
    """A file that this version cannot use, and that no waiting will change; says why."""


def prepare(db: apsw.Connection, settings: SqliteSettings) -> str:
    """Make a connection ready, the schema current, and return the era.

    Raises:
        Unusable: the file is not a store, or a newer one.
        apsw.Error: SQLite's.
    """
    db.set_busy_timeout(int(settings.lock_timeout * 1000))
    _check_owner(db)
    mode = _value(db, "PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise Unusable(f"its file system allows no write-ahead log, only {mode}")
    # The marks of opening and closing must be on the disk before what they vouch for.
    for pragma in ("synchronous = FULL", "temp_store = MEMORY", "cache_size = -16384"):
        _value(db, f"PRAGMA {pragma}")
    _value(db, f"PRAGMA journal_size_limit = {_MAX_IDLE_LOG}")
    db.execute("BEGIN IMMEDIATE")
    try:
        _migrate(db)
        era = _open_era(db, safe=settings.synchronous == "full")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    db.execute(f"PRAGMA synchronous = {settings.synchronous}")
    return era


def seal(db: apsw.Connection) -> None:
    """Put everything on the disk and say so in the file; the connection stays open."""
    db.execute("PRAGMA synchronous = FULL")
    db.execute("UPDATE store SET closed = 1")
    _value(db, "PRAGMA wal_checkpoint(TRUNCATE)")


def damaged(db: apsw.Connection) -> str | None:
    """Return the first thing that is wrong with the file, None if it is sound; reads all of it."""
    found = str(_value(db, "PRAGMA quick_check(1)"))
    return None if found == "ok" else found


def _value(db: apsw.Connection, sql: str) -> object:
    row = db.execute(sql).fetchone()
    return None if row is None else row[0]


def _check_owner(db: apsw.Connection) -> None:
    owner = _value(db, "PRAGMA application_id")
    version = _value(db, "PRAGMA user_version")
    assert isinstance(version, int)
    empty = not _value(db, "SELECT count(*) FROM sqlite_schema")
    if owner != APPLICATION_ID and not (empty and owner == 0 and version == 0):
        raise Unusable("it is a SQLite database, but not a store of trio_gateway")
    if version > VERSION:
        raise Unusable(
            f"a newer trio_gateway wrote it (schema {version}, this one knows {VERSION}); "
            "use that version, or another file"
        )


def _migrate(db: apsw.Connection) -> None:
    version = _value(db, "PRAGMA user_version")
    assert isinstance(version, int)
    for step in _MIGRATIONS[version:]:
        db.execute(step)
    if version == 0:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("INSERT INTO store VALUES (1, ?, '', 1, 0)", (secrets.token_hex(4),))
    db.execute(f"PRAGMA user_version = {VERSION}")


def _open_era(db: apsw.Connection, *, safe: bool) -> str:
    """Mark the file as open, unless each commit is safe; after a machine's failure, a new era."""
    row = db.execute("SELECT era, boot, closed FROM store").fetchone()
    if row is None:
        raise Unusable("it has no identity; its table store is empty")
    era, boot, closed = row
    now = _boot()
    if not closed and (not now or boot != now):
        era = secrets.token_hex(4)
    db.execute("UPDATE store SET era = ?, boot = ?, closed = ?", (era, now, safe))
    return str(era)


def _boot() -> str:
    """Name this run of the machine; ``""`` where the system has no name for it."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
