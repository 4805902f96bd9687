"""The daemon's own rooms with a worker that needs no model: engine, pool and service together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from ftd import config, daemon
from ftd.core import chat
from ftd.core.errors import FtdError
from ftd.host.home import Home
from ftd.launch.base import Role
from ftd.launch.local import LocalLauncher
from ftd.service.actor import Actor
from ftd.service.chat import ChatRequest
from ftd.serving.vllm import Vllm
from ftd.store import servers
from tests.launch.conftest import SANDBOX, end, processes
from tests.serving.conftest import BASE, DEVICE, FAKE, Shelf, until
from tests.serving.standin import StandIn, serving

US = Actor(project="default", name="admin")


@asynccontextmanager
async def running(home: Home, **options: object) -> AsyncIterator[daemon.House]:
    """The daemon but for its faces."""
    settings = config.load(
        home=home.root,
        devices=config.Devices(use="cpu"),
        sandbox=config.Sandbox(read=SANDBOX.read),
        serving=config.Serving(**({"threads": 1} | options)),  # type: ignore[arg-type]
    )
    async with daemon.assemble(settings, home) as house:
        life = asyncio.create_task(daemon._run(house))
        yield house
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
    end(home.root)


@pytest.fixture
async def base(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> str:
    """A base model in the rows that the daemon will find."""
    programs = {Role.INFER: FAKE, Role.TRAIN: FAKE}
    launcher = partial(LocalLauncher, programs=programs)
    monkeypatch.setattr(daemon, "LocalLauncher", launcher)
    return BASE


async def ask(house: daemon.House, words: str) -> str:
    asked = ChatRequest(model=BASE, prompt=chat.Text(text=words), sampling=chat.Sampling())
    reply = await house.door.chat.generate(US, asked)
    return "".join([said.text async for said in reply if isinstance(said, chat.Piece)])


async def test_the_engine_grants_the_wish_and_ends_the_idle(base: str, home: Home) -> None:
    async with running(home, idle_s=0.2) as house:
        assert await ask(house, "count 3") == "1 2 3 "
        await until(lambda: not house.pool.servers())
        assert await servers.live(house.engine.rooms.store.db) == ()
        assert await ask(house, "count 3") == "1 2 3 "


async def test_what_an_earlier_daemon_left_is_ended_and_its_inputs_go(
    base: str, home: Home, shelf: Shelf
) -> None:
    row = await shelf.store.serve(BASE, "run-of-a-dead-one", DEVICE)
    assert row is not None
    inside = home.root / "runs" / row.launch / "in"
    (inside / "model").mkdir(parents=True)
    async with running(home) as house:
        assert await servers.live(house.engine.rooms.store.db) == ()
        assert not (inside / "model").exists()
        assert await ask(house, "count 1") == "1 "


async def test_no_worker_stays_when_the_daemon_ends(base: str, home: Home) -> None:
    async with running(home) as house:
        waiting = asyncio.create_task(ask(house, "mute"))
        await until(house.pool.servers)
        await house.pool.stop()
        with pytest.raises(FtdError, match="ftd is stopping"):
            await waiting
    await until(lambda: not processes(home.root))


async def test_a_vllm_answers_instead(base: str, home: Home, shelf: Shelf, tmp_path: Path) -> None:
    tuned = await shelf.put("ft:tiny::a1")
    async with (
        serving(StandIn()) as server,
        running(home, backend="vllm", vllm_url=server.url) as house,
    ):
        assert isinstance(house.handoff, Vllm)
        await until(lambda: server.adapters)
        relay = await house.door.chat.relay(
            US, "/v1/completions", tuned.name, b'{"model": "ft:tiny::a1"}'
        )
        assert relay is not None
        assert relay.status == 200
        await relay.aclose()
