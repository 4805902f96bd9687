"""One attempt's life with real processes, a real store, and a worker that plays a script."""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftd.bell import Bell
from ftd.config import Settings, Stopping, Training
from ftd.core.dataset import Format, Report
from ftd.core.device import Device
from ftd.core.file import FINE_TUNE, File, FileStatus
from ftd.core.hyperparams import Requested
from ftd.core.ids import Ids
from ftd.core.job import Job, State
from ftd.core.models import Model, ModelKind
from ftd.daemon import SystemClock
from ftd.engine import Engine
from ftd.host.home import Home
from ftd.host.space import Space
from ftd.launch.base import Role
from ftd.launch.local import LocalLauncher
from ftd.metrics import Metrics
from ftd.runner.runner import Rooms
from ftd.store import attempts, checkpoints, events, files, jobs, models
from ftd.store.db import Database
from ftd.store.store import Store

CPU = Device(id="cpu", kind="cpu", name="processor", memory_bytes=2**30)
SCRIPTED = (sys.executable, "-I", "-S", str(Path(__file__).with_name("scripted.py")))
PATIENCE_S = 30.0


@dataclass
class World:
    """A home with one base model, an engine that runs, and jobs that are scripts."""

    rooms: Rooms
    home: Home
    bell: Bell
    engine: "asyncio.Task[None] | None" = None

    @property
    def store(self) -> Store:
        return self.rooms.store

    def start(self) -> None:
        self.engine = asyncio.create_task(Engine(self.rooms, self.bell, (CPU,)).run())

    async def crash(self) -> None:
        """The daemon ends in the middle of whatever it does."""
        if self.engine is not None:
            self.engine.cancel()
            await asyncio.gather(self.engine, return_exceptions=True)

    async def submit(self, *script: list[Any], name: str = "ftjob-1") -> str:
        file_id = f"file-{name}"
        self.home.file(file_id).write_text(json.dumps(script))
        report = Report(format=Format.CHAT, examples=20).to_json()
        file = File(
            seq=0, id=file_id, project="p", purpose=FINE_TUNE, filename="a.jsonl", bytes=1,
            sha256="0", created_at=0, status=FileStatus.PROCESSED, report=report,
        )  # fmt: skip
        await self.store.db.write(lambda tx: files.insert(tx, file))
        job = Job(
            seq=0, id=name, project="p", created_at=0, model="m", base="m",
            minted=f"ft:m::{name[-8:]}", training_file=file_id, seed=1, requested=Requested(),
            state=State.VALIDATING,
        )  # fmt: skip
        return (await self.store.create(lambda _: job)).id

    async def job(self, name: str = "ftjob-1") -> Job:
        job = await jobs.get(self.store.db, name)
        assert job is not None
        return job

    async def until(self, state: State, name: str = "ftjob-1") -> Job:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                heard = self.bell.listen()
                job = await self.job(name)
                if job.state is state:
                    return job
                assert not job.final, job.error
                await heard.wait()

    async def until_free(self) -> None:
        """Until no attempt lives and no device is lent."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                heard = self.bell.listen()
                if not await attempts.live(self.store.db):
                    assert await attempts.holders(self.store.db) == {}
                    return
                await heard.wait()

    async def until_told(self, message: str, name: str = "ftjob-1") -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                heard = self.bell.listen()
                if any(message in told for told in await self.told(name)):
                    return
                await heard.wait()

    async def until_waiting(self, name: str = "ftjob-1") -> str:
        """Until the job says why it waits."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                heard = self.bell.listen()
                if reason := (await self.job(name)).wait_reason:
                    return reason
                await heard.wait()

    async def told(self, name: str = "ftjob-1") -> list[str]:
        return [event.message for event in await events.since(self.store.db, name, 0, 10_000)]

    async def steps(self, name: str = "ftjob-1") -> list[int]:
        told = await self.told(name)
        return [int(m.split()[1].split("/")[0]) for m in told if m.startswith("Step ")]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    home = Home(tmp_path / "home")
    home.make()
    (home.models / "m").mkdir()
    (home.models / "m" / "config.json").write_text("{}")
    bell = Bell()
    database = Database(home.database, bell)
    await database.open()
    store = Store(database, SystemClock(), Ids(random.Random(3).randbytes))
    # Unconfined: what a sandbox keeps from a liar, others must bear where there is none.
    launcher = LocalLauncher(home.root, programs={Role.TRAIN: SCRIPTED}, sandbox=None)
    settings = Settings(
        home=home.root,
        stopping=Stopping(ask_s=0.2, term_s=0.2),
        training=Training(retry_s=0.0),
    )
    rooms = Rooms(
        store=store, launcher=launcher, settings=settings, metrics=Metrics("0"),
        clock=SystemClock(), home=home, space=Space(home.root, 0),
    )  # fmt: skip
    base = Model(
        name="m", project=models.SHARED, kind=ModelKind.BASE, base="m", path="models/m",
        sha256="0", created_at=0, facts={"context_tokens": 128},
    )  # fmt: skip
    await database.write(lambda tx: models.insert(tx, base))
    world = World(rooms=rooms, home=home, bell=bell)
    yield world
    await world.crash()
    await launcher.close()
    await database.close()
    for process in processes(home):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def processes(home: Home) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.cwd().startswith(str(home.runs)):
                found.append(process)
    return found


async def test_a_job_runs_to_its_end(world: World) -> None:
    world.start()
    await world.submit(["steps", 3], ["checkpoint", 3], ["done", 3])
    job = await world.until(State.SUCCEEDED)
    assert job.trained_tokens == 192
    assert job.fine_tuned_model == job.minted
    assert job.result_file is not None
    assert await world.steps() == [1, 2, 3]
    assert (await world.told())[-3:] == [
        f"Checkpoint created at step 3 with Snapshot ID: {job.minted}:ckpt-step-3",
        f"New fine-tuned model created: {job.minted}",
        "The job has successfully completed",
    ]
    adapter = world.home.adapter(job.minted) / "adapter_model.safetensors"
    assert adapter.read_bytes() == b"weights 3"
    rows = world.home.file(job.result_file).read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2", "3"]
    await world.until_free()


async def test_one_job_at_a_time_on_one_device(world: World) -> None:
    world.start()
    await world.submit(["pause", 0.01], ["steps", 1000], name="ftjob-1")
    await world.until_told("Step 1/")
    await world.submit(["checkpoint", 1], ["done", 1], name="ftjob-2")
    await world.until_told("Files validated", "ftjob-2")
    assert await world.until_waiting("ftjob-2") == "cpu runs ftjob-1"
    await world.store.cancel("ftjob-1")
    assert (await world.until(State.SUCCEEDED, "ftjob-2")).wait_reason is None


async def test_an_adopted_attempt_goes_on_and_nothing_is_told_twice(world: World) -> None:
    world.start()
    await world.submit(["pause", 0.01], ["steps", 100], ["checkpoint", 100], ["done", 100])
    for _ in range(3):
        await world.until_told("Step ")
        await world.crash()
        world.start()
    await world.until(State.SUCCEEDED)
    assert await world.steps() == list(range(1, 101))
    assert (await world.told()).count("Fine-tuning job started") == 1


async def test_a_lost_trainer_is_replaced_and_resumes_from_its_checkpoint(world: World) -> None:
    world.start()
    await world.submit(["steps", 2], ["checkpoint", 2], ["kill", int(signal.SIGKILL)])
    await world.until_told("killed by signal 9")
    assert (await checkpoints.resume_points(world.store.db, "ftjob-1"))[0].step == 2
    second = world.home.root / "runs"
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert job.error.code == "trainer_lost"
    resumed = [json.loads(spec.read_text())["resume"] for spec in second.glob("*/in/spec.json")]
    assert sorted(map(str, resumed)) == ["None", "in/resume", "in/resume", "in/resume"]


async def test_cancel_asks_then_terminates_then_kills(world: World) -> None:
    world.start()
    await world.submit(["deaf"], ["steps", 1], ["hang"])
    await world.until_told("Step 1/")
    await world.store.cancel("ftjob-1")
    await world.until_free()
    assert not processes(world.home)
    assert (await world.job()).state is State.CANCELLED
    assert (await world.told())[-1] == "Fine tuning process stopping due to job cancellation"


async def test_a_cancelled_trainer_ends_at_its_next_step(world: World) -> None:
    world.start()
    await world.submit(["pause", 0.01], ["steps", 100_000])
    await world.until_told("Step 1/")
    await world.store.cancel("ftjob-1")
    await world.until_free()
    (stop,) = (world.home.runs).glob("*/out/stop.json")
    assert json.loads(stop.read_text()) == {"kind": "stop", "save": False}


async def test_the_trainers_own_reason_fails_the_job(world: World) -> None:
    world.start()
    failed = {"kind": "failed", "code": "diverged", "message": "The loss is not a number."}
    await world.submit(["say", json.dumps(failed)], ["exit", 0])
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("diverged", "The loss is not a number.")


@pytest.mark.parametrize(
    "nonsense",
    [
        "not json",
        '{"kind": "rumour"}',
        '{"kind": "step", "step": "many"}',
        json.dumps({"kind": "notice", "message": "x" * 5000}),
        json.dumps(
            {"kind": "saved", "step": 1, "epoch": 1, "path": "../../..", "manifest_sha256": "0"}
        ),
        json.dumps(
            {"kind": "saved", "step": 1, "epoch": 1, "path": "nowhere", "manifest_sha256": "0"}
        ),
    ],
)
async def test_a_trainer_that_talks_nonsense_is_ended_and_explained(
    world: World, nonsense: str
) -> None:
    world.start()
    await world.submit(["steps", 1], ["say", nonsense], ["hang"])
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert job.error.code == "protocol_error"
    assert await world.steps() == [1], "what it said before is kept"
    await world.until_free()
    assert not processes(world.home)


async def test_done_without_a_checkpoint_is_nonsense_too(world: World) -> None:
    world.start()
    await world.submit(["steps", 1], ["done", 1])
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert job.error.code == "protocol_error"


async def test_a_spool_that_was_damaged_is_noticed(world: World) -> None:
    await world.submit(["steps", 5], ["hang"])
    world.start()
    await world.until_told("Step 5/")
    await world.crash()
    (spool,) = world.home.runs.glob("*/spool")
    await world.store.db.write(
        lambda tx: tx.execute("UPDATE attempts SET spool_offset = 0") and None
    )
    with spool.open("r+b") as file:
        file.seek(30)
        file.write(b"\xff\xff\xff")
    world.start()
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert "spool" in job.error.message


async def test_a_worker_that_never_got_its_job_is_no_attempt(world: World) -> None:
    """The daemon died between the row and the assignment: the job simply starts again."""
    await world.submit(["checkpoint", 1], ["done", 1])
    await world.store.start("ftjob-1", "run-nowhere", (CPU,))
    world.start()
    job = await world.until(State.SUCCEEDED)
    rows = await world.store.db.rows("SELECT number, ending FROM attempts ORDER BY number")
    assert [(row["number"], row["ending"]) for row in rows] == [(1, "returned"), (2, "done")]
    assert job.error is None


async def test_a_held_lock_keeps_a_second_trainer_out(world: World) -> None:
    lock = os.open(world.home.root / "locks" / "ftjob-1.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        await world.submit(["checkpoint", 1], ["done", 1])
        world.start()
        assert "held" in (await world.until_waiting()).lower()
        waiting = await world.job()
        assert waiting.state is State.QUEUED
        assert "held" in str(waiting.wait_reason), "it rests, and says why"
        await world.until_free()
        (refused,) = world.home.runs.iterdir()
        async with asyncio.timeout(PATIENCE_S):
            # A file system rings no bell.
            while [e.name for e in (refused / "in").iterdir()] != ["spec.json"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        os.close(lock)
    await world.until(State.SUCCEEDED)


async def test_a_job_whose_data_is_gone_fails_and_says_so(world: World) -> None:
    await world.submit(["steps", 1])
    world.home.file("file-ftjob-1").unlink()
    world.start()
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert job.error.code == "missing_input"
    assert "file-ftjob-1" in job.error.message
    await world.until_free()
