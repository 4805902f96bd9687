"""An older database is put back: what the runs hold is told again, and nothing starts twice."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ftd.core.job import State
from ftd.runner.found import take_up
from ftd.store import attempts, checkpoints
from ftd.store.db import Database
from tests.runner.test_resuming import runs, until
from tests.runner.test_runner import CPU, World, processes, world

__all__ = ["world"]


def copy(database: Path, target: Path) -> None:
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(target)) as copied:
        source.backup(copied)


async def open_gate(world: World, number: int) -> None:
    """Let the attempt of this number go on, once it is there."""

    async def there() -> bool:
        return len(runs(world)) == number

    await until(there)
    (runs(world)[number - 1] / "out" / "open").write_text("")


@pytest.fixture
async def put_back(world: World) -> AsyncIterator[World]:
    """Two attempts that were killed, a third that trains, and a database of the first's time."""
    world.start()
    await world.submit(["gate"], ["onward", 3, 9])

    async def began() -> bool:
        return len(runs(world)) == 1 and bool(await attempts.live(world.store.db))

    await until(began)
    old = world.home.root / "old.db"
    await asyncio.to_thread(copy, world.home.database, old)
    await open_gate(world, 1)
    await open_gate(world, 2)

    async def third() -> bool:
        return len(runs(world)) == 3

    await until(third)
    await world.crash()
    await world.store.db.close()
    for name in ("ftd.db-wal", "ftd.db-shm", "ftd.db"):
        (world.home.root / name).unlink(missing_ok=True)
    old.rename(world.home.database)
    database = Database(world.home.database, world.bell)
    await database.open()
    world.rooms = replace(world.rooms, store=replace(world.store, db=database))
    yield world
    await world.crash()
    await database.close()


async def test_later_runs_are_told_again_and_the_last_is_followed(put_back: World) -> None:
    world = put_back
    trainers = {process.pid for process in processes(world.home)}
    assert await checkpoints.resume_points(world.store.db, "ftjob-1") == ()
    await take_up(world.rooms, (CPU,))
    (attempt,) = await attempts.live(world.store.db)
    assert (attempt.number, attempt.launch, attempt.devices) == (3, runs(world)[2].name, ("cpu",))
    points = await checkpoints.resume_points(world.store.db, "ftjob-1")
    assert [point.step for point in points] == [6, 3]
    await take_up(world.rooms, (CPU,))
    assert await attempts.live(world.store.db) == (attempt,), "all of them are known now"

    world.start()
    assert {process.pid for process in processes(world.home)} == trainers
    await open_gate(world, 3)
    job = await world.until(State.SUCCEEDED)
    assert job.step == 9
    assert await world.steps() == list(range(1, 10))
    told = await world.told()
    assert [m for m in told if m.startswith("Resumed")] == [
        "Resumed from step 3", "Resumed from step 6",
    ]  # fmt: skip
    assert len(runs(world)) == 3


async def test_a_run_of_a_job_that_is_over_is_ended(put_back: World) -> None:
    world = put_back
    await world.store.cancel("ftjob-1")
    await take_up(world.rooms, (CPU,))
    world.start()
    await world.until_free()
    assert not processes(world.home)
    assert (await world.job()).state is State.CANCELLED
    assert await world.steps() == []


async def test_a_run_of_no_known_job_is_left_alone(put_back: World) -> None:
    world = put_back
    trainers = {process.pid for process in processes(world.home)}

    def forget(tx: sqlite3.Connection) -> None:
        for table in ("leases", "attempts", "events", "jobs"):
            tx.execute(f"DELETE FROM {table}")

    await world.store.db.write(forget)
    await take_up(world.rooms, (CPU,))
    assert await attempts.live(world.store.db) == ()
    assert {process.pid for process in processes(world.home)} == trainers
    assert len(runs(world)) == 3


async def test_a_device_that_is_leased_already_is_not_leased_twice(put_back: World) -> None:
    world = put_back
    await world.store.stopped((await attempts.live(world.store.db))[0])
    await world.submit(["hang"], name="ftjob-2")
    other = await world.store.start("ftjob-2", "run-other", (CPU,))
    await take_up(world.rooms, (CPU,))
    both = await attempts.live(world.store.db)
    assert [(attempt.job, attempt.devices) for attempt in both] == [
        ("ftjob-2", ("cpu",)), ("ftjob-1", ()),
    ]  # fmt: skip
    assert both[0] == other
    assert await attempts.holders(world.store.db) == {"cpu": "ftjob-2"}


async def test_a_number_that_is_there_already_is_not_taken_twice(put_back: World) -> None:
    """A daemon ran on the older database before: its own second attempt is another one."""
    world = put_back
    await world.store.stopped((await attempts.live(world.store.db))[0])
    mine = await world.store.start("ftjob-1", "run-mine", (CPU,))
    assert mine is not None
    await take_up(world.rooms, (CPU,))
    assert await attempts.live(world.store.db) == (mine,)
