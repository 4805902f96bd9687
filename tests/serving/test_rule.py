"""Who goes first on one device: a real engine and real processes, whose jobs and answers are
scripts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ftd.config import Serving
from ftd.core import chat
from ftd.core.device import Device
from ftd.core.errors import FtdError, Kind
from ftd.core.job import State
from ftd.core.models import ModelKind
from ftd.engine import Engine
from ftd.host.space import Space
from ftd.runner.runner import Rooms
from tests.runner.test_runner import World
from tests.serving.conftest import DEVICE, Bench, until

GPU = Device(id="GPU-1", kind="cuda", name="a card", memory_bytes=2**30)


@pytest.fixture
def serving(request: pytest.FixtureRequest) -> Serving:
    """A short wait where a test waits for it to pass."""
    return Serving(wait_s=1.0 if "on_a_gpu" in request.node.name else 20.0, threads=1)


@asynccontextmanager
async def training_beside(bench: Bench, device: Device) -> AsyncIterator[World]:
    """An engine on one device, for jobs and for the bench's requests."""
    bench.granting = False  # the engine alone decides
    await bench.shelf.put("m", kind=ModelKind.BASE, base="m")
    rooms = Rooms(
        store=bench.rooms.store,
        launcher=bench.rooms.launcher,
        settings=bench.rooms.settings,
        metrics=bench.rooms.metrics,
        clock=bench.rooms.clock,
        home=bench.rooms.home,
        space=Space(bench.rooms.home.root, 0),
    )
    engine = asyncio.create_task(Engine(rooms, bench.rooms.bell, (device,), bench.pool).run())
    yield World(rooms=rooms, home=bench.rooms.home, bell=bench.rooms.bell)
    engine.cancel()
    await asyncio.gather(engine, return_exceptions=True)


async def test_on_a_gpu_training_goes_first_and_waits_for_what_was_begun(bench: Bench) -> None:
    async with training_beside(bench, GPU) as world:
        model = await bench.base()
        answers = bench.pool.generate(model, None, bench.request("hold"))
        assert [type(await anext(answers)) for _ in range(2)] == [chat.Began, chat.Piece]
        out = await bench.out()

        await world.submit(["pause", 0.02], ["steps", 1000])
        assert "GPU-1 serves tiny; it ends when its answers are given" in (
            await world.until_waiting()
        )
        await until(lambda: bench.pool.servers()[0].yielding)
        with pytest.raises(FtdError, match="GPU-1 is kept for ftjob-1") as caught:
            await bench.ask("count 1")  # begins no more, and training is not kept waiting for it
        assert caught.value.kind is Kind.UNAVAILABLE
        assert (await world.job()).state is State.QUEUED

        (out / "go").touch()
        assert [type(answer) async for answer in answers][-1] is chat.Ended
        await world.until(State.RUNNING)
        await world.until_told("Step 3/1000")
        with pytest.raises(FtdError, match="GPU-1 trains ftjob-1"):
            await bench.ask("count 1")
        assert bench.pool.servers() == ()

        await bench.rooms.store.cancel("ftjob-1")
        await world.until_free()
        assert await bench.ask("count 1") == "1 "


async def test_on_the_cpu_both_go_on_side_by_side(bench: Bench) -> None:
    async with training_beside(bench, DEVICE) as world:
        assert await bench.ask("count 1") == "1 "
        await world.submit(["pause", 0.02], ["steps", 100], ["checkpoint", 100], ["done", 100])
        await world.until(State.RUNNING)
        for number in range(3):
            await world.until_told(f"Step {10 * number + 1}/100")
            assert await bench.ask("count 2") == "1 2 "
        assert (await world.job()).state is State.RUNNING
        await world.until(State.SUCCEEDED)
        assert await world.steps() == list(range(1, 101))
        assert len(await bench.rows()) == 1


async def test_a_loaded_model_makes_room_for_the_next_one(bench: Bench) -> None:
    async with training_beside(bench, DEVICE):
        names = ["one", "two", "three"]
        models = [await bench.shelf.put(name, kind=ModelKind.BASE, base=name) for name in names]
        for model in models:
            assert await bench.answer(model, "adapter") == model.name
        assert bench.rooms.settings.serving.workers == 2
        assert {server.weights for server in bench.pool.servers()} == {"two", "three"}
