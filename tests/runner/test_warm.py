"""The trainer that waits for a job, with real processes: begun, taken, replaced, and given up."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import psutil
import pytest

from ftd.core.job import State
from ftd.engine import Engine
from ftd.launch.base import Role
from ftd.launch.local import LocalLauncher
from ftd.runner import warm
from ftd.runner.runner import Runner
from ftd.runner.warm import AGAIN_LIMIT_S, AGAIN_S, BEGIN_BYTES, KEEP_BYTES, Warm, pause_s
from ftd.store import attempts
from tests.runner.test_runner import CPU, PATIENCE_S, World, processes, world

__all__ = ["world"]

NEVER_BEGINS = ["hang"]
LONG = (["pause", 0.01], ["steps", 100_000])
SHORT = (["steps", 1], ["checkpoint", 1], ["done", 1])
FAILS = """
import os
os.write(2, b"no torch\\n")
fact = b'{"kind":"failed","code":"trainer_error","message":"no torch"}\\n'
os.write(int(os.environ["FTD_FACTS_FD"]), fact)
"""


@dataclass
class House:
    """A world whose engine keeps a trainer ready, as long as there is memory."""

    world: World
    available: int = BEGIN_BYTES
    tasks: "tuple[asyncio.Task[None], ...]" = ()
    keeper: Warm = field(init=False)
    engine: Engine = field(init=False)

    def start(self) -> "House":
        rooms = self.world.rooms
        self.keeper = Warm(rooms, lambda: self.available)
        self.engine = Engine(rooms, self.world.bell, (CPU,), warm=self.keeper)
        self.tasks = (
            asyncio.create_task(self.engine.run()),
            asyncio.create_task(self.keeper.run()),
        )
        return self

    async def crash(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def runs(self) -> set[str]:
        return {run.name for run in self.world.home.runs.iterdir()}

    @property
    def ready(self) -> bool:
        for family in self.world.rooms.metrics.families():
            if family.name == "ftd_trainer_warm":
                return family.samples[0].value == 1
        raise AssertionError("there is no such metric")

    async def until(self, condition: Callable[[], object]) -> None:
        """Ring until it is so: what begins and ends here rings no bell."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.world.bell.ring()
                await asyncio.sleep(0.005)

    async def until_ready(self) -> str:
        """Until one waits; returns its launch."""
        await self.until(lambda: self.ready)
        assert self.keeper._waiting is not None
        return self.keeper._waiting.launch

    async def launches_of(self, job: str = "ftjob-1") -> list[str]:
        sql = "SELECT launch FROM attempts WHERE job = ? ORDER BY number"
        return [row["launch"] for row in await self.world.store.db.rows(sql, (job,))]

    def shim_of(self, launch: str) -> psutil.Process:
        assert isinstance(self.world.rooms.launcher, LocalLauncher)
        return psutil.Process(self.world.rooms.launcher._shims[launch].pid)


@pytest.fixture
async def house(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(warm, "AFTER_READY_S", 0.0)
    monkeypatch.setattr(warm, "LOOK_S", 0.02)
    monkeypatch.setattr(warm, "AGAIN_S", 0.01)
    house = House(world)
    yield house
    await house.crash()


async def test_a_job_takes_the_one_that_waits_and_it_is_replaced(house: House) -> None:
    waiting = await house.start().until_ready()
    assert house.runs == {waiting}
    await house.world.submit(*SHORT)
    await house.world.until(State.SUCCEEDED)
    assert await house.launches_of() == [waiting]
    assert await house.until_ready() != waiting
    assert len(house.runs) == 2


async def test_it_is_not_replaced_before_its_jobs_first_step(house: House) -> None:
    waiting = await house.start().until_ready()
    await house.world.submit(NEVER_BEGINS)
    await house.world.until_told("Fine-tuning job started")
    turns = _cycles(house.world)
    await house.until(lambda: _cycles(house.world) > turns + 3)
    assert house.runs == {waiting}
    assert not house.ready
    await house.world.store.cancel("ftjob-1")
    await house.until_ready()


async def test_it_is_replaced_while_its_job_trains(house: House) -> None:
    await house.start().until_ready()
    await house.world.submit(*LONG)
    await house.world.until_told("Step 1/")
    await house.until_ready()
    assert (await house.world.job()).state is State.RUNNING


async def test_jobs_that_come_too_fast_start_cold(house: House) -> None:
    await house.start().until_ready()
    for number in range(3):
        await house.world.submit(*SHORT, name=f"ftjob-{number}")
    for number in range(3):
        await house.world.until(State.SUCCEEDED, f"ftjob-{number}")
    await house.until_ready()
    assert len(house.runs) <= 5, "nothing piles up"


@pytest.mark.parametrize("who", ["shim", "worker"])
async def test_one_that_dies_is_replaced_and_leaves_nothing(
    house: House, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = await house.start().until_ready()
    shim = house.shim_of(waiting)
    (worker,) = shim.children()
    (shim if who == "shim" else worker).kill()
    await house.until(lambda: house.ready and waiting not in house.runs)
    assert "the trainer that waited for a job has ended" in caplog.text
    assert len(processes(house.world.home)) == 2


@pytest.mark.parametrize("who", ["shim", "worker"])
async def test_one_that_is_found_dead_costs_the_job_no_attempt(
    house: House, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = await house.start().until_ready()
    assert await house.keeper.take() == waiting
    shim = house.shim_of(waiting)
    (worker,) = shim.children()
    await house.crash()
    (shim if who == "shim" else worker).kill()
    await house.world.submit(*SHORT)
    attempt = await house.world.store.start("ftjob-1", waiting, (CPU,))
    assert attempt is not None
    await Runner(house.world.rooms, attempt).begin(CPU, launched=True)
    assert (await house.world.job()).state is State.SUCCEEDED
    assert await house.launches_of() == [waiting]
    assert "the trainer that waited had ended" in caplog.text


async def test_a_held_lock_is_no_reason_to_launch_anew(house: House) -> None:
    """Two trainers of one job: the second is refused, whether it waited or not."""
    await house.start().until_ready()
    await house.world.submit(*LONG)
    await house.world.until_told("Step 1/")
    waiting = await house.until_ready()
    assert await house.keeper.take() == waiting
    shim = house.shim_of(waiting)
    await house.crash()
    attempt = replace((await attempts.live(house.world.store.db))[0], launch=waiting)
    second = asyncio.create_task(Runner(house.world.rooms, attempt).begin(CPU, launched=True))
    await house.until(lambda: not shim.is_running())
    await house.world.until(State.QUEUED)
    assert "is held by" in str((await house.world.job()).wait_reason)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_one_that_was_taken_for_nothing_is_ended(house: House) -> None:
    """Somebody cancelled the job between the decision and the start."""
    waiting = await house.start().until_ready()
    house.tasks[0].cancel()  # the engine, which may decide otherwise
    await house.world.submit(*SHORT)
    await house.world.store.cancel("ftjob-1")
    await house.engine._start("ftjob-1", (CPU,))
    assert await house.launches_of() == []
    assert house.runs == set()
    house.keeper.allow(begin=True)
    assert await house.until_ready() != waiting


async def test_none_is_kept_when_memory_is_short(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    said = "memory is short"
    house.available = BEGIN_BYTES - 1
    house.start()
    await house.until(lambda: caplog.text.count(said) == 1)
    assert house.runs == set()
    house.available = BEGIN_BYTES
    await house.until_ready()
    house.available = KEEP_BYTES
    await house.until_ready()
    house.available = KEEP_BYTES - 1
    await house.until(lambda: house.runs == set() and not processes(house.world.home))
    assert not house.ready
    assert caplog.text.count(said) == 2, "each time once"
    assert "has ended" not in caplog.text
    house.available = BEGIN_BYTES
    await house.until_ready()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ((sys.executable, "-I", "-S", "-c", FAILS), "no torch"),
        (("/bin/sh", "-c", "echo no python >&2; exit 3"), "no python"),
    ],
)
async def test_a_broken_installation_does_not_spin(
    house: House, program: tuple[str, ...], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = LocalLauncher(house.world.home.root, programs={Role.TRAIN: program})
    house.world.rooms = replace(house.world.rooms, launcher=broken)
    keeper = house.start().keeper
    await house.until(lambda: keeper._ends >= 3)
    assert not house.ready
    assert all(why in vars(record)["why"] for record in caplog.records)
    await house.crash()
    await broken.close()
    await house.until(lambda: not processes(house.world.home))
    assert len(house.runs) <= 1, "one that it was about to remove"


def test_each_end_doubles_the_pause_to_a_limit() -> None:
    assert [pause_s(n) for n in (1, 2, 3)] == [AGAIN_S, 2 * AGAIN_S, 4 * AGAIN_S]
    assert pause_s(10) == pause_s(10_000) == AGAIN_LIMIT_S


async def test_what_an_earlier_daemon_left_is_removed_and_nothing_else(house: House) -> None:
    world = house.world
    launcher = world.rooms.launcher
    for launch in ("run-left", "run-given"):
        (launcher.out(launch)).mkdir(parents=True)
    await launcher.launch("run-lives")
    await world.submit(*SHORT)
    attempt = await world.store.start("ftjob-1", "run-given", (CPU,))
    assert attempt is not None
    await world.store.give_back(attempt, "its worker never began")
    settings = world.rooms.settings
    off = settings.model_copy(
        update={"training": settings.training.model_copy(update={"warm": False})}
    )
    await Warm(replace(world.rooms, settings=off), lambda: BEGIN_BYTES).run()
    assert house.runs == {"run-given", "run-lives"}, "and none is begun where none is wanted"


async def test_it_ends_with_its_daemon_and_leaves_nothing(house: House) -> None:
    await house.start().until_ready()
    assert len(processes(house.world.home)) == 2
    await house.crash()
    assert house.runs == set()
    await house.until(lambda: not processes(house.world.home))


async def test_one_that_cannot_be_launched_leaves_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    broken = LocalLauncher(house.world.home.root, programs={Role.TRAIN: ("/no/such/program",)})
    house.world.rooms = replace(house.world.rooms, launcher=broken)
    keeper = house.start().keeper
    await house.until(lambda: keeper._ends >= 2)
    assert all("No such file" in vars(record)["why"] for record in caplog.records)
    await house.crash()
    assert house.runs == set()
    await broken.close()


def _cycles(world: World) -> float:
    """How many turns the engine has taken."""
    for family in world.rooms.metrics.families():
        if family.name == "ftd_scheduler_cycle_duration_seconds":
            return next(s.value for s in family.samples if s.name.endswith("_count"))
    raise AssertionError("there is no such metric")
