"""Databases of earlier versions, with rows in them, become this version's and lose nothing."""

import json
import sqlite3
from pathlib import Path

import pytest

from ftd.bell import Bell
from ftd.core.device import Device
from ftd.core.ids import Ids
from ftd.core.job import State
from ftd.store import attempts, db, events, jobs
from ftd.store.connection import connect
from ftd.store.db import Database
from ftd.store.schema import migrate
from ftd.store.store import Store
from tests.store.conftest import HandClock

FIRST = """
INSERT INTO files (id, project, purpose, filename, bytes, sha256, created_at, status)
    VALUES ('file-1', 'p', 'fine-tune', 'a.jsonl', 1, '0', 0, 'processed');
INSERT INTO jobs (id, project, created_at, model, base, minted, training_file, seed, method,
        requested, state)
    VALUES ('ftjob-1', 'p', 0, 'm', 'm', 'ft:m::1', 'file-1', 1, 'supervised', '{}', 'running'),
           ('ftjob-2', 'p', 0, 'm', 'm', 'ft:m::2', 'file-1', 1, 'supervised', '{}', 'queued');
INSERT INTO attempts (id, job, number, launch, devices, started_at, ended_at, ending)
    VALUES (3, 'ftjob-1', 1, 'run-1', '["cpu"]', 5, 6, 'lost'),
           (4, 'ftjob-1', 2, 'run-2', '["cpu"]', 7, NULL, NULL);
INSERT INTO leases (device, slot, attempt) VALUES ('cpu', 0, 4), ('cpu', 1, 4), ('cpu', 2, 4);
"""

CPU = Device(id="cpu", kind="cpu", name="a CPU", memory_bytes=1, slots=3)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A database as the first version left it, in the middle of a job."""
    return become(tmp_path / "ftd.db", "0001_first.sql", FIRST)


def become(path: Path, migration: str, rows: str) -> Path:
    """The database as this migration and some use of it left it."""
    script = Path(db.__file__).parent / "migrations" / migration
    version = int(migration[:4])
    connection = connect(path)
    connection.executescript(
        f"BEGIN; {script.read_text()} {rows} PRAGMA user_version = {version}; COMMIT"
    )
    connection.close()
    return path


async def test_a_job_that_runs_keeps_its_device(first: Path) -> None:
    database = Database(first, Bell())
    await database.open()
    store = Store(database, HandClock(), Ids(bytes))
    try:
        (attempt,) = await attempts.live(database)
        assert (attempt.id, attempt.job, attempt.number) == (4, "ftjob-1", 2)
        snapshot = await store.snapshot((CPU,))
        assert snapshot.holders == {"cpu": "ftjob-1"}
        # Its trainer holds the kernel's lock alone, as it did then: nobody can serve beside it.
        assert snapshot.full == {"cpu"}
        assert await store.serve("m", "run-3", CPU) is None
        with pytest.raises(sqlite3.IntegrityError):
            await store.start("ftjob-2", "run-4", (CPU,))
        await store.stopped(attempt)
        job = await jobs.get(database, "ftjob-1")
        assert job is not None
        assert job.state is State.QUEUED
        assert await store.serve("m", "run-5", CPU) is not None
        assert await store.start("ftjob-2", "run-6", (CPU,)) is not None
    finally:
        await database.close()


def test_the_schema_is_as_if_it_had_always_been_so(first: Path, tmp_path: Path) -> None:
    migrate(first)
    migrate(tmp_path / "new.db")
    assert _schema(first) == _schema(tmp_path / "new.db")
    connection = connect(first)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert [tuple(row) for row in connection.execute("SELECT * FROM leases ORDER BY slot")] == [
        ("cpu", slot, 4, None) for slot in range(3)
    ]
    connection.close()


def test_what_was_before_is_kept_aside(first: Path) -> None:
    migrate(first)
    connection = connect(first.with_name("ftd.db.schema-1"))
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 1
    assert connection.execute("SELECT count(*) FROM leases").fetchone()[0] == 3
    connection.close()


STEPS = """
INSERT INTO events (id, job, created_at, level, type, message, data, step)
    VALUES ('ftevent-1', 'ftjob-1', 0, 'info', 'metrics', 'Step 1/2', '{"train_loss": 2.0}', 1),
           ('ftevent-2', 'ftjob-1', 0, 'info', 'metrics', 'Step 2/2', '{"train_loss": 1.5}', 2);
INSERT INTO steps (job, step, data)
    VALUES ('ftjob-1', 1, '{"train_loss": 2.0}'), ('ftjob-1', 2, '{"train_loss": 1.0}');
"""


@pytest.fixture
def second(first: Path) -> Path:
    """The second version's database, which kept the last values of every step apart."""
    return become(first, "0002_serving.sql", STEPS)


async def test_the_last_values_of_steps_are_what_they_were(second: Path) -> None:
    database = Database(second, Bell())
    await database.open()
    try:
        last = [json.loads(step) for step in await events.all_steps(database, "ftjob-1")]
        assert last == [{"train_loss": 2.0}, {"train_loss": 1.0}]
        kept = await database.rows("SELECT step FROM steps")
        assert [row["step"] for row in kept] == [2], "only what was said again"
        again = events.StepTold(2, "ftevent-3", "Step 2/2", '{"train_loss": 0.5}')
        assert await database.write(lambda tx: events.tell_steps(tx, "ftjob-1", 0, [again])) == 0
        assert json.loads((await events.all_steps(database, "ftjob-1"))[1]) == {"train_loss": 0.5}
    finally:
        await database.close()


def test_the_second_schema_becomes_this_one_too(second: Path, tmp_path: Path) -> None:
    migrate(second)
    migrate(tmp_path / "new.db")
    assert _schema(second) == _schema(tmp_path / "new.db")


MADE = """
UPDATE jobs SET state = 'succeeded', finished_at = 9, fine_tuned_model = minted
    WHERE id = 'ftjob-1';
INSERT INTO models (name, project, kind, base, path, sha256, created_at, job, deleted_at)
    VALUES ('ft:m::1:ckpt-step-1', 'p', 'checkpoint', 'm', 'b', 'not this', 1, 'ftjob-1', NULL),
           ('ft:m::1', 'p', 'tuned', 'm', 'a', 'this', 1, 'ftjob-1', 10);
"""


async def test_jobs_that_succeeded_show_the_hash_of_their_model(second: Path) -> None:
    database = Database(become(second, "0003_paging.sql", MADE), Bell())
    await database.open()
    try:
        done, other = await jobs.get(database, "ftjob-1"), await jobs.get(database, "ftjob-2")
        assert done is not None
        assert other is not None
        assert (done.fine_tuned_model_sha256, other.fine_tuned_model_sha256) == ("this", None)
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("question", "index"),
    [
        ("SELECT 1 FROM events WHERE job = ? AND message = ? AND step IS NULL", "events_said"),
        ("SELECT method, state, count(*) FROM jobs GROUP BY method, state", "jobs_counted"),
        ("SELECT min(created_at) FROM jobs WHERE state = 'queued'", "jobs_waiting"),
        ("SELECT * FROM events WHERE job = ? AND seq < ? ORDER BY seq DESC", "events_by_job"),
        ("SELECT * FROM jobs WHERE project = ? AND seq < ? ORDER BY seq DESC", "jobs_listed"),
        ("SELECT * FROM jobs WHERE finished_at IS NULL", "jobs_open"),
    ],
)
def test_what_is_asked_often_has_an_index(second: Path, question: str, index: str) -> None:
    migrate(second)
    connection = connect(second)
    unknown = ("x",) * question.count("?")
    plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {question}", unknown)]
    connection.close()
    assert len(plan) == 1, "nothing is sorted"
    assert plan[0].split(" USING ")[1].replace("COVERING ", "").split()[1] == index


def _schema(path: Path) -> list[tuple[str, str]]:
    connection = connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    return [tuple(row) for row in rows]
