"""Streams of a trainer, true, false and torn, on their way into rows, without any process.

Bytes of the facts pipe are cut and framed by the shim's own code, and read, understood and kept by
the runner's.
"""

import hashlib
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftd.core import wire
from ftd.core.job import Attempt, JobError, State
from ftd.launch import spool
from ftd.launch.shim.spool import Lines
from ftd.runner.manifest import manifest_sha256
from ftd.runner.runner import Runner
from ftd.store import attempts, checkpoints
from tests.fuzz import mutated, seeded, seeds
from tests.runner.test_runner import CPU, World, world

__all__ = ["world"]

GROWTH_BYTES = 64 * 2**20
STEP = {
    "kind": "step", "step": 1, "total_steps": 10, "train_loss": 1.0, "learning_rate": 1e-4,
    "tokens": 64, "loss_tokens": 32, "seconds": 0.01,
}  # fmt: skip
HUGE = "1" + "0" * 400


def step(**changed: Any) -> str:
    return json.dumps(STEP | changed)


def raw(key: str, value: str) -> str:
    """A step with something in it that JSON does not have, or Python would not write."""
    return step(**{key: "HERE"}).replace('"HERE"', value)


def saved(**changed: Any) -> str:
    told = {"kind": "saved", "step": 1, "epoch": 1, "path": "p", "manifest_sha256": "0"}
    return json.dumps(told | changed)


def notice(data: str) -> str:
    return f'{{"kind": "notice", "message": "m", "data": {{"a": {data}}}}}'


# What is said in truth before the lie, and the lie.
LIES = {
    "a step that goes back": [step(step=7), step(step=3)],
    "a step twice": [step(), step()],
    "more than all steps": [step(step=20)],
    "another plan": [step(), step(step=2, total_steps=5)],
    "no step": [step(step=0)],
    "a step before the first": [step(step=-1)],
    "of no steps": [step(total_steps=0)],
    "steps beyond counting": [raw("total_steps", HUGE)],
    "a loss beyond float32": [step(train_loss=1e308)],
    "a loss that is no number": [raw("train_loss", "NaN")],
    "an infinite loss": [raw("valid_loss", "Infinity")],
    "a loss that overflows": [raw("full_valid_loss", "1e999")],
    "a loss of many digits": [raw("train_loss", HUGE)],
    "better than perfect": [step(train_mean_token_accuracy=2.0)],
    "less than no time": [step(seconds=-1.0)],
    "a step of ages": [step(seconds=1e300)],
    "tokens beyond counting": [raw("tokens", HUGE)],
    "tokens taken away": [step(tokens=-5)],
    "a norm that is no number": [raw("grad_norm", "-Infinity")],
    "a number in a string": [step(step="1")],
    "a flag for a number": [step(tokens=True)],
    "half a surrogate": ['{"kind": "notice", "message": "\\ud800"}'],
    "a notice of huge numbers": [notice(HUGE)],
    "a notice of no number": [notice("NaN")],
    "another job": ['{"kind": "accepted", "job": "ftjob-2", "attempt": 1}'],
    "another attempt": ['{"kind": "accepted", "job": "ftjob-1", "attempt": 9}'],
    "a phase that is an essay": [json.dumps({"kind": "phase", "name": "x" * 100})],
    "a phase that steers terminals": [json.dumps({"kind": "phase", "name": "\x1b[2Jgone"})],
    "a code that is an essay": [json.dumps({"kind": "failed", "code": "a b", "message": "m"})],
    "a checkpoint of a step never taken": [step(), saved(step=9)],
    "a checkpoint that is not there": [step(), saved()],
    "a checkpoint at no path": [step(), saved(path="a\0b")],
    "a checkpoint at a long path": [step(), saved(path="a/" * 500)],
    "a checkpoint at a long name": [step(), saved(path="x" * 1000, epoch_end=False)],
    "a checkpoint outside": [step(), saved(path="../../../etc")],
    "a checkpoint from the root": [step(), saved(path="/etc")],
    "a checkpoint of somebody else": [step(), saved(path="outside")],
    "a checkpoint in a circle": [step(), saved(path="circle/x")],
    "a checkpoint that is a pipe": [step(), saved(path="pipe")],
    "a checkpoint without an end": [step(), saved(path="endless")],
    "a resumption of nothing": ['{"kind": "resumed", "step": 5}'],
    "deep nesting": ["[" * 4000],
    "a megabyte": ["x" * 2**20],
    "a megabyte of a known kind": [json.dumps({"kind": "notice", "message": "y" * 2**20})],
    "nothing": [""],
}


@dataclass
class Trainer:
    """An attempt whose trainer is a test: it writes the pipe, or the spool itself."""

    world: World
    attempt: Attempt
    runner: Runner

    @property
    def run(self) -> Path:
        return self.world.home.runs / self.attempt.launch

    def write(self, data: bytes, chance: random.Random | None = None) -> None:
        """Frame the bytes of a pipe as the shim does, in whatever pieces they come."""
        lines, said = Lines(), []
        while data:
            piece = len(data) if chance is None else chance.randrange(1, 6000)
            said += lines.feed(data[:piece])
            data = data[piece:]
        self.write_spool(b"".join(spool.frame(seq, line) for seq, line in enumerate(said, 1)))

    def write_spool(self, data: bytes) -> None:
        (self.run / "spool").write_bytes(data)

    def checkpoint(self, number: int) -> str:
        """Publish one; returns the line that announces it."""
        place = self.run / "out" / "checkpoints" / f"step-{number}"
        (place / "adapter").mkdir(parents=True)
        (place / "adapter" / "adapter_model.safetensors").write_bytes(b"%d" % number)
        listed = {
            "name": "adapter/adapter_model.safetensors",
            "sha256": hashlib.sha256(b"%d" % number).hexdigest(),
        }
        (place / "MANIFEST.json").write_text(json.dumps({"files": [listed]}))
        manifest = checkpoints_manifest(place)
        return saved(step=number, path=f"checkpoints/step-{number}", manifest_sha256=manifest)

    async def heard(self) -> JobError | None:
        """Let the runner read all there is; returns the fault that it found."""
        while await self.runner._ingest():
            pass
        return self.runner._fault

    async def end(self) -> None:
        """As the runner settles a fault, or as a trainer that vanished."""
        error = self.runner._fault or JobError(code="trainer_lost", message="gone")
        await self.world.store.failed(self.attempt, error)


def checkpoints_manifest(place: Path) -> str:
    found = manifest_sha256(place)
    assert found is not None
    return found


async def trainer(world: World, name: str = "ftjob-1") -> Trainer:
    await world.submit(name=name)
    attempt = await world.store.start(name, f"run-{name}", (CPU,))
    assert attempt is not None
    run = world.home.runs / attempt.launch
    (run / "out").mkdir(parents=True)
    return Trainer(world, attempt, Runner(world.rooms, attempt))


def lay_traps(out: Path) -> None:
    """Paths that lead nowhere good: round in a circle, into a pipe, to no end, elsewhere."""
    (out / "circle").symlink_to("circle")
    (out / "pipe").mkdir()
    os.mkfifo(out / "pipe" / "MANIFEST.json")
    (out / "endless").mkdir()
    (out / "endless" / "MANIFEST.json").symlink_to("/dev/zero")
    (out / "outside").symlink_to("/etc")


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_is_refused_and_what_came_before_is_kept(world: World, lie: str) -> None:
    told = await trainer(world)
    lay_traps(told.run / "out")
    lines = LIES[lie]
    told.write("".join(line + "\n" for line in [*lines, step(step=8)]).encode())
    fault = await told.heard()
    assert fault is not None
    assert fault.code == "protocol_error"
    assert fault.message.startswith("The trainer said ")
    assert len(await world.steps()) == len(lines) - 1
    assert await everything_can_be_said(world)
    await told.end()
    job = await world.job()
    assert (job.state, job.error) == (State.FAILED, fault)


async def test_the_largest_numbers_can_be_kept_and_shown(world: World) -> None:
    told = await trainer(world)
    largest = step(
        step=10**9, total_steps=10**9, train_loss=wire.FLOAT32_MAX, valid_loss=-wire.FLOAT32_MAX,
        grad_norm=wire.FLOAT32_MAX, tokens=2**53, loss_tokens=2**53, seconds=1e7,
    )  # fmt: skip
    first = step(step=1, total_steps=10**9, seconds=1e7)
    told.write(f"{first}\n{largest}\n{notice(str(2**53))}\n".encode())
    assert await told.heard() is None
    assert await world.steps() == [1, 10**9]
    assert await everything_can_be_said(world)
    assert (await world.job()).step == 10**9


async def test_an_end_that_is_ages_away_is_not_told(world: World) -> None:
    told = await trainer(world)
    told.write(step(total_steps=10**9, seconds=1e7).encode() + b"\n")
    assert await told.heard() is None
    assert (await world.job()).estimated_finish is None


@pytest.mark.parametrize("seq", [1, 2, 4, 2**63])
async def test_a_frame_that_is_not_due_is_damage_wherever_a_read_begins(
    world: World, seq: int
) -> None:
    """The file grows between two reads by a frame that is whole, and not the next."""
    told = await trainer(world)
    begun = spool.frame(1, step(step=1).encode()) + spool.frame(2, step(step=2).encode())
    told.write_spool(begun)
    assert await told.heard() is None
    told.write_spool(begun + spool.frame(seq, step(step=3).encode()))
    fault = await told.heard()
    assert fault is not None
    assert (fault.code, fault.message) == (
        "protocol_error", f"The trainer's spool is damaged: {seq} comes after 2",
    )  # fmt: skip
    assert await world.steps() == [1, 2]


def honest(told: Trainer, chance: random.Random) -> list[bytes]:
    """Everything that a good trainer says, checkpoints on the disk and all."""
    total = chance.randrange(3, 12)
    lines = [
        '{"kind": "started", "version": 1, "pid": 7}',
        json.dumps({"kind": "accepted", "job": told.attempt.job, "attempt": 1}),
        json.dumps(
            {"kind": "prepared", "examples": 9, "epoch_tokens": 90, "steps_per_epoch": total,
             "total_steps": total}
        ),
        '{"kind": "phase", "name": "training"}',
    ]  # fmt: skip
    for number in range(1, total + 1):
        loss = round(chance.uniform(0.1, 4), 4)
        lines.append(step(step=number, total_steps=total, train_loss=loss))
        if number % 3 == 0:
            lines.append(told.checkpoint(number))
    lines.append(json.dumps({"kind": "done", "step": total, "trained_tokens": 64 * total}))
    return [line.encode() + b"\n" for line in lines]


SPLICES = [line.encode() + b"\n" for lie in LIES.values() for line in lie if len(line) < 5000]


async def test_broken_streams_of_the_pipe(world: World) -> None:
    """Nothing guards a pipe, so a changed digit is another truth; but never a wrong kind of row,
    never another job's, and what ends an attempt says so."""
    bystander = await world.submit(name="ftjob-bystander")
    before = await world.told(bystander)
    memory = psutil.Process().memory_info().rss
    for seed in seeds(150):
        with seeded(seed) as chance:
            told = await trainer(world, f"ftjob-{seed}")
            data = b"".join(honest(told, chance))
            for _ in range(chance.randrange(1, 4)):
                data = mutated(data, chance, SPLICES)
            told.write(data, chance)
            await settled(told)
    assert await world.told(bystander) == before
    assert psutil.Process().memory_info().rss - memory < GROWTH_BYTES


async def test_broken_spools(world: World) -> None:
    """A checksum guards a spool: what is kept is a beginning of what was said, to the letter."""
    for seed in seeds(150):
        with seeded(seed) as chance:
            told = await trainer(world, f"ftjob-{seed}")
            lines = [line.rstrip(b"\n") for line in honest(told, chance)]
            frames = [spool.frame(seq, line) for seq, line in enumerate(lines, 1)]
            data = b"".join(frames)
            for _ in range(chance.randrange(1, 4)):
                data = mutated(data, chance, frames)
            told.write_spool(data)
            await settled(told)
            said = [fact for line in lines if (fact := json.loads(line))["kind"] == "step"]
            rows = await world.store.db.rows(
                "SELECT data FROM events WHERE job = ? AND step IS NOT NULL ORDER BY step",
                (told.attempt.job,),
            )
            kept = [json.loads(row["data"])["train_loss"] for row in rows]
            assert kept == [fact["train_loss"] for fact in said[: len(kept)]]


async def settled(told: Trainer) -> None:
    """Read it all; then what is kept must be in order, and the attempt end with its reason."""
    world, attempt = told.world, told.attempt
    fault = await told.heard()
    if fault is not None:
        assert fault.code == "protocol_error"
        assert fault.message
    job = await world.job(attempt.job)
    steps = await world.steps(attempt.job)
    assert steps == sorted(set(steps))
    assert all(1 <= number <= 10**9 for number in steps)
    assert job.step == (steps[-1] if steps else 0)
    (row,) = await world.store.db.rows(
        "SELECT spool_offset FROM attempts WHERE id = ?", (attempt.id,)
    )
    whole = spool.read(told.run / "spool", 0, 2**24)
    assert row["spool_offset"] in {0, *(frame.end for frame in whole.frames)}
    for point in await checkpoints.resume_points(world.store.db, attempt.job):
        assert checkpoints_manifest(world.home.root / point.path) == point.sha256
        assert point.step <= job.step
    assert await everything_can_be_said(world, attempt.job)
    await told.end()
    ended = await world.job(attempt.job)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert await attempts.live(world.store.db) == ()


async def everything_can_be_said(world: World, name: str = "ftjob-1") -> bool:
    """Whether all that is kept of a job is JSON for any reader, and numbers that any can hold."""

    def refuse(constant: str) -> object:
        raise AssertionError(f"{constant} is no JSON")

    for row in await world.store.db.rows("SELECT message, data FROM events WHERE job = ?", (name,)):
        row["message"].encode()
        assert len(row["message"]) <= wire.LINE_BYTES
        json.loads(row["data"] or "null", parse_constant=refuse)
    for row in await world.store.db.rows("SELECT metrics FROM checkpoints WHERE job = ?", (name,)):
        json.loads(row["metrics"], parse_constant=refuse)
    job = await world.job(name)
    numbers = (job.step, job.total_steps, job.estimated_finish)
    return all(number is None or 0 <= number <= 2**53 for number in numbers)
