"""Where an attempt goes on: from what its job published, whatever has ended in between."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ftd.core.job import State
from ftd.core.spec import TrainSpec
from ftd.store import checkpoints, models
from tests.runner.test_runner import PATIENCE_S, World, processes, world

__all__ = ["world"]


async def points(world: World) -> list[int]:
    return [p.step for p in await checkpoints.resume_points(world.store.db, "ftjob-1")]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        # A file system rings no bell.
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_points(world: World, *steps: int) -> None:
    async def there() -> bool:
        return await points(world) == list(steps)

    await until(there)


def runs(world: World) -> list[Path]:
    """The run directories of attempts, the earliest first."""
    found = [run for run in world.home.runs.iterdir() if (run / "assigned.json").exists()]
    return sorted(found, key=lambda run: (run / "assigned.json").stat().st_mtime_ns)


def published(run: Path) -> list[str]:
    return sorted(place.name for place in (run / "out" / "checkpoints").iterdir())


async def kill_trainers(world: World) -> None:
    """kill -9 of every shim and trainer, and their ends."""
    for process in processes(world.home):
        process.kill()

    async def gone() -> bool:
        return not processes(world.home)

    await until(gone)


async def second_spec(world: World) -> TrainSpec:
    """What the second attempt was told."""

    async def began() -> bool:
        return len(runs(world)) == 2

    await until(began)
    return TrainSpec.model_validate_json((runs(world)[1] / "in" / "spec.json").read_bytes())


async def lost_after(world: World, *script: list[Any], left: tuple[int, ...]) -> Path:
    """The run of a job whose trainer and daemon are killed when these points are recorded. Its
    next attempt waits before it publishes any."""
    world.start()
    await world.submit(["steps", 20], ["gate"], *script, ["hang"])
    await world.until_told("Step 20/")
    (runs(world)[0] / "out" / "open").write_text("")
    await until_points(world, *left)
    (run,) = runs(world)

    async def thinned() -> bool:
        return {int(name.removeprefix("step-")) for name in published(run)} <= set(left)

    await until(thinned)
    await world.crash()
    await kill_trainers(world)
    return runs(world)[0]


async def test_two_points_are_kept_and_none_is_a_model(world: World) -> None:
    world.start()
    steps = [["steps", 20], *(["point", step] for step in range(2, 12)), ["checkpoint", 12]]
    await world.submit(*steps, ["point", 13], ["hang"])
    await until_points(world, 13, 12)
    (run,) = runs(world)

    async def removed() -> bool:
        return published(run) == ["step-12", "step-13"]

    await until(removed)
    listed = await checkpoints.page(world.store.db, "ftjob-1", after=None, limit=99)
    assert [checkpoint.step for checkpoint in listed] == [12]
    assert len(await models.visible(world.store.db, "p")) == 2, "the base and step 12"
    told = [message for message in await world.told() if "heckpoint" in message]
    assert len(told) == 1


async def test_the_next_attempt_is_given_all_of_them_newest_first(world: World) -> None:
    await lost_after(world, ["checkpoint", 2], ["point", 4], ["point", 6], left=(6, 4, 2))
    world.start()
    spec = await second_spec(world)
    assert (spec.resume, spec.resume_else) == ("in/resume", ("in/resume-4", "in/resume-2"))
    assert (spec.checkpoint_every_steps, spec.checkpoint_every_s) == (0, 600.0)
    for name, step in (("resume", 6), ("resume-4", 4), ("resume-2", 2)):
        manifest = json.loads((runs(world)[1] / "in" / name / "MANIFEST.json").read_text())
        assert manifest["step"] == step


@pytest.mark.parametrize(
    "damage",
    [
        shutil.rmtree,
        lambda place: (place / "MANIFEST.json").unlink(),
        lambda place: (place / "MANIFEST.json").write_text('{"step": 7}'),
    ],
    ids=["gone", "no manifest", "another manifest"],
)
async def test_a_point_without_its_manifest_is_not_offered_and_told_of_once(
    world: World, damage: Callable[[Path], object]
) -> None:
    run = await lost_after(world, ["point", 4], ["point", 6], left=(6, 4))
    damage(run / "out" / "checkpoints" / "step-6")
    world.start()
    spec = await second_spec(world)
    assert (spec.resume, spec.resume_else) == ("in/resume", ())
    assert json.loads((runs(world)[1] / "in/resume/MANIFEST.json").read_text())["step"] == 4
    told = [message for message in await world.told() if "is damaged" in message]
    (warning,) = told
    assert warning == (
        "The checkpoint of step 6 is damaged: its manifest is missing or is not the one that was "
        "published. It is not used."
    )


async def test_with_none_left_it_begins_anew(world: World) -> None:
    run = await lost_after(world, ["point", 4], ["point", 6], left=(6, 4))
    shutil.rmtree(run / "out" / "checkpoints")
    world.start()
    assert (await second_spec(world)).resume is None
    assert len([message for message in await world.told() if "is damaged" in message]) == 2


async def test_what_was_published_while_no_daemon_ran_is_found(world: World) -> None:
    """The trainer renames and says so, the daemon is dead, and then both are: nothing is lost."""
    world.start()
    await world.submit(["steps", 20], ["gate"], ["checkpoint", 2], ["point", 3], ["hang"])
    await world.until_told("Step 20/")
    await world.crash()
    (run,) = runs(world)
    (run / "out" / "open").write_text("")

    async def said() -> bool:
        frames = world.rooms.launcher.read(run.name, 0, 2**16).frames
        return b'"saved"' in frames[-1].line and b'"step": 3' in frames[-1].line

    await until(said)
    assert await points(world) == []
    await kill_trainers(world)
    world.start()
    await until_points(world, 3, 2)
    assert (await second_spec(world)).resume == "in/resume"
    told = await world.told()
    assert sum("Checkpoint created at step 2" in message for message in told) == 1


async def test_an_older_database_takes_up_what_the_spool_has(world: World) -> None:
    """A backup that knows of nothing is restored; points that were removed since are no fault."""
    run = await lost_after(
        world, *(["point", step] for step in (2, 4, 6)), ["checkpoint", 8], left=(8, 6)
    )
    assert "step-2" not in published(run)
    await world.store.db.write(_forget_all)
    world.start()
    assert (await second_spec(world)).resume_else == ("in/resume-6",)
    assert await points(world) == [8, 6]
    assert await world.steps() == list(range(1, 21))
    assert (await world.job()).error is None


def _forget_all(tx: Any) -> None:
    for statement in (
        "DELETE FROM checkpoints", "DELETE FROM events", "DELETE FROM models WHERE job NOT NULL",
        "UPDATE attempts SET spool_offset = 0, progressed = 0",
    ):  # fmt: skip
        tx.execute(statement)


async def test_a_job_keeps_the_hash_of_what_it_made(world: World) -> None:
    world.start()
    await world.submit(["steps", 3], ["checkpoint", 3], ["done", 3])
    job = await world.until(State.SUCCEEDED)
    model = await models.get(world.store.db, "p", job.minted)
    assert model is not None
    assert job.fine_tuned_model_sha256 == model.sha256
    await world.store.db.write(lambda tx: models.hide(tx, job.minted, 1))
    assert (await world.job()).fine_tuned_model_sha256 == model.sha256


async def test_a_trainer_killed_again_and_again_ends_where_it_would_have(world: World) -> None:
    """Each attempt publishes one point more than the one before, and is killed."""
    world.start()
    await world.submit(["onward", 3, 12])
    job = await world.until(State.SUCCEEDED)
    assert job.step == 12
    assert len(runs(world)) == 4
    assert await world.steps() == list(range(1, 13))
    resumed = [message for message in await world.told() if message.startswith("Resumed")]
    assert resumed == ["Resumed from step 3", "Resumed from step 6", "Resumed from step 9"]
    rows = await world.store.db.rows("SELECT progressed FROM attempts")
    assert [row["progressed"] for row in rows] == [1, 1, 1, 1]
