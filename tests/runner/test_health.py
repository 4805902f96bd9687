"""Trainers that hang, are killed, starve or fail: real processes that play scripts."""

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ftd.config import Silence
from ftd.core import wire
from ftd.core.job import JobError, State
from ftd.runner import health, runner
from ftd.runner.health import Health
from ftd.store import checkpoints
from tests.groups import limited
from tests.runner.test_resuming import runs, until
from tests.runner.test_runner import CPU, World, processes, world

__all__ = ["world"]

QUICK = Silence(loading_s=1.0, tokenizing_s=0.3, training_s=0.3, saving_s=0.3)
TRAINING = ["say", json.dumps({"kind": "phase", "name": "training"})]


def configure(world: World, **sections: Any) -> None:
    """Change sections of the world's settings, before it starts."""
    settings = world.rooms.settings.model_copy(update=sections)
    world.rooms = replace(world.rooms, settings=settings)


@pytest.fixture
def hasty(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world that has little patience."""
    configure(world, silence=QUICK)
    monkeypatch.setattr(health, "AFTER_S", (0.0, 0.3, 0.6))
    monkeypatch.setattr(runner, "TICK_S", 0.05)
    return world


async def notes(world: World) -> list[tuple[str, str | None]]:
    """How each attempt ended, and why."""
    rows = await world.store.db.rows("SELECT ending, ending_code FROM attempts ORDER BY number")
    return [(row["ending"], row["ending_code"]) for row in rows]


async def test_a_trainer_that_hangs_leaves_its_stack_and_the_job_goes_on(hasty: World) -> None:
    hasty.start()
    await hasty.submit(
        TRAINING, ["steps", 2], ["attempt", 1, "hang"], ["checkpoint", 2], ["done", 2]
    )
    await hasty.until(State.SUCCEEDED)
    words = "No sign of life for 0.3 s while training; its trainer was ended and its stack is in"
    assert f"{words} the log. The job is queued again." in await hasty.told()
    assert await hasty.steps() == [1, 2]
    assert await notes(hasty) == [("lost", "trainer_hung"), ("done", None)]
    logs = [log.read_text() for log in hasty.home.runs.glob("*/worker.log")]
    assert sum("in hang" in log for log in logs) == 1, "the line that it hung in"
    await hasty.until_free()
    assert not processes(hasty.home)


async def test_a_frozen_trainer_counts_as_hung(hasty: World) -> None:
    hasty.start()
    freeze = ["attempt", 1, "kill", int(signal.SIGSTOP)]
    await hasty.submit(TRAINING, ["steps", 1], freeze, ["checkpoint", 1], ["done", 1])
    await hasty.until(State.SUCCEEDED)
    told = [message for message in await hasty.told() if message.startswith("No sign of life")]
    assert len(told) == 1
    assert "It wrote no stack: it was stopped" in told[0]


async def test_a_shim_that_is_frozen_too_is_ended_with_its_trainer(hasty: World) -> None:
    hasty.start()
    await hasty.submit(TRAINING, ["attempt", 1, "hang"], ["checkpoint", 1], ["done", 1])
    await hasty.until_told("Fine-tuning job started")
    shims = [each for each in processes(hasty.home) if each.ppid() == os.getpid()]
    for shim in shims:
        shim.suspend()
    await hasty.until(State.SUCCEEDED)
    assert await notes(hasty) == [("lost", "trainer_hung"), ("done", None)]


async def test_one_that_always_hangs_has_its_chances_and_then_fails(hasty: World) -> None:
    hasty.start()
    await hasty.submit(["hang"])
    job = await hasty.until(State.FAILED)
    assert job.error is not None
    assert job.error.code == "trainer_hung"
    assert "No sign of life for 1 s while loading" in job.error.message
    assert job.error.message.endswith("(attempt 3, the last)")


async def test_a_lost_job_rests_before_it_is_tried_again_whoever_runs_it(world: World) -> None:
    training = world.rooms.settings.training.model_copy(update={"retry_s": 2.0})
    configure(world, training=training)
    world.start()
    await world.submit(["attempt", 1, "exit", 3], ["checkpoint", 1], ["done", 1])
    await world.until_told("The trainer exited with status 3 before it finished.")
    assert (await world.told())[-1].endswith("The job is queued again, and tried in 2 s.")
    await world.crash()
    world.start()
    assert await world.until_waiting() == "its trainer ended early; it rests before the next try"
    await world.until(State.SUCCEEDED)
    first, second = await world.store.db.rows("SELECT started_at, ended_at FROM attempts")
    assert second["started_at"] >= first["ended_at"] + 2


async def test_who_killed_a_trainer_is_told_as_far_as_it_is_known(world: World) -> None:
    world.start()
    await world.submit(["attempt", 1, "kill", int(signal.SIGKILL)], ["checkpoint", 1], ["done", 1])
    await world.until(State.SUCCEEDED)
    words = "The trainer was killed by signal 9 (SIGKILL). The job is queued again."
    assert words in await world.told()
    assert await notes(world) == [("lost", "trainer_lost"), ("done", None)]


async def test_a_trainer_that_ended_with_its_supervisor_takes_no_chance_of_the_job(
    world: World,
) -> None:
    world.start()
    script = [["attempt", number, "end the shim"] for number in range(1, 5)]
    await world.submit(["gate"], *script, ["checkpoint", 1], ["done", 1])

    async def entrusted(number: int) -> bool:
        """Whether the daemon knows that the trainer has its job: its name was heard."""
        rows = await world.store.db.rows(
            "SELECT 1 FROM attempts WHERE number = ? AND spool_offset > 0", (number,)
        )
        return bool(rows)

    for number in range(1, 6):
        await until(lambda number=number: entrusted(number))  # type: ignore[misc]
        (runs(world)[-1] / "out" / "open").touch()
    await world.until(State.SUCCEEDED)
    assert await notes(world) == [("lost", "trainer_cut_off")] * 4 + [("done", None)]
    told = await world.told()
    assert sum("without an exit record" in words for words in told) == 4
    assert sum("queued again, not counting this attempt" in words for words in told) == 4


STARVED = JobError(code="host_out_of_memory", message="There was no memory.")


async def starve(world: World, launch: str, *, smaller: bool = True) -> None:
    """An attempt that the host had no memory for, as its runner settles it."""
    attempt = await world.store.start("ftjob-1", launch, (CPU,))
    assert attempt is not None
    await world.store.lose(attempt, STARVED, 3, smaller=smaller)


async def test_after_a_starved_attempt_passes_are_half_as_large(world: World) -> None:
    await world.submit(["checkpoint", 1], ["done", 1])
    await starve(world, "run-1")
    world.start()
    await world.until(State.SUCCEEDED)
    (path,) = world.home.runs.glob("*/in/spec.json")
    spec = json.loads(path.read_text())
    assert spec["micro_batch_tokens"] == world.rooms.settings.training.micro_batch_tokens // 2
    assert spec["memory_bytes"] == CPU.memory_bytes // 4, "it was to have half of the host's"


async def test_what_smaller_passes_cannot_help_is_not_tried(world: World) -> None:
    await world.submit(["done", 1])
    await starve(world, "run-1", smaller=False)
    job = await world.job()
    assert job.state is State.FAILED
    assert job.error is not None
    assert job.error.message == "There was no memory. (attempt 1, the last)"


async def test_the_second_starved_attempt_is_the_last(world: World) -> None:
    await world.submit(["done", 1])
    await starve(world, "run-1")
    assert (await world.job()).state is State.QUEUED
    await starve(world, "run-2")
    job = await world.job()
    assert job.error is not None
    assert job.error.code == "host_out_of_memory"


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Whatever is started now shares 256 MiB."""
    with limited(256 * 2**20):
        yield


@pytest.mark.usefixtures("little_memory")
async def test_a_starved_trainer_gets_one_chance_with_smaller_passes(world: World) -> None:
    world.start()
    await world.submit(["steps", 2], ["attempt", 1, "eat", 1024], ["checkpoint", 2], ["done", 2])
    await world.until(State.SUCCEEDED)
    assert await notes(world) == [("lost", "host_out_of_memory"), ("done", None)]
    (words,) = [text for text in await world.told() if text.startswith("The host ran out")]
    assert re.search(r"which held 0\.[23] GiB at its peak\.", words)
    assert words.endswith("The job is queued again, with half the memory for a pass.")
    read = [json.loads(path.read_text()) for path in world.home.runs.glob("*/in/spec.json")]
    specs = {spec["attempt"]: spec for spec in read}
    for limit in ("micro_batch_tokens", "memory_bytes"):
        assert specs[2][limit] == specs[1][limit] // 2


@pytest.mark.usefixtures("little_memory")
async def test_a_job_that_starves_twice_fails(world: World) -> None:
    world.start()
    await world.submit(["eat", 1024])
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert job.error.code == "host_out_of_memory"
    assert "GiB at its peak" in job.error.message
    assert job.error.message.endswith("(attempt 2, the last)")


async def test_a_trainer_that_found_the_disk_full_is_tried_again_when_it_is_not(
    world: World,
) -> None:
    world.start()
    full = json.dumps({"kind": "failed", "code": "no_space", "message": "The disk is full."})
    script = [["attempt", 1, "say", full], ["attempt", 1, "exit", 0]]
    world.rooms.space.full = True
    await world.submit(*script, ["checkpoint", 1], ["done", 1])
    assert await world.until_waiting() == "the disk of ftd's home is full"
    world.rooms.space.full = False
    await world.until(State.SUCCEEDED)
    assert "The disk is full. The job is queued again." in await world.told()
    assert await notes(world) == [("lost", "no_space"), ("done", None)]


@pytest.mark.parametrize("code", ["diverged", "out_of_memory", "trainer_error"])
async def test_what_people_must_mend_is_not_tried_again_and_checkpoints_stay(
    world: World, code: str
) -> None:
    world.start()
    failed = json.dumps({"kind": "failed", "code": code, "message": "So it is."})
    await world.submit(["steps", 2], ["checkpoint", 2], ["say", failed], ["exit", 0])
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert (job.error.code, job.error.message) == (code, "So it is.")
    assert await notes(world) == [("failed", None)]
    listed = await checkpoints.page(world.store.db, "ftjob-1", after=None, limit=10)
    assert [checkpoint.model for checkpoint in listed] == [f"{job.minted}:ckpt-step-2"]


# What it does and when, on a clock that a test moves.


@dataclass
class Ear:
    """A channel that notes what it is told."""

    stalled: bool = False
    told: list[str] = field(default_factory=list)

    async def changed(self, timeout_s: float) -> bool:
        raise AssertionError(f"nobody waits for {timeout_s} s here")

    async def command(self, command: wire.Command) -> None:
        raise AssertionError(f"nobody says {command}")

    async def signal(self, name: str) -> None:
        self.told.append(name)

    async def end(self) -> None:
        self.told.append("end")

    async def close(self) -> None:
        raise AssertionError("the runner's")


@dataclass
class Trial:
    health: Health
    ear: Ear
    now: float = 0.0

    async def listen(self, seconds: float, *, step_s: float = 0.0) -> list[str]:
        """Look once a second for so long, and answer all that was told so far."""
        until = self.now + seconds
        while self.now < until:
            self.now += 1.0
            await self.health.look(self.ear, self.now, step_s)
        return self.ear.told


@pytest.fixture
async def trial(tmp_path: Path) -> Trial:
    limits = Silence(loading_s=100.0, tokenizing_s=20.0, training_s=30.0, saving_s=50.0)
    trial = Trial(Health(limits, tmp_path / "log"), Ear())
    await trial.health.look(trial.ear, 0.0, 0.0)
    return trial


@pytest.mark.parametrize(
    ("phase", "limit_s"),
    [
        (None, 100),
        ("tokenizing", 20),
        ("training", 30),
        ("saving", 50),
        ("compiling", 100),
    ],
)
async def test_each_phase_has_its_limit_and_then_come_the_rungs(
    trial: Trial, phase: str | None, limit_s: int
) -> None:
    if phase is not None:
        trial.health.hear([wire.Phase(name=phase)])
    assert await trial.listen(limit_s - 1) == []
    assert await trial.listen(1) == ["USR1"]
    assert await trial.listen(1) == ["USR1"]
    assert await trial.listen(1) == ["USR1", "KILL"]
    assert await trial.listen(9) == ["USR1", "KILL"]
    assert await trial.listen(1) == ["USR1", "KILL", "end"]
    assert await trial.listen(1000) == ["USR1", "KILL", "end"]


async def test_whatever_is_said_counts(trial: Trial) -> None:
    trial.health.hear([wire.Phase(name="training")])
    for _ in range(5):
        assert await trial.listen(29) == []
        trial.health.hear([wire.Phase(name="training")])


async def test_one_that_speaks_when_asked_for_its_stack_goes_on(trial: Trial) -> None:
    assert await trial.listen(100) == ["USR1"]
    trial.health.hear([wire.Phase(name="loading")])
    assert await trial.listen(99) == ["USR1"]
    assert trial.health.error is None


async def test_the_daemons_own_sleep_is_not_the_trainers_silence(trial: Trial) -> None:
    await trial.listen(50)
    trial.now += 3600.0  # it was stopped, and goes on
    assert await trial.listen(45) == []


async def test_a_trainer_that_waits_for_the_disk_is_not_silent(trial: Trial) -> None:
    trial.ear.stalled = True
    assert await trial.listen(1000) == []
    trial.ear.stalled = False
    assert await trial.listen(99) == []
    assert await trial.listen(1) == ["USR1"]


async def test_ten_steps_are_never_too_long_but_a_trainer_cannot_ask_for_ever(
    trial: Trial,
) -> None:
    trial.health.hear([wire.Phase(name="training")])
    assert await trial.listen(599, step_s=60.0) == []
    assert await trial.listen(1, step_s=60.0) == ["USR1"]
    trial.health.hear([wire.Phase(name="training")])
    assert await trial.listen(health.LONGEST_S, step_s=1e308) == ["USR1", "USR1"]
