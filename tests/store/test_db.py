"""One writer, many readers: what a commit promises."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ftd.bell import Bell
from ftd.core.errors import FtdError, Kind
from ftd.store.connection import connect
from ftd.store.db import READERS, Database, Transaction
from ftd.store.schema import migrate, outdated
from tests.running import until


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    db = Database(tmp_path / "ftd.db", Bell())
    await db.open()
    await db.write(lambda tx: tx.execute("CREATE TABLE notes (n INTEGER UNIQUE) STRICT") and None)
    yield db
    await db.close()


def add(n: int):  # type: ignore[no-untyped-def]
    def work(tx: Transaction) -> int:
        tx.execute("INSERT INTO notes VALUES (?)", (n,))
        return n

    return work


async def notes(database: Database) -> list[int]:
    return [row["n"] for row in await database.rows("SELECT n FROM notes ORDER BY n")]


async def test_a_write_returns_what_its_work_returns_and_is_seen_by_readers(
    database: Database,
) -> None:
    assert await database.write(add(7)) == 7
    assert await notes(database) == [7]


async def test_a_failing_change_spoils_nothing_for_its_neighbours(database: Database) -> None:
    results = await asyncio.gather(
        *(database.write(add(n)) for n in (1, 2, 2, 3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [int, int, sqlite3.IntegrityError, int]
    assert await notes(database) == [1, 2, 3]


async def test_a_change_is_undone_whole(database: Database) -> None:
    def work(tx: Transaction) -> None:
        tx.execute("INSERT INTO notes VALUES (1)")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await database.write(work)
    assert await notes(database) == []


async def test_waiting_changes_share_a_commit(database: Database) -> None:
    gate = threading.Event()
    blocked = asyncio.ensure_future(database.write(lambda tx: gate.wait(10) and None))
    rings = 0
    waiting = [asyncio.ensure_future(database.write(add(n))) for n in range(100)]
    heard = database._bell.listen()
    gate.set()
    await blocked
    await asyncio.gather(*waiting)
    await asyncio.wait_for(heard.wait(), 5)
    rings += 1
    assert len(await notes(database)) == 100
    assert rings == 1


async def test_a_caller_that_hangs_up_does_not_undo_its_write(database: Database) -> None:
    gate = threading.Event()
    blocked = asyncio.ensure_future(database.write(lambda tx: gate.wait(10) and None))
    hung_up = asyncio.ensure_future(database.write(add(1)))
    await asyncio.sleep(0)
    hung_up.cancel()
    gate.set()
    await blocked
    await database.write(add(2))
    assert await notes(database) == [1, 2]


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await database.rows("INSERT INTO notes VALUES (1)")
    await database.write(add(2))
    for _ in range(READERS):
        assert await notes(database) == [2], "it left no view open"


async def test_a_reader_sees_one_moment(database: Database) -> None:
    await database.write(add(1))
    async with database.reading() as read:
        before = await read("SELECT count(*) AS n FROM notes")
        await database.write(add(2))
        after = await read("SELECT count(*) AS n FROM notes")
    assert before[0]["n"] == after[0]["n"] == 1


async def test_a_cancelled_reader_goes_back_clean(database: Database) -> None:
    async def slow() -> None:
        async with database.reading() as read:
            await read("SELECT 1")
            await asyncio.Event().wait()

    for _ in range(10):  # more often than there are readers
        task = asyncio.ensure_future(slow())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await notes(database) == []


async def test_every_commit_rings(database: Database) -> None:
    heard = database._bell.listen()
    await database.write(add(1))
    await asyncio.wait_for(heard.wait(), 5)


async def test_a_change_that_says_what_it_is_about_wakes_nobody_else(database: Database) -> None:
    bell = database._bell
    mine, others = bell.listen("ftjob-1"), bell.listen("ftjob-2")
    await database.write(add(1), about=("ftjob-1",))
    assert mine.is_set()
    assert not others.is_set()
    gate = threading.Event()  # neighbours of one commit: one that says nothing is about everything
    blocked = asyncio.ensure_future(
        database.write(lambda tx: gate.wait(10) and None, about=("ftjob-1",))
    )
    waiting = [
        asyncio.ensure_future(database.write(add(2), about=("ftjob-1",))),
        asyncio.ensure_future(database.write(add(3))),
    ]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(blocked, *waiting)
    assert others.is_set()


async def test_a_reader_whose_caller_hung_up_serves_the_next(database: Database) -> None:
    await database.write(add(1))
    slow = (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
        "SELECT count(*) AS n FROM n"
    )
    for _ in range(10):  # more often than there are readers
        task = asyncio.ensure_future(database.rows(slow))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await database.write(add(2))
    assert await notes(database) == [1, 2], "and sees what was written since"


async def test_closing_finishes_what_waits_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    db = Database(tmp_path / "ftd.db", Bell())
    await db.open()
    await db.write(lambda tx: tx.execute("CREATE TABLE notes (n INTEGER) STRICT") and None)
    waiting = [asyncio.ensure_future(db.write(add(n))) for n in range(50)]
    await asyncio.sleep(0)
    await db.close()
    await db.close()
    assert sorted(await asyncio.gather(*waiting)) == list(range(50))

    def left() -> list[str]:  # to_thread's own stay; a thread of a connection may yet be ending
        names = [thread.name for thread in set(threading.enumerate()) - before]
        return [name for name in names if not name.startswith("asyncio_")]

    until(lambda: not left(), explain=lambda: f"left: {left()}")
    with pytest.raises(FtdError):
        await db.write(add(1))


def test_a_look_changes_no_schema(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    connection = connect(path)
    connection.execute("PRAGMA user_version = 0")
    connection.close()
    assert outdated(path)
    assert outdated(path)
    migrate(path)
    assert not outdated(path)


@pytest.mark.parametrize("name", ["a#b", "a?mode=memory", "a%41", "a b"])
async def test_a_home_may_be_called_anything(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    db = Database(tmp_path / name / "ftd.db", Bell())
    await db.open()
    await db.write(lambda tx: tx.execute("CREATE TABLE notes (n INTEGER) STRICT") and None)
    assert await db.rows("SELECT n FROM notes") == []
    await db.close()


async def test_a_full_disk_is_said_and_heals(tmp_path: Path) -> None:
    db = Database(tmp_path / "ftd.db", Bell())
    await db.open()
    try:
        await db.write(lambda tx: tx.execute("CREATE TABLE blobs (b BLOB) STRICT") and None)
        pages = await db.write(lambda tx: tx.execute("PRAGMA page_count").fetchone()[0])
        await db.write(lambda tx: tx.execute(f"PRAGMA max_page_count = {pages}") and None)
        big = "INSERT INTO blobs VALUES (zeroblob(1000000))"
        with pytest.raises(FtdError, match="disk is full"):
            await db.write(lambda tx: tx.execute(big) and None)
        await db.write(lambda tx: tx.execute("PRAGMA max_page_count = 100000") and None)
        await db.write(lambda tx: tx.execute(big) and None)
        assert (await db.rows("SELECT count(*) AS n FROM blobs"))[0]["n"] == 1
    finally:
        await db.close()


async def test_a_database_that_another_process_holds_is_waited_for_and_then_refused(
    database: Database,
) -> None:
    await database.write(lambda tx: tx.execute("PRAGMA busy_timeout = 100") and None)
    other = sqlite3.connect(database._path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(FtdError, match="locked by another process") as refused:
        await database.write(add(1))
    assert refused.value.kind is Kind.UNAVAILABLE
    assert await notes(database) == [], "what is read is read all the same"
    other.execute("ROLLBACK")
    other.close()
    assert await database.write(add(2)) == 2
    assert await notes(database) == [2]


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("what", ["removed", "replaced"])
async def test_nothing_is_acknowledged_that_nobody_would_find(
    database: Database, suffix: str, what: str
) -> None:
    await database.write(add(1))
    place = database._path.with_name(f"ftd.db{suffix}")
    aside = place.rename(place.with_name("aside"))
    if what == "replaced":
        place.write_bytes(aside.read_bytes())
    for n in (2, 3):
        with pytest.raises(FtdError, match=f"{place} was {what}") as refused:
            await database.write(add(n))
        assert refused.value.kind is Kind.UNAVAILABLE
    assert await asyncio.wait_for(database.lost(), 5) == f"{place} was {what}"


async def test_a_file_that_goes_while_nobody_writes_is_missed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftd.store.db.LOOK_S", 0.01)
    lost = asyncio.ensure_future(database.lost())
    await asyncio.sleep(0.05)
    assert not lost.done()
    database._path.rename(database._path.with_name("aside"))
    assert await asyncio.wait_for(lost, 5) == f"{database._path} was removed"


def test_migrating_twice_is_migrating_once(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    migrate(path)
    schema = _schema(path)
    migrate(path)
    assert _schema(path) == schema


def test_a_newer_schema_is_refused_with_words(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    migrate(path)
    connection = connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(FtdError, match="newer ftd"):
        migrate(path)


def test_commits_are_durable_and_links_are_checked(tmp_path: Path) -> None:
    connection = connect(tmp_path / "ftd.db")
    pragma = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "foreign_keys", "journal_mode")
    }
    connection.close()
    assert pragma == {"synchronous": 2, "foreign_keys": 1, "journal_mode": "wal"}


def _schema(path: Path) -> list[tuple[str, str]]:
    connection = connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    return [tuple(row) for row in rows]
