"""What runs leave behind goes when nobody needs it, and not before."""

import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftd.bell import Bell
from ftd.core.ids import Ids
from ftd.core.job import Attempt
from ftd.host import unknown
from ftd.host.home import Home
from ftd.runner.janitor import Janitor, thin
from ftd.store import checkpoints
from ftd.store.db import Database
from ftd.store.store import Store
from tests.store.conftest import HandClock

DAY = 86_400
NOW = 100 * DAY
ROWS = """
INSERT INTO files (id, project, purpose, filename, bytes, sha256, created_at, status)
    VALUES ('file-1', 'p', 'fine-tune', 'a.jsonl', 1, '0', 0, 'processed');
"""


@dataclass
class House:
    store: Store
    home: Home
    janitor: Janitor

    async def sql(self, script: str) -> None:
        def work(tx: sqlite3.Connection) -> None:
            for statement in script.split(";"):
                tx.execute(statement)

        await self.store.db.write(work)

    async def job(self, name: str, state: str, finished_at: int | None = None) -> None:
        tuned = f"'ft:m::{name}'" if state == "succeeded" else "NULL"
        await self.sql(
            "INSERT INTO jobs (id, project, created_at, model, base, minted, training_file, seed, "
            "method, requested, state, finished_at, fine_tuned_model) VALUES "
            f"('{name}', 'p', 0, 'm', 'm', 'ft:m::{name}', 'file-1', 1, 'supervised', '{{}}', "
            f"'{state}', {finished_at or 'NULL'}, {tuned})"
        )

    async def run(self, launch: str, job: str, number: int = 1, *, alive: bool = False) -> Path:
        """A run directory as a trainer leaves it, and its attempt's row."""
        ended = ("NULL", "NULL") if alive else ("50", "'lost'")
        await self.sql(
            "INSERT INTO attempts (job, number, launch, devices, started_at, ended_at, ending) "
            f"VALUES ('{job}', {number}, '{launch}', '[]', 1, {ended[0]}, {ended[1]})"
        )
        return self.directory(launch)

    def directory(self, launch: str) -> Path:
        run = self.home.runs / launch
        (run / "in").mkdir(parents=True)
        for name in ("in/spec.json", "spool", "worker.log", "exit.json", "assigned.json"):
            (run / name).write_text(name)
        return run

    async def checkpoint(self, run: Path, job: str, step: int, *, named: bool = False) -> Path:
        place = self.draft(run, f"step-{step}")
        path = place.relative_to(self.home.root)
        model = f"'{job}:{step}'" if named else "NULL"
        await self.sql(
            "INSERT INTO checkpoints (id, job, created_at, step, model, metrics, path, sha256) "
            f"VALUES ('{job}-{step}', '{job}', 1, {step}, {model}, '{{}}', '{path}', '0')"
        )
        if named:
            await self.sql(
                "INSERT INTO models (name, project, kind, base, path, sha256, created_at, job) "
                f"VALUES ({model}, 'p', 'checkpoint', 'm', '{path}/adapter', '0', 1, '{job}')"
            )
        return place

    def draft(self, run: Path, name: str) -> Path:
        place = run / "out" / "checkpoints" / name
        (place / "adapter").mkdir(parents=True)
        for file in ("MANIFEST.json", "state.json", "adapter/adapter_model.safetensors"):
            (place / file).write_text(file)
        return place

    def left(self, run: Path) -> set[str]:
        """Every file below, relative to it."""
        return {str(path.relative_to(run)) for path in run.rglob("*") if not path.is_dir()}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    home = Home(tmp_path / "home")
    home.make()
    database = Database(home.database, Bell())
    await database.open()
    store = Store(database, HandClock(NOW), Ids(random.Random(1).randbytes))
    house = House(store, home, Janitor(store, home, keep_days=7))
    await house.sql(ROWS.strip().rstrip(";"))
    yield house
    await database.close()


LOG = {"in/spec.json", "spool", "worker.log", "exit.json", "assigned.json"}
WHOLE = {"MANIFEST.json", "state.json", "adapter/adapter_model.safetensors"}


def below(step: int) -> set[str]:
    return {f"out/checkpoints/step-{step}/{name}" for name in WHOLE}


async def test_a_job_that_was_over_long_ago_leaves_its_models_alone(house: House) -> None:
    await house.job("j", "succeeded", NOW - 7 * DAY)
    first, second = await house.run("r1", "j"), await house.run("r2", "j", 2)
    await house.checkpoint(first, "j", 2)
    place = await house.checkpoint(second, "j", 3, named=True)
    await house.janitor.sweep()
    assert not first.exists()
    assert house.left(second) == {
        "assigned.json", "out/checkpoints/step-3/adapter/adapter_model.safetensors",
    }  # fmt: skip
    await house.sql(f"UPDATE models SET deleted_at = 5, purged_at = {NOW} WHERE name = 'j:3'")
    await house.janitor.sweep()
    assert not place.exists()
    assert not second.exists()


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
async def test_a_job_that_was_over_yesterday_keeps_all_but_its_resume_points(
    house: House, state: str
) -> None:
    await house.job("j", state, NOW - DAY)
    run = await house.run("r1", "j")
    await house.checkpoint(run, "j", 3, named=True)
    await house.checkpoint(run, "j", 4)
    await house.janitor.sweep()
    assert house.left(run) == LOG | below(3)


@pytest.mark.parametrize("state", ["queued", "paused", "running"])
async def test_an_open_job_keeps_what_it_goes_on_from(house: House, state: str) -> None:
    await house.job("j", state)
    run = await house.run("r1", "j")
    for step in (4, 6):
        await house.checkpoint(run, "j", step)
    house.draft(run, "step-2")  # whose row has gone
    house.draft(run, ".step-8.draft")  # which its trainer did not finish
    await house.janitor.sweep()
    assert house.left(run) == LOG | below(4) | below(6)
    steps = [point.step for point in await checkpoints.resume_points(house.store.db, "j")]
    assert steps == [6, 4]


async def test_a_deleted_model_that_a_job_still_needs_stays(house: House) -> None:
    await house.job("j", "succeeded", 1)
    run = await house.run("r1", "j")
    await house.checkpoint(run, "j", 3, named=True)
    await house.sql("UPDATE models SET deleted_at = 5 WHERE name = 'j:3'")
    await house.janitor.sweep()
    assert "out/checkpoints/step-3/adapter/adapter_model.safetensors" in house.left(run)


async def test_a_run_that_lives_or_that_no_row_knows_is_not_touched(house: House) -> None:
    await house.job("j", "cancelled", 1)  # its trainer has not ended yet
    alive = await house.run("r1", "j", alive=True)
    house.draft(alive, "step-9")
    unknown = house.directory("r2")
    house.draft(unknown, "step-9")
    await house.janitor.sweep()
    assert house.left(alive) == house.left(unknown) == LOG | below(9)


async def test_what_was_set_aside_goes_as_long_after_that(house: House) -> None:
    places = {}
    for name, since in (("old", 7 * DAY), ("young", 7 * DAY - 1)):
        lost = house.home.file(f"file-{name}")
        lost.write_text("lines")
        unknown.set_aside([lost], house.home, NOW - since)
        places[name] = house.home.unknown / "files" / lost.name
    await house.janitor.sweep()
    assert not places["old"].exists()
    assert places["young"].read_text() == "lines"


async def test_inference_workers_runs_go_too(house: House) -> None:
    for launch, ended_at in (("old", 1), ("new", NOW)):
        house.directory(launch)
        await house.sql(
            "INSERT INTO inference_workers (weights, launch, device, started_at, ended_at, "
            f"ending_note) VALUES ('m', '{launch}', 'cpu', 0, {ended_at}, 'idle')"
        )
    await house.janitor.sweep()
    assert [run.name for run in house.home.runs.iterdir()] == ["new"]


async def test_a_link_that_a_trainer_left_is_not_followed(house: House) -> None:
    precious = house.home.models / "m"
    precious.mkdir()
    (precious / "config.json").write_text("{}")
    await house.job("old", "cancelled", 1)
    await house.job("open", "queued")
    for launch, job in (("r1", "old"), ("r2", "open")):
        run = await house.run(launch, job)
        (run / "out").mkdir()
        (run / "out" / "checkpoints").symlink_to(house.home.models)
    third = await house.run("r3", "open", 2)
    (third / "out").symlink_to(house.home.root)
    await house.janitor.sweep()
    assert (precious / "config.json").exists()
    assert not (house.home.runs / "r1").exists()


async def test_one_run_that_cannot_be_removed_keeps_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.job("j", "cancelled", 1)
    for number, launch in enumerate(("r1", "r2", "r3"), start=1):
        await house.run(launch, "j", number)
    remove = shutil.rmtree

    def stubborn(path: Path) -> None:
        if path.name == "r2":
            raise OSError(16, "Device or resource busy")
        remove(path)

    monkeypatch.setattr("ftd.runner.janitor.shutil.rmtree", stubborn)
    await house.janitor.sweep()
    assert [run.name for run in house.home.runs.iterdir()] == ["r2"]


async def test_a_run_under_way_loses_what_newer_checkpoints_make_needless(house: House) -> None:
    await house.job("j", "running")
    earlier = await house.run("r1", "j")
    await house.checkpoint(earlier, "j", 40, named=True)  # damaged: the next attempt began before
    run = await house.run("r2", "j", 2, alive=True)
    for step in (6, 8):
        await house.checkpoint(run, "j", step)
    for name in ("step-2", "step-4", "step-10", ".step-12.draft"):
        house.draft(run, name)
    attempt = Attempt(id=2, job="j", number=2, launch="r2", devices=(), started_at=1)
    await thin(house.store.db, house.home, attempt)
    names = {place.name for place in (run / "out" / "checkpoints").iterdir()}
    assert names == {"step-6", "step-8", "step-10", ".step-12.draft"}, "10 has no row yet"
    assert (earlier / "out" / "checkpoints" / "step-40").is_dir()
