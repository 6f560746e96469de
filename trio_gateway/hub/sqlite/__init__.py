"""The broker in a SQLite file: one process, and what was acknowledged outlives it.

In: a path. Out: a ``Broker``, for as long as its ``async with`` lasts::

    async with open_sqlite("chat.db") as broker:
        application = Application(broker)

**The promise.** ``publish`` returns after the commit, and delivery follows it. Publications that
wait at the same moment share one commit. What was acknowledged survives the end of the process,
``kill -9`` included, in both settings of ``synchronous``:

- ``"normal"`` (the default) leaves the last writes to the operating system. If the *machine* stops
  (power, kernel), the last second or so may be lost, never the file. The store notices at its next
  start that the machine was started anew without a proper end, and begins a new epoch: clients are
  told ``recovered: false`` instead of meeting other messages under offsets they know.
- ``"full"`` waits for the disk in each commit: a power failure loses nothing that was acknowledged,
  on disks that tell the truth.

**When the store fails** (full disk, read-only file, somebody else's lock, damage, the file gone),
nothing is acknowledged, ``StoreUnavailable`` is raised at once, ``available`` is false, and the
broker tries again by itself, after 0.1 seconds at first and 5 at most. A file that was taken away
is begun anew, empty, under a new epoch. Reads go on as long as the file can be read.

**At the start**, what an operator must mend raises ``ConfigurationError`` in one line: a path that
cannot be opened or written, a file that is damaged or not a store, one that a newer version wrote,
one that another gateway has open. What may pass by itself (a full disk, a lock) does not: the
broker starts unavailable and goes on trying.

**One gateway a file.** A lock on ``PATH-lock`` belongs to the process and ends with it; the file
itself stays. Other programs may read the database meanwhile, for a backup say (``VACUUM INTO``,
``.backup``). After putting a backup back, begin a new epoch, because the offsets after it were
given out already: ``UPDATE store SET era = lower(hex(randomblob(4)))``.

**Versions.** ``PRAGMA user_version`` numbers the schema, ``PRAGMA application_id`` says whose it
is. An older schema is brought up step by step when it is opened, in one transaction
(``schema.py``); a newer one is refused, so going back to an older release means going back to a
backup.
"""

from trio_gateway.hub.sqlite.broker import SqliteBroker, SqliteStatistics, open_sqlite
from trio_gateway.hub.sqlite.schema import SqliteSettings

__all__ = ["SqliteBroker", "SqliteSettings", "SqliteStatistics", "open_sqlite"]
