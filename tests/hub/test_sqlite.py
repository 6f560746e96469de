"""The broker in a file, case by case; the conformance machine next door holds the contract."""

import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import attrs
import pytest
import trio
import trio.testing

from trio_gateway.errors import ConfigurationError, StoreUnavailable
from trio_gateway.hub.broker import Publication, Retention, Watched
from trio_gateway.hub.positions import Position
from trio_gateway.hub.sqlite import SqliteBroker, SqliteSettings, open_sqlite, schema
from trio_gateway.hub.sqlite.store import Advance, Append, Store

TOPIC = "chat:lobby"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@attrs.define
class Now:
    """A clock that is set."""

    seconds: float = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


def value(path: Path, sql: str) -> Any:
    """Ask the file, as another program would."""
    connection = apsw.Connection(str(path))
    try:
        return connection.execute(sql).get
    finally:
        connection.close()


def change(path: Path, sql: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(sql).fetchall()
    connection.close()


def content(path: Path) -> bytes:
    return path.read_bytes()


def remove(path: Path) -> None:
    """Take the database away."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def damage(path: Path, start: int, end: int | None = None) -> None:
    """Write noise into a file."""
    data = bytearray(path.read_bytes())
    data[start:end] = random.Random(1).randbytes(len(data[start:end]))
    with path.open("r+b") as file:
        file.write(data)


async def publish_many(broker: SqliteBroker, topic: str, size: int) -> list[int]:
    """Publish until the store fails; return the offsets acknowledged."""
    acknowledged: list[int] = []
    try:
        while len(acknowledged) < 1_000:
            acknowledged += [(await broker.publish(topic, b"x" * size)).offset]
    except StoreUnavailable:
        return acknowledged
    raise AssertionError("the store does not fail")


async def offsets(broker: SqliteBroker, topic: str = TOPIC) -> list[int]:
    page = await broker.history(topic, limit=10_000)
    return [publication.position.offset for publication in page.publications]


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - what changes is in a file, or a back-off
            await trio.sleep(0.01)


@asynccontextmanager
async def running(broker: SqliteBroker) -> AsyncGenerator[list[Publication], None]:
    """Run a broker's stream; gives what was delivered."""
    delivered: list[Publication] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(broker.run, delivered.append))
        yield delivered
        nursery.cancel_scope.cancel()


# What is kept.


async def test_what_was_acknowledged_is_there_again(path: Path) -> None:
    """History, epoch, keys and cursors outlive the broker."""
    async with open_sqlite(path) as broker:
        first = await broker.publish(TOPIC, b"\x00'; DROP TABLE topics; --", key="k'\x00")
        await broker.publish(TOPIC, b"two")
        await broker.advance(TOPIC, "ann'; --", 1)
        before = await broker.history(TOPIC)
    async with open_sqlite(path) as broker:
        assert before == await broker.history(TOPIC)
        assert first == await broker.publish(TOPIC, b"again", key="k'\x00")
        assert 1 == await broker.cursor(TOPIC, "ann'; --")
        assert 3 == (await broker.publish(TOPIC, b"three")).offset


async def test_many_publishers_share_a_commit(path: Path) -> None:
    """What waits at one moment is one transaction, and each gets its own position."""
    positions: list[Position] = []

    async with open_sqlite(path) as broker:

        async def publish() -> None:
            positions.append(await broker.publish(TOPIC, b"x"))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(publish)
        assert set(range(1, 101)) == {position.offset for position in positions}
        assert 100 == broker.statistics().publications
        assert broker.statistics().commits < 10


async def test_a_batch_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers over the bound wait for the next transaction."""
    sizes: list[int] = []
    commit = Store.commit

    def measured(store: Store, entries: Sequence[Append | Advance], now: float) -> Any:
        sizes.append(len(entries))
        return commit(store, entries, now)

    monkeypatch.setattr(Store, "commit", measured)
    async with open_sqlite(path, settings=SqliteSettings(max_batch=4)) as broker:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(broker.publish, TOPIC, b"x")
        assert list(range(1, 11)) == await offsets(broker)
        # How they are cut depends on how fast a commit is.
        assert max(sizes) <= 4, sizes
        assert 10 == sum(sizes)
        assert len(sizes) == broker.statistics().commits


async def test_submitted_publications_of_a_task_are_in_order(path: Path) -> None:
    """A task that doesn't wait for each has them stored in its order, in one commit."""
    async with open_sqlite(path) as broker:
        receipts = [await broker.submit(TOPIC, b"x") for _ in range(20)]
        assert list(range(1, 21)) == [(await r.position()).offset for r in receipts]
        assert 1 == broker.statistics().commits


async def test_a_cancelled_publisher_harms_nobody(path: Path) -> None:
    """Its publication is stored and delivered all the same; the others get theirs."""
    async with open_sqlite(path) as broker, running(broker) as delivered:
        await broker.subscribe(TOPIC)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.publish, TOPIC, b"cancelled")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await broker.publish(TOPIC, b"next")
        assert [b"cancelled", b"next"] == [publication.payload for publication in delivered]


async def test_a_reader_with_a_deadline_sees_its_own_timeout(path: Path) -> None:
    """apsw's TooSlowError never takes the place of Trio's cancellation."""
    async with open_sqlite(path) as broker:
        await broker.publish(TOPIC, b"x")
        for _ in range(50):
            with trio.move_on_after(0.0001):
                while True:
                    await broker.history(TOPIC)
        assert [1] == await offsets(broker)


async def test_rows_are_deleted_some_at_a_time_and_pages_are_exact(path: Path) -> None:
    """The table may hold an eighth more than is kept; no page shows it."""
    retention = Retention(max_publications=80, max_bytes=400)
    async with open_sqlite(path, retention=retention) as broker:
        for number in range(1, 300):
            await broker.publish(TOPIC, b"12345" if number > 150 else b"1", key=str(number))
            page = await broker.history(TOPIC, limit=1_000)
            assert min(number, 80) == len(page.publications)
        await broker.publish(TOPIC, b"x" * 390)
        page = await broker.history(TOPIC, limit=1_000)
        assert (298, 300) == (page.first, page.position.offset)
        await broker.publish(TOPIC, b"x" * 4_000)
        assert [301] == await offsets(broker)
        assert 302 == (await broker.publish(TOPIC, b"", key="7")).offset
    assert value(path, "SELECT count(*) FROM publications") <= 90


async def test_old_publications_leave_the_file(path: Path) -> None:
    """Nobody has to look: what is past its age is deleted; offsets go on."""
    now = Now()
    async with open_sqlite(path, retention=Retention(max_age=0.2), clock=now) as broker:
        await broker.publish(TOPIC, b"x", key="k")
        now.seconds += 1
        await until(lambda: value(path, "SELECT count(*) FROM publications") == 0)
    async with open_sqlite(path, retention=Retention(max_age=10), clock=now) as broker:
        assert 2 == (await broker.publish(TOPIC, b"y", key="k")).offset
        now.seconds -= 500
        assert 3 == (await broker.publish(TOPIC, b"a clock set back")).offset
        assert [2, 3] == await offsets(broker)


async def test_topics_are_bounded(path: Path) -> None:
    """The least recently used is forgotten, not one that is subscribed; it has a new epoch then."""
    now = Now()
    settings = SqliteSettings(max_topics=2)
    async with open_sqlite(path, settings=settings, clock=now) as broker:
        await broker.subscribe("chat:kept")
        kept = await broker.publish("chat:kept", b"x")
        first = await broker.publish("chat:1", b"x")
        await broker.advance("chat:1", "ann", 1)
        for number in range(2, 6):
            now.seconds += 100
            await broker.publish(f"chat:{number}", b"x")
        assert [] == await offsets(broker, "chat:1")
        assert 0 == await broker.cursor("chat:1", "ann")
        assert [1] == await offsets(broker, "chat:5")
        assert kept == (await broker.history("chat:kept")).position
    async with open_sqlite(path, settings=settings, clock=now) as broker:
        again = await broker.publish("chat:1", b"x")
        assert (1, True) == (again.offset, again.epoch != first.epoch)
    assert value(path, "SELECT count(*) FROM cursors") == 0


async def test_cursors_are_bounded(path: Path) -> None:
    """The least recently moved is forgotten."""
    now = Now()
    async with open_sqlite(path, settings=SqliteSettings(max_cursors=2), clock=now) as broker:
        await broker.publish(TOPIC, b"x")
        for reader in ("a", "b", "c"):
            now.seconds += 1
            await broker.advance(TOPIC, reader, 1)
        assert [0, 1, 1] == [await broker.cursor(TOPIC, reader) for reader in "abc"]


async def test_a_stream_that_was_interrupted_goes_on(path: Path) -> None:
    """What came while nobody ran it is delivered first, then what comes."""
    async with open_sqlite(path) as broker:
        await broker.publish(TOPIC, b"before")
        await broker.subscribe(TOPIC)
        await broker.publish(TOPIC, b"1")
        async with running(broker) as delivered:
            await broker.publish(TOPIC, b"2")
        await broker.publish(TOPIC, b"3")
        async with running(broker) as more:
            await broker.publish(TOPIC, b"4")
            with pytest.raises(RuntimeError, match="running already"):
                await broker.run(delivered.append)
        assert [b"1", b"2"] == [publication.payload for publication in delivered]
        assert [b"3", b"4"] == [publication.payload for publication in more]


async def test_text_that_is_none_is_refused(path: Path) -> None:
    """A lone surrogate is the caller's error, wherever it stands."""
    async with open_sqlite(path) as broker:
        for call in (
            broker.publish("chat:\ud800", b"x"),
            broker.publish(TOPIC, b"x", key="\ud800"),
            broker.history("chat:\ud800"),
            broker.subscribe("chat:\ud800"),
            broker.advance(TOPIC, "\ud800", 1),
            broker.cursor(TOPIC, "\ud800"),
        ):
            with pytest.raises(ValueError):
                await call
        with pytest.raises(ValueError):
            await broker.history(TOPIC, limit=-1)
        with pytest.raises(ValueError):
            await broker.history(TOPIC, since=Position("e", 1), before=1)
        assert broker.available


async def test_an_exception_comes_out_as_it_is(path: Path) -> None:
    """Not in a group; and the file is closed properly."""
    broker = None
    with pytest.raises(KeyError):
        async with open_sqlite(path) as broker:
            raise KeyError
    assert broker is not None
    with pytest.raises(StoreUnavailable, match="closed"):
        await broker.publish(TOPIC, b"x")
    assert 1 == value(path, "SELECT closed FROM store")
    assert ["store.db", "store.db-lock"] == sorted(os.listdir(path.parent))


# Epochs.


async def test_a_machine_that_failed_begins_a_new_epoch(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With "normal" something may be lost then, so clients must not trust their offsets."""
    async with open_sqlite(path) as broker:
        first = await broker.publish(TOPIC, b"x")
    async with open_sqlite(path) as broker:
        assert first == (await broker.history(TOPIC)).position
    change(path, "UPDATE store SET closed = 0, boot = 'another'")
    async with open_sqlite(path) as broker:
        page = await broker.history(TOPIC, since=first)
        assert (False, 1) == (page.recovered, page.position.offset)
        assert first.epoch != page.position.epoch
    async with open_sqlite(path, settings=SqliteSettings(synchronous="full")) as broker:
        assert 1 == value(path, "SELECT closed FROM store")
    monkeypatch.setattr(schema, "_BOOT_ID", path / "none")
    async with open_sqlite(path) as broker:
        assert page.position == (await broker.history(TOPIC)).position


# What cannot be opened.


@pytest.mark.parametrize(
    "sql, message",
    [
        ("CREATE TABLE mine (x)", "not a store of trio_gateway"),
        ("PRAGMA application_id = 7", "not a store of trio_gateway"),
        (
            f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = 99",
            "a newer trio_gateway wrote it (schema 99, this one knows 1)",
        ),
    ],
)
async def test_a_file_of_others_is_left_alone(path: Path, sql: str, message: str) -> None:
    """One line says why, and not a byte of it is changed."""
    change(path, sql)
    before = content(path)
    with pytest.raises(ConfigurationError) as caught:
        async with open_sqlite(path):
            pass
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before == content(path)


async def test_what_is_no_database_is_left_alone(path: Path) -> None:
    """A text file, a folder, a folder that is not there."""
    await trio.Path(path).write_bytes(b"not a database, " * 1_000)
    for wrong, message in (
        (path, "not a SQLite database"),
        (path.parent, "opened"),
        (path.parent / "none" / "store.db", "No such file"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            async with open_sqlite(wrong):
                pass


async def test_a_damaged_file_is_refused(path: Path) -> None:
    """One line says so, and what to do."""
    async with open_sqlite(path) as broker:
        await broker.publish(TOPIC, b"x")
    damage(path, 100, 4096)
    with pytest.raises(ConfigurationError, match=r"damaged.*backup"):
        async with open_sqlite(path):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_file_that_cannot_be_written_is_refused(path: Path) -> None:
    """Permission is asked for at the start."""
    async with open_sqlite(path):
        pass
    await trio.Path(path).chmod(0o400)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        async with open_sqlite(path):
            pass


async def test_one_gateway_a_file(path: Path) -> None:
    """The second is refused, by whatever name; when the first is gone, it may."""
    link = path.with_name("link.db")
    await trio.Path(link).symlink_to(path)
    async with open_sqlite(path):
        for name in (path, link):
            with pytest.raises(ConfigurationError, match=f"another gateway.*{os.getpid()}"):
                async with open_sqlite(name):
                    pass
    async with open_sqlite(link) as broker:
        assert broker.available


# What fails while it is open, and heals.


async def test_a_broker_that_is_watched(path: Path) -> None:
    """Readiness can ask it."""
    async with open_sqlite(path) as broker:
        assert isinstance(broker, Watched)
        assert (True, None) == (broker.available, broker.problem)


async def test_a_full_disk(path: Path) -> None:
    """Publishers are refused, readers are served; with room again, it goes on by itself."""
    async with open_sqlite(path) as broker, running(broker) as delivered:
        await broker.subscribe(TOPIC)
        db = broker._db
        await db.async_run(lambda: db.execute("PRAGMA max_page_count = 30").fetchall())
        acknowledged = await publish_many(broker, TOPIC, 4_000)
        assert "full" in str(broker.problem)
        assert acknowledged == await offsets(broker)
        assert 0 < len(acknowledged)
        await db.async_run(lambda: db.execute("PRAGMA max_page_count = 100000").fetchall())
        await until(lambda: broker.available)
        acknowledged.append((await broker.publish(TOPIC, b"y" * 4_000)).offset)
        assert list(range(1, len(acknowledged) + 1)) == acknowledged
        assert acknowledged == await offsets(broker)
        assert acknowledged == [publication.position.offset for publication in delivered]


async def test_a_lock_of_another_program(path: Path) -> None:
    """Its holder is waited for, then publishers are refused; it heals when the lock is gone."""
    async with open_sqlite(path, settings=SqliteSettings(lock_timeout=0.05)) as broker:
        await broker.publish(TOPIC, b"1")
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await broker.publish(TOPIC, b"2", key="k")
        assert not broker.available
        assert [1] == await offsets(broker)
        other.execute("ROLLBACK")
        other.close()
        await until(lambda: broker.available)
        assert 2 == (await broker.publish(TOPIC, b"2", key="k")).offset


async def test_a_lock_at_the_start(path: Path) -> None:
    """The broker opens unavailable, and goes on trying."""
    async with open_sqlite(path):
        pass
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    async with open_sqlite(path, settings=SqliteSettings(lock_timeout=0.01)) as broker:
        assert not broker.available
        for call in (
            broker.publish(TOPIC, b"x"),
            broker.history(TOPIC),
            broker.subscribe(TOPIC),
            broker.advance(TOPIC, "ann", 1),
            broker.cursor(TOPIC, "ann"),
        ):
            with pytest.raises(StoreUnavailable):
                await call
        other.close()
        await until(lambda: broker.available)
        await broker.publish(TOPIC, b"x")


async def test_a_file_made_read_only(path: Path) -> None:
    """As after an error of the disk, when the system lets nobody write."""
    async with open_sqlite(path) as broker:
        db = broker._db
        await db.async_run(lambda: db.execute("PRAGMA query_only = 1"))
        with pytest.raises(StoreUnavailable, match="readonly"):
            await broker.publish(TOPIC, b"x")
        assert [] == await offsets(broker)
        await db.async_run(lambda: db.execute("PRAGMA query_only = 0"))
        await until(lambda: broker.available)
        assert 1 == (await broker.publish(TOPIC, b"x")).offset


async def test_a_file_that_is_taken_away(path: Path) -> None:
    """Nothing is acknowledged into a file that nobody will find; it begins anew, a new epoch."""
    async with open_sqlite(path) as broker, running(broker) as delivered:
        await broker.subscribe(TOPIC)
        first = await broker.publish(TOPIC, b"1")
        remove(path)
        with pytest.raises(StoreUnavailable, match="taken away"):
            await broker.publish(TOPIC, b"lost")
        await until(lambda: broker.available)
        again = await broker.publish(TOPIC, b"2")
        assert (1, True) == (again.offset, again.epoch != first.epoch)
        assert b"2" == delivered[-1].payload
    assert 1 == value(path, "SELECT count(*) FROM publications")


async def test_damage_while_it_is_open(path: Path) -> None:
    """The store stays unavailable until the file is sound again, whatever still works of it."""
    async with open_sqlite(path) as broker:
        for number in range(200):
            await broker.publish(TOPIC, b"x" * 1_000, key=str(number))
        good = path.with_suffix(".good")
        change(path, f"VACUUM INTO '{good}'")
        db = broker._db
        await db.async_run(lambda: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        damage(path, 4096)
        await db.async_run(lambda: db.execute("PRAGMA cache_size = 0"))
        await publish_many(broker, "chat:another", 1_000)
        await trio.sleep(0.5)
        assert not broker.available
        remove(path)
        await trio.Path(good).rename(path)
        await until(lambda: broker.available)
        assert list(range(1, 201)) == await offsets(broker)
