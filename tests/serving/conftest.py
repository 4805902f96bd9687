"""A home with a real store, a real clock and a model or two; workers below real shims."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from ftd import config
from ftd.bell import Bell
from ftd.core import chat
from ftd.core.device import CPU, Device
from ftd.core.ids import Ids
from ftd.core.models import Model, ModelKind
from ftd.host.home import Home
from ftd.launch.base import Role
from ftd.launch.local import LocalLauncher
from ftd.metrics import Metrics
from ftd.serving.pool import Pool
from ftd.serving.worker import Rooms
from ftd.store import models, servers
from ftd.store.db import Database
from ftd.store.servers import ServerRow
from ftd.store.store import Store
from tests.launch.conftest import SANDBOX, end
from tests.runner.test_runner import SCRIPTED

BASE = "tiny"
TUNED = "ft:tiny::a1"
CHECKPOINT = "ft:tiny::a1:ckpt-step-3"


FAKE = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fakeinfer.py")))
DEVICE = Device(id=CPU, kind=CPU, name="a CPU", memory_bytes=2**30)


class Clock:
    def now(self) -> int:
        return int(time.time())

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass
class Shelf:
    """Models on the disk and in the rows."""

    home: Home
    store: Store
    bell: Bell

    async def put(
        self,
        name: str,
        *,
        kind: ModelKind = ModelKind.TUNED,
        form: str = "adapter",
        base: str = BASE,
        script: str = "",
    ) -> Model:
        path = self.home.root / "adapters" / name.replace(":", "-")
        if kind is ModelKind.BASE:
            path = self.home.models / name
        path.mkdir(parents=True)
        if script:
            (path / "script").write_text(script)
        (path / "adapter_config.json").write_text("{}")
        (path / "weights").write_text(name)
        model = Model(
            name=name,
            project=models.SHARED if kind is ModelKind.BASE else "default",
            kind=kind,
            base=base,
            path=str(path.relative_to(self.home.root)),
            sha256=f"{random.getrandbits(256):064x}",
            created_at=1,
            facts={"form": form},
        )
        await self.store.db.write(lambda tx: models.insert(tx, model))
        return model

    async def remove(self, name: str) -> None:
        await self.store.db.write(lambda tx: models.hide(tx, name, 2))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


@pytest_asyncio.fixture
async def shelf(home: Home) -> AsyncIterator[Shelf]:
    bell = Bell()
    database = Database(home.database, bell)
    await database.open()
    shelf = Shelf(home, Store(database, Clock(), Ids(random.Random(1).randbytes)), bell)
    await shelf.put(BASE, kind=ModelKind.BASE)
    yield shelf
    await database.close()


@dataclass
class Bench:
    """A pool whose wishes are granted at once, as the engine would on a free CPU."""

    pool: Pool
    rooms: Rooms
    shelf: Shelf
    granting: bool = True

    async def grant(self) -> None:
        while True:
            heard = self.rooms.bell.listen()
            if self.granting:
                for weights in self.pool.wanted():
                    await self.pool.open(weights, DEVICE)
            await heard.wait()

    async def rows(self) -> tuple[ServerRow, ...]:
        return await servers.live(self.shelf.store.db)

    async def out(self) -> Path:
        """The directory that the only worker writes."""
        (row,) = await self.rows()
        return self.rooms.launcher.out(row.launch)

    async def base(self) -> Model:
        model = await models.get(self.shelf.store.db, "default", BASE)
        assert model is not None
        return model

    async def ask(self, text: str, adapter: Model | None = None) -> str:
        """The whole answer by the base, or by an adapter to it."""
        return await self.answer(await self.base(), text, adapter)

    async def answer(self, weights: Model, text: str, adapter: Model | None = None) -> str:
        answers = self.pool.generate(weights, adapter, self.request(text))
        pieces = [answer async for answer in answers]
        assert isinstance(pieces[0], chat.Began)
        assert isinstance(pieces[-1], chat.Ended)
        return "".join(piece.text for piece in pieces if isinstance(piece, chat.Piece))

    def request(self, text: str) -> chat.Generate:
        return chat.Generate(id=self.shelf.store.ids.chat(), prompt=chat.Text(text=text))

    def number(self, name: str, **labels: str) -> float:
        """A sample of the metrics."""
        for family in self.rooms.metrics.families():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0


@pytest.fixture
def serving() -> config.Serving:
    return config.Serving(wait_s=5.0, threads=1)


@pytest_asyncio.fixture
async def bench(shelf: Shelf, serving: config.Serving) -> AsyncIterator[Bench]:
    settings = config.Settings(home=shelf.home.root, serving=serving)
    gpus = shelf.home.root.parent / "gpus"
    gpus.mkdir()
    programs = {Role.INFER: FAKE, Role.TRAIN: SCRIPTED}
    launcher = LocalLauncher(
        shelf.home.root, log_bytes=2**16, programs=programs, gpu_locks=gpus, sandbox=SANDBOX
    )
    rooms = Rooms(
        store=shelf.store,
        launcher=launcher,
        settings=settings,
        metrics=Metrics("0"),
        clock=Clock(),
        home=shelf.home,
        bell=shelf.bell,
    )
    bench = Bench(Pool(rooms), rooms, shelf)
    granting = asyncio.create_task(bench.grant())
    yield bench
    granting.cancel()
    (granted,) = await asyncio.gather(granting, return_exceptions=True)
    assert isinstance(granted, asyncio.CancelledError), granted
    await bench.pool.stop()
    await launcher.close()
    end(shelf.home.root)


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions are of many kinds
            await asyncio.sleep(0.005)
