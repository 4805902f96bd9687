"""A trainer that lies, as a real process: its attempt ends, its job says why, others go on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ftd.core import wire
from ftd.core.job import State
from ftd.store import checkpoints
from tests.runner.test_hearing import everything_can_be_said, step
from tests.runner.test_runner import World, processes, world

__all__ = ["world"]

FLOOD = 100_000


@pytest.mark.parametrize(
    "lies",
    [
        [step(step=7), step(step=3)],
        [step(train_loss=1.5), step(step=2).replace('"train_loss": 1.0', '"train_loss": NaN')],
        [step(), '{"kind": "accepted", "job": "ftjob-2", "attempt": 1}'],
        [step(), '{"kind": "saved", "step": 1, "epoch": 1, "path": "pipe", "manifest_sha256": ""}'],
        [step(), "x" * 2**20],
    ],
    ids=["goes back", "no number", "another job", "a pipe", "a megabyte"],
)
async def test_a_lie_ends_its_attempt_and_the_next_job_begins(
    world: World, lies: list[str]
) -> None:
    world.start()
    await world.submit(["traps"], *(["say", line] for line in lies), ["hang"])
    await world.until_told("Files validated")
    await world.submit(["checkpoint", 1], ["done", 1], name="ftjob-2")
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert job.error.code == "protocol_error"
    assert job.error.message.startswith("The trainer said ")
    assert len(await world.steps()) == 1, "what it said before is kept"
    assert (await world.until(State.SUCCEEDED, "ftjob-2")).error is None
    assert await world.steps("ftjob-2") == [1]
    await world.until_free()
    assert not processes(world.home)


async def test_a_checkpoint_that_is_announced_again_is_the_same(world: World) -> None:
    world.start()
    await world.submit(["steps", 2], ["checkpoint", 2], ["again"], ["again"], ["done", 2])
    job = await world.until(State.SUCCEEDED)
    told = await world.told()
    assert sum(message.startswith("Checkpoint created at step 2") for message in told) == 1
    assert len(await checkpoints.resume_points(world.store.db, job.id)) == 1
    rows = await world.store.db.rows("SELECT name FROM models WHERE job = ?", (job.id,))
    assert {row["name"] for row in rows} == {job.minted, f"{job.minted}:ckpt-step-2"}


@pytest.mark.parametrize("how", ["link", "nested link", "pipe"])
async def test_a_model_that_is_none_fails_its_job(world: World, tmp_path: Path, how: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "adapter_model.safetensors").write_bytes(b"not theirs")
    world.start()
    await world.submit(["steps", 1], ["checkpoint", 1], ["spoil", how, str(secret)], ["done", 1])
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert job.error.code == "protocol_error"
    await world.until_free()
    left = [path for path in world.home.adapters.iterdir() if not path.name.startswith(".")]
    assert left == []


async def test_a_last_word_as_long_as_a_line_may_be_is_the_jobs_reason(world: World) -> None:
    failed: dict[str, Any] = {"kind": "failed", "code": "trainer_error", "message": ""}
    room = wire.LINE_BYTES - len(json.dumps(failed)) - 1
    world.start()
    await world.submit(["say", json.dumps(failed | {"message": "x" * room})], ["exit", 0])
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("trainer_error", "x" * room)


async def test_what_could_steer_a_terminal_stays_text(world: World) -> None:
    text = "\x1b]0;owned\x07\x00\u202egnp.exe\r\n\x9b2J"
    world.start()
    notice = {"kind": "notice", "message": text, "data": {text: text}}
    await world.submit(["say", json.dumps(notice)], ["checkpoint", 1], ["done", 1])
    await world.until(State.SUCCEEDED)
    assert text in await world.told()
    assert await everything_can_be_said(world)


async def test_a_flood_of_facts_is_kept_whole_and_holds_nobody_up(world: World) -> None:
    """A hundred thousand at once: what a fast trainer says in an hour and a half."""
    world.start()
    await world.submit(["flood", FLOOD], ["hang"])
    await world.until(State.RUNNING)
    loop = asyncio.get_running_loop()
    late: list[float] = []
    async with asyncio.timeout(120):
        while (await world.job()).step < FLOOD:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            late.append(loop.time() - due)
    (row,) = await world.store.db.rows("SELECT count(*) AS n FROM events WHERE step IS NOT NULL")
    assert row["n"] == FLOOD
    assert sorted(late)[len(late) // 2] < 0.1, "in between, the loop answers others"
    await world.store.cancel("ftjob-1")
    await world.until_free()


async def test_an_exit_record_that_is_none_is_no_record(world: World) -> None:
    """Until the shim has the last word, the run directory is its trainer's to write."""
    world.start()
    await world.submit(["write", "exit.json", "[1, 2"], ["steps", 1], ["end the shim"])
    await world.until_told("without an exit record")
    await world.store.cancel("ftjob-1")
    await world.until_free()
