"""Pauses, resumes and planned stops of a scripted worker below a real shim."""

import asyncio
import os
import re
import signal
from dataclasses import replace

import pytest

from ftd.config import Stopping, Training
from ftd.core.job import State
from ftd.store import checkpoints
from tests.runner.test_runner import PATIENCE_S, World, processes, world

__all__ = ["world"]

PAUSED = "Fine-tuning job paused"
RESUMED = "Fine-tuning job resumed"


async def running(world: World, *script: list[object]) -> None:
    """A job that has begun to train."""
    world.start()
    await world.submit(*script)
    await world.until_told("Step 3/")


async def until_asked(world: World) -> None:
    """Until a trainer has heard that it shall stop; a file system rings no bell."""
    async with asyncio.timeout(PATIENCE_S):
        while not list(world.home.runs.glob("*/out/stop.json")):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def endings(world: World) -> list[str]:
    rows = await world.store.db.rows("SELECT ending FROM attempts ORDER BY number")
    return [row["ending"] for row in rows]


async def goes_on(world: World, total: int) -> None:
    """The job ends well, and each of its steps is told once, in order."""
    await world.until(State.SUCCEEDED)
    assert await world.steps() == list(range(1, total + 1))
    await world.until_free()


async def test_a_pause_saves_first_and_a_resume_loses_no_step(world: World) -> None:
    await running(world, ["train", 60, [3]])
    await world.store.pause("ftjob-1")
    paused = await world.until(State.PAUSED)
    await world.until_free()
    assert not processes(world.home)
    last = (await world.steps())[-1]
    (point,) = await checkpoints.resume_points(world.store.db, "ftjob-1")
    assert point.step == paused.step == last
    assert await checkpoints.page(world.store.db, "ftjob-1", after=None, limit=9) == ()
    assert (await world.told())[-1] == f"{PAUSED} after step {last}"

    await world.store.resume("ftjob-1")
    await goes_on(world, 60)
    told = await world.told()
    assert told.count(f"Resumed from step {last}") == 1
    assert told.index(RESUMED) < told.index(f"Resumed from step {last}")
    assert await endings(world) == ["stopped", "done"]


async def test_pauses_one_after_the_other(world: World) -> None:
    await running(world, ["train", 40, [8, 16, 24]])
    for step in (8, 16, 24):
        await world.until_told(f"Step {step}/")
        await world.store.pause("ftjob-1")
        await world.until(State.PAUSED)
        await world.store.resume("ftjob-1")
    await goes_on(world, 40)
    told = await world.told()
    assert sum(message.startswith("Resumed from step") for message in told) == 3
    assert sum(message.startswith(PAUSED) for message in told) == 3
    assert await endings(world) == ["stopped", "stopped", "stopped", "done"]


async def test_a_resume_that_comes_while_the_trainer_still_saves(world: World) -> None:
    await running(world, ["train", 30, [3], 0.5])
    await world.store.pause("ftjob-1")
    await until_asked(world)
    resumed = await world.store.resume("ftjob-1")
    assert resumed is not None
    assert resumed.state is State.RUNNING
    await goes_on(world, 30)
    told = await world.told()
    assert not [message for message in told if message.startswith(PAUSED)]
    assert told.count(RESUMED) == 1
    assert await endings(world) == ["stopped", "done"]


async def test_a_daemon_that_dies_while_a_job_pauses(world: World) -> None:
    await running(world, ["train", 30, [3], 0.5])
    await world.store.pause("ftjob-1")
    await until_asked(world)
    await world.crash()
    world.start()
    await world.until(State.PAUSED)
    await world.store.resume("ftjob-1")
    await goes_on(world, 30)
    assert await endings(world) == ["stopped", "done"]


async def test_a_pause_that_nobody_could_act_upon_yet(world: World) -> None:
    """The wish was written, and then the daemon died: the next one honours it."""
    await running(world, ["train", 200, [3]])
    await world.crash()
    await world.store.pause("ftjob-1")
    world.start()
    await world.until(State.PAUSED)
    assert (await world.steps())[-1] < 200


async def test_a_cancel_does_not_wait_for_a_checkpoint(world: World) -> None:
    await running(world, ["train", 60, [3], 3600])
    await world.store.pause("ftjob-1")
    await until_asked(world)
    await world.store.cancel("ftjob-1")
    await world.until_free()
    assert not processes(world.home)
    assert (await world.job()).state is State.CANCELLED
    assert await checkpoints.resume_points(world.store.db, "ftjob-1") == ()


async def test_a_trainer_that_cannot_save_in_time_leaves_a_paused_job(world: World) -> None:
    stopping = Stopping(ask_s=0.2, save_s=0.4, term_s=0.2)
    settings = world.rooms.settings.model_copy(
        update={"stopping": stopping, "training": Training(attempts=1)}
    )
    world.rooms = replace(world.rooms, settings=settings)
    await running(world, ["deaf"], ["train", 60, [3], 3600])
    await world.store.pause("ftjob-1")
    await world.until(State.PAUSED)
    last = (await world.told())[-1]
    assert "killed by signal 9" in last
    assert last.endswith("The job is paused; it will go on from its last checkpoint.")
    await world.store.resume("ftjob-1")
    await world.until(State.RUNNING)
    await world.store.cancel("ftjob-1")
    await world.until_free()
    assert await endings(world) == ["stopped", "lost"]


@pytest.mark.parametrize("daemon", ["up", "away"])
async def test_a_shutdown_costs_no_step_and_counts_against_nobody(
    world: World, daemon: str
) -> None:
    """The shim turns SIGTERM, which a shutdown sends to every process, into a stop that saves."""
    settings = world.rooms.settings.model_copy(
        update={"training": Training(attempts=1, retry_s=300.0)}
    )
    world.rooms = replace(world.rooms, settings=settings)
    await running(world, ["train", 60, [3]])
    shims = [process for process in processes(world.home) if "shim.main" in str(process.cmdline())]
    assert len(shims) == 1
    if daemon == "away":
        await world.crash()
    os.kill(shims[0].pid, signal.SIGTERM)
    if daemon == "away":
        async with asyncio.timeout(PATIENCE_S):
            while processes(world.home):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        world.start()
    await goes_on(world, 60)
    assert await endings(world) == ["stopped", "done"]
    told = await world.told()
    (resumed,) = [int(m.split()[-1]) for m in told if m.startswith("Resumed from step")]
    (stopped,) = [int(n) for m in told for n in re.findall(r"was stopped after step (\d+)", m)]
    assert resumed == stopped, "no step is done again"


async def test_a_job_that_was_never_begun_pauses_and_goes_on(world: World) -> None:
    await world.submit(["train", 3, []])
    await world.store.pause("ftjob-1")
    await world.submit(["train", 3, []], name="ftjob-2")
    world.start()
    await world.until(State.SUCCEEDED, "ftjob-2")
    assert (await world.job()).state is State.PAUSED, "the younger one went before it"
    await world.store.resume("ftjob-1")
    await goes_on(world, 3)
