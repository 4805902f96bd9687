"""The engine as the pool's other half: what it looks at, what it tells, and what it survives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest

from ftd import engine
from ftd.config import Serving
from ftd.core.device import Device
from ftd.core.job import State
from ftd.core.schedule import Server
from ftd.engine import Engine
from ftd.store.db import Transaction
from ftd.store.servers import ServerRow
from ftd.store.store import Store
from tests.runner.test_runner import CPU, World, world

__all__ = ["world"]

PATIENCE_S = 20.0


@dataclass
class HandPool:
    """Workers that load, answer and end as a test says; their rows and leases are real."""

    store: Store
    live: dict[int, Server] = field(default_factory=dict)
    wishes: list[str] = field(default_factory=list)
    begun: list[ServerRow] = field(default_factory=list)
    closed: list[tuple[int, str]] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    broken: bool = False

    def servers(self) -> tuple[Server, ...]:
        return tuple(self.live.values())

    def wanted(self) -> tuple[str, ...]:
        return tuple(self.wishes)

    async def open(self, weights: str, device: Device) -> None:
        if self.broken:
            raise OSError("the disk is full")
        row = await self.store.serve(weights, self.store.ids.launch(), device)
        assert row is not None
        self.wishes.remove(weights)
        self.begun.append(row)
        self.live[row.id] = Server(
            id=row.id, weights=weights, device=device.id, busy=True, idle_s=0.0, yielding=False
        )

    def close(self, server: int, why: str, *, if_idle: bool = False) -> None:
        self.closed.append((server, why))
        self.live[server] = replace(self.live[server], yielding=True)

    def hold(self, weights: str, why: str) -> None:
        self.held[weights] = why

    async def gone(self, server: int) -> None:
        await self.store.served(server, "a test said so")
        del self.live[server]


@dataclass
class House:
    world: World
    pool: HandPool
    running: "asyncio.Task[None]"

    async def until(self, condition: Callable[[], object]) -> None:
        await until(self.world, condition)


async def until(world: World, condition: Callable[[], object]) -> None:
    """Ring until it is so: the pool of these tests does not ring by itself."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            world.bell.ring()
            await asyncio.sleep(0.01)


@pytest.fixture
async def house(world: World) -> AsyncIterator[House]:
    settings = world.rooms.settings.model_copy(update={"serving": Serving(idle_s=30.0, workers=1)})
    rooms = replace(world.rooms, settings=settings)
    pool = HandPool(rooms.store)
    running = asyncio.create_task(Engine(rooms, world.bell, (CPU,), pool).run())
    yield House(world, pool, running)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_wish_is_granted_and_the_next_one_told_why_not(house: House) -> None:
    house.pool.wishes += ["m", "n"]
    await house.until(lambda: house.pool.held)
    (row,) = house.pool.begun
    assert (row.weights, row.device) == ("m", "cpu")
    assert house.pool.held == {"n": "1 at once at most are loaded, now m"}


async def test_the_limits_of_the_settings_hold(house: House) -> None:
    house.pool.wishes.append("m")
    await house.until(lambda: house.pool.live)
    (number,) = house.pool.live
    house.pool.live[number] = replace(house.pool.live[number], busy=False, idle_s=30.0)
    await house.until(lambda: house.pool.closed)
    assert house.pool.closed == [(number, "it was idle for 30 s")]
    house.pool.wishes.append("n")
    await house.until(lambda: house.pool.held)
    await house.pool.gone(number)
    await house.until(lambda: len(house.pool.begun) == 2)
    assert house.pool.closed == [(number, "it was idle for 30 s")], "it is told once"


async def test_a_job_and_a_server_share_the_cpu(house: House) -> None:
    house.pool.wishes.append("m")
    await house.until(lambda: house.pool.live)
    await house.world.submit(["steps", 1], ["checkpoint", 1], ["done", 1])
    await house.world.until(State.SUCCEEDED)
    assert house.pool.closed == []
    assert len(house.pool.live) == 1


async def test_a_worker_that_cannot_be_begun_keeps_no_job_from_its_turn(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.pool.broken = True
    house.pool.wishes.append("m")
    await house.until(lambda: "turn failed" in caplog.text)
    await house.world.submit(["steps", 1], ["checkpoint", 1], ["done", 1])
    await house.world.until(State.SUCCEEDED)
    house.pool.broken = False
    await house.until(lambda: house.pool.begun)


async def test_a_lease_that_the_pool_has_forgotten_is_not_overlent(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A row of a worker that nobody knows of: its device waits until somebody ends it."""
    card = Device(id="GPU-1", kind="cuda", name="a card", memory_bytes=1)
    row = await world.store.serve("m", "run-lost", card)
    assert row is not None
    running = asyncio.create_task(Engine(world.rooms, world.bell, (card,)).run())
    try:
        await world.submit(["steps", 1])
        await until(world, lambda: "job not moved" in caplog.text)
        assert (await world.job()).state is State.QUEUED
        assert await world.store.recover_servers() == (row,)
        await world.until(State.RUNNING)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_trainer_that_speaks_makes_nobody_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TICK_S", 60.0)
    turns = 0

    def turned() -> None:
        nonlocal turns
        turns += 1

    running = asyncio.create_task(Engine(world.rooms, world.bell, (CPU,), alive=turned).run())
    try:
        await world.submit(["pause", 0.01], ["steps", 100], ["hang"])
        await world.until_told("Step 100/")
        before = turns
        await world.store.cancel("ftjob-1")
        await world.until_free()
        assert before < 10, "some for the job, and none for its hundred steps"
        assert turns > before, "what decides something is heard"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_long_queue_is_told_why_it_waits_though_something_fails(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "EXPLAINED", 3)
    pool = HandPool(world.store, broken=True)
    pool.wishes.append("m")
    await world.submit(["steps", 1], ["hang"], name="ftjob-0")
    for number in range(1, 9):
        await world.submit(["done", 1], name=f"ftjob-{number}")
    running = asyncio.create_task(Engine(world.rooms, world.bell, (CPU,), pool).run())
    try:
        for number in range(1, 9):
            place = f"; {number - 1} queued ahead of it" if number > 1 else ""
            why = await world.until_waiting(f"ftjob-{number}")
            assert why in (f"cpu runs ftjob-0{place}", f"every device was just lent{place}")
        await until(world, lambda: "turn failed" in caplog.text)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("state", "move"), [(State.QUEUED, State.RUNNING), (State.VALIDATING, State.QUEUED)]
)
async def test_a_row_that_cannot_be_moved_holds_nobody_up(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    state: State,
    move: State,
) -> None:
    """It is tried again after a while, and until then it is ahead of nobody."""
    monkeypatch.setattr(engine, "ODD_S", 3600.0)

    def trap(tx: Transaction) -> None:
        tx.execute("UPDATE jobs SET state = ? WHERE id = 'ftjob-odd'", (state,))
        tx.execute(
            f"CREATE TRIGGER trap BEFORE UPDATE ON jobs WHEN NEW.state = '{move}' "
            "AND NEW.id = 'ftjob-odd' BEGIN SELECT RAISE(ABORT, 'an odd row'); END"
        )

    await world.submit(["done", 1], name="ftjob-odd")
    await world.submit(["steps", 1], ["checkpoint", 1], ["done", 1], name="ftjob-good")
    await world.store.db.write(trap, about=())
    running = asyncio.create_task(Engine(world.rooms, world.bell, (CPU,)).run())
    try:
        await world.until(State.SUCCEEDED, "ftjob-good")
        await until(world, lambda: "job not moved" in caplog.text)
        assert (await world.job("ftjob-odd")).state is state
        assert caplog.text.count("job not moved") == 1
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
