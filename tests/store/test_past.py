"""Databases as earlier versions left them, one dump a schema: each becomes the present one whole.

A new migration adds the dump of the schema that it leaves behind, with rows in every table.
"""

import resource
import sqlite3
from pathlib import Path

import pytest

from ftd.bell import Bell
from ftd.core.errors import FtdError, Kind
from ftd.store import checkpoints, events, files, jobs, models
from ftd.store.connection import Unusable, connect
from ftd.store.copying import verify
from ftd.store.db import Database
from ftd.store.schema import migrate, version_of

DUMPS = sorted((Path(__file__).parent / "past").glob("*.sql"))
Rows = dict[str, list[tuple[object, ...]]]


def load(dump: Path, path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(dump.read_text())
    connection.close()
    return path


def columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {
        table: [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
        for (table,) in tables
        if not table.startswith("sqlite_")
    }


def rows(connection: sqlite3.Connection, known: dict[str, list[str]]) -> Rows:
    """Every row, in those columns that are known."""
    return {
        table: sorted(
            (tuple(row) for row in connection.execute(f"SELECT {', '.join(names)} FROM {table}")),
            key=repr,
        )
        for table, names in known.items()
    }


def expected(before: Rows, version: int) -> Rows:
    """What the rows of an older schema are now."""
    if version >= 3:
        return before
    # A step that an event tells already is not kept a second time.
    told = {(event[2], event[8], event[7]) for event in before["events"]}
    return before | {"steps": [step for step in before["steps"] if step not in told]}


def test_there_is_one_of_every_schema_that_was() -> None:
    scripts = (Path(events.__file__).parent / "migrations").glob("*.sql")
    assert [int(dump.stem) for dump in DUMPS] == list(range(1, len(list(scripts))))


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: f"schema-{dump.stem}")
def test_an_old_database_becomes_the_present_one_and_loses_no_row(
    dump: Path, tmp_path: Path
) -> None:
    path = load(dump, tmp_path / "ftd.db")
    old = sqlite3.connect(path)
    known = columns(old)
    before = rows(old, known)
    old.close()
    assert all(before.values()), "every table has rows"
    migrate(path)
    migrate(tmp_path / "new.db")
    now, new = connect(path), connect(tmp_path / "new.db")
    assert rows(now, known) == expected(before, int(dump.stem))
    assert columns(now) == columns(new)
    assert version_of(now, path) == version_of(new, path)
    verify(now, path)
    now.close()
    new.close()
    kept = sqlite3.connect(path.with_name(f"ftd.db.schema-{dump.stem}"))
    assert rows(kept, known) == before
    kept.close()


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: f"schema-{dump.stem}")
async def test_what_is_in_it_is_understood(dump: Path, tmp_path: Path) -> None:
    database = Database(load(dump, tmp_path / "ftd.db"), Bell())
    await database.open()
    try:
        for row in await database.rows("SELECT id FROM jobs"):
            assert await jobs.get(database, row["id"]) is not None
        for row in await database.rows("SELECT id FROM files WHERE deleted_at IS NULL"):
            assert await files.get(database, "default", row["id"]) is not None
        assert len(await models.visible(database, "default")) == 3
        assert len(await checkpoints.page(database, "ftjob-1", after=None, limit=10)) == 1
        assert len(await events.all_steps(database, "ftjob-1")) == 2
    finally:
        await database.close()


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: f"schema-{dump.stem}")
def test_a_migration_that_finds_no_room_for_a_copy_changes_nothing(
    dump: Path, tmp_path: Path
) -> None:
    path = load(dump, tmp_path / "ftd.db")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # its index of the log fits
    try:
        with pytest.raises(FtdError, match="no room for a copy") as refused:
            migrate(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.kind is Kind.NO_SPACE
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == int(dump.stem)
    connection.close()
    assert {one.name for one in tmp_path.iterdir()} == {"ftd.db"}


def test_only_the_newest_two_of_those_kept_stay(tmp_path: Path) -> None:
    path = load(DUMPS[-1], tmp_path / "ftd.db")
    for version in (0, 1):
        path.with_name(f"ftd.db.schema-{version}").touch()
    migrate(path)
    kept = {one.name for one in tmp_path.glob("ftd.db.schema-*")}
    assert kept == {"ftd.db.schema-1", f"ftd.db.schema-{DUMPS[-1].stem}"}


def test_a_damaged_one_is_not_migrated(tmp_path: Path) -> None:
    path = load(DUMPS[0], tmp_path / "ftd.db")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 4)
    before = path.read_bytes()[4096:]
    with pytest.raises(Unusable, match="damaged"):
        migrate(path)
    assert path.read_bytes()[4096:] == before
