"""A runner that fails is not begun anew for ever: it rests, and in the end its job says why."""

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ftd import engine
from ftd.core.errors import FtdError, Kind
from ftd.core.job import Attempt, Job, State
from ftd.runner import rests, runner
from ftd.runner.rests import FAILURES, MOST_S, WANTING_S, Rests
from ftd.store import attempts
from ftd.store.db import Transaction
from tests.runner.test_runner import PATIENCE_S, World, processes, world

__all__ = ["world"]

ODD = ValueError("an odd row")
WANTS = [
    FtdError(Kind.NO_SPACE, "The disk is full."),
    FtdError(Kind.UNAVAILABLE, "The database is locked."),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EMFILE, "Too many open files"),
    MemoryError(),
]


def attempt(number: int = 1) -> Attempt:
    return Attempt(
        id=number, job="ftjob-1", number=number, launch=f"run-{number}", devices=("cpu",),
        started_at=0,
    )  # fmt: skip


def rested(of: Rests, error: Exception, times: int, *, offset: int = 0) -> list[float]:
    """How long it rests after each of so many failures in a row."""
    return [of.failed(attempt(), offset, error, 0.0) for _ in range(times)]


def test_each_rest_is_longer_up_to_a_minute() -> None:
    of = Rests()
    assert rested(of, ODD, 8) == [1, 2, 4, 8, 16, 32, 60, 60]
    assert rested(of, ODD, 2000)[-1] == MOST_S
    assert of.resting("ftjob-1", MOST_S - 0.1)
    assert not of.resting("ftjob-1", MOST_S)
    assert not of.resting("ftjob-2", 0.0)


def test_so_many_in_a_row_are_a_fault_that_says_whose_it_is() -> None:
    of = Rests()
    rested(of, ODD, FAILURES - 1)
    assert of.fault("ftjob-1") is None
    rested(of, ODD, 1)
    fault = of.fault("ftjob-1")
    assert fault is not None
    assert fault.code == "internal_error"
    assert "a fault of ftd's" in fault.message
    assert "ValueError: an odd row" in fault.message
    assert "journalctl" in fault.message
    assert "submitted again" in fault.message
    assert of.fault("ftjob-2") is None


@pytest.mark.parametrize("error", WANTS, ids=repr)
def test_what_is_only_wanted_is_waited_for_and_soon_looked_for_again(error: Exception) -> None:
    of = Rests()
    assert rested(of, error, 9) == [1, 2, 4, 8, *[WANTING_S] * 5]
    assert of.fault("ftjob-1") is None
    rested(of, ODD, FAILURES)
    assert of.fault("ftjob-1") is not None, "beside it, mistakes count"


def test_a_runner_that_comes_further_begins_a_new_row() -> None:
    of = Rests()
    for offset in range(1, 3 * FAILURES):
        assert rested(of, ODD, 1, offset=offset) == [1]
    rested(of, ODD, FAILURES - 1, offset=1)
    assert of.fault("ftjob-1") is not None, "it did not come further"


def test_attempts_that_never_begin_are_one_row() -> None:
    of = Rests()
    for number in range(1, FAILURES + 1):
        assert of.fault("ftjob-1") is None
        of.failed(attempt(number), 0, ODD, 0.0)
    assert of.fault("ftjob-1") is not None
    of.failed(attempt(99), 500, ODD, 0.0)
    assert of.fault("ftjob-1") is None, "this one began"


def test_an_end_makes_up_for_everything_and_so_does_an_hour() -> None:
    of = Rests()
    rested(of, ODD, FAILURES)
    of.settled("ftjob-1")
    assert of.fault("ftjob-1") is None
    rested(of, ODD, FAILURES - 1)
    of.failed(attempt(), 0, ODD, 10_000.0)
    assert of.fault("ftjob-1") is None


@pytest.fixture
async def brisk(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """An engine that turns often, and whose rests are short."""
    monkeypatch.setattr(engine, "TICK_S", 0.02)
    monkeypatch.setattr(rests, "FIRST_S", 0.01)
    monkeypatch.setattr(rests, "MOST_S", 0.1)
    world.start()
    yield world
    await world.crash()


async def change(world: World, sql: str) -> None:
    def work(tx: Transaction) -> None:
        tx.execute(sql)

    await world.store.db.write(work)


async def settled(world: World, name: str = "ftjob-1") -> Job:
    """The job when it has failed by our fault, and nothing of it is left."""
    job = await world.until(State.FAILED, name)
    await world.until_free()
    assert not processes(world.home)
    assert job.error is not None
    assert job.error.code == "internal_error"
    assert job.error.message in await world.told(name)
    return job


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        # Neither a log nor a file system rings a bell.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def run_of(world: World) -> Path:
    (assigned,) = world.home.runs.glob("*/assigned.json")
    return assigned.parent


async def test_an_attempt_that_cannot_be_settled_fails_its_job(
    brisk: World, caplog: pytest.LogCaptureFixture
) -> None:
    await brisk.submit(["steps", 1], ["gate"], ["exit", 3])
    await brisk.until_told("Step 1/")
    await change(brisk, "UPDATE attempts SET last_word = 'not a fact'")
    (run_of(brisk) / "out" / "open").touch()
    job = await settled(brisk)
    assert job.error is not None
    assert "WireError: " in job.error.message
    assert caplog.text.count("runner failed") == FAILURES
    await brisk.submit(["checkpoint", 1], ["done", 1], name="ftjob-2")
    await brisk.until(State.SUCCEEDED, "ftjob-2")


async def test_a_trainer_that_cannot_be_followed_is_ended_with_all_that_it_started(
    brisk: World,
) -> None:
    await brisk.submit(["steps", 1], ["deaf"], ["stray"], ["hang"])
    await brisk.until_told("Step 1/")
    spool = run_of(brisk) / "spool"
    spool.rename(spool.with_name("moved"))
    spool.mkdir()
    job = await settled(brisk)
    assert job.error is not None
    assert "IsADirectoryError" in job.error.message


async def test_one_whose_shim_is_frozen_is_ended_too(
    brisk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "KILL_S", 0.5)
    await brisk.submit(["steps", 1], ["hang"])
    await brisk.until_told("Step 1/")
    spool = run_of(brisk) / "spool"
    spool.rename(spool.with_name("moved"))
    spool.mkdir()
    for process in processes(brisk.home):
        os.kill(process.pid, signal.SIGSTOP)
    await settled(brisk)


async def test_a_cancelled_job_gives_its_device_back_though_nobody_can_follow_it(
    brisk: World,
) -> None:
    await brisk.submit(["steps", 1], ["hang"])
    await brisk.until_told("Step 1/")
    spool = run_of(brisk) / "spool"
    spool.rename(spool.with_name("moved"))
    spool.mkdir()
    await brisk.store.cancel("ftjob-1")
    await brisk.until_free()
    assert not processes(brisk.home)
    assert (await brisk.job()).state is State.CANCELLED


async def test_a_job_that_cannot_be_begun_fails(brisk: World) -> None:
    await brisk.store.db.write(
        lambda tx: (
            tx.execute(
                "CREATE TRIGGER odd AFTER INSERT ON jobs BEGIN "
                'UPDATE jobs SET spec = \'{"device": "cpu"}\' WHERE seq = new.seq; END'
            )
            and None
        )
    )
    await brisk.submit(["done", 1])
    job = await settled(brisk)
    assert job.error is not None
    assert "ValidationError" in job.error.message
    rows = await brisk.store.db.rows("SELECT ending FROM attempts")
    assert [row["ending"] for row in rows] == ["returned"] * (FAILURES - 1) + ["failed"]


async def test_where_nothing_can_be_settled_it_rests_until_it_can(
    brisk: World, caplog: pytest.LogCaptureFixture
) -> None:
    await change(
        brisk,
        "CREATE TRIGGER no_end BEFORE UPDATE OF ended_at ON attempts "
        "BEGIN SELECT raise(ABORT, 'it does not end'); END",
    )
    await brisk.submit(["steps", 1], ["exit", 3])
    await until(lambda: caplog.text.count("runner failed") >= 2 * FAILURES)
    assert (await brisk.job()).state is State.RUNNING
    assert await attempts.holders(brisk.store.db) == {"cpu": "ftjob-1"}
    await change(brisk, "DROP TRIGGER no_end")
    await settled(brisk)
