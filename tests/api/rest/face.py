"""The REST face on a loopback port, before the real service and a real store; no job runs."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from ftd import config
from ftd.api.rest.server import RunningServer, serve
from ftd.bell import Bell
from ftd.core.file import RESULTS, File, FileStatus
from ftd.core.ids import Ids
from ftd.core.models import Model, ModelKind
from ftd.host import certificates
from ftd.host.home import Home
from ftd.host.space import Space
from ftd.launch.local import LocalLauncher
from ftd.metrics import Metrics
from ftd.service.chat import Chat
from ftd.service.door import Door
from ftd.service.files import FileRooms, Files
from ftd.service.jobs import Jobs
from ftd.service.keys import Keys
from ftd.service.models import Models
from ftd.service.node import Node
from ftd.service.rates import Rates
from ftd.store import files, models
from ftd.store.db import Database
from ftd.store.store import Store
from tests.api.rest.scripted import ScriptedHandoff, ScriptedPool

KEY = "ftd-a-key-for-tests-alone"
BASE = "tiny"


@dataclass
class HandClock:
    time: int = 1_700_000_000

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return float(self.time)


@dataclass
class Face:
    """A served face, and what lies behind it."""

    door: Door
    store: Store
    home: Home
    server: RunningServer
    pool: ScriptedPool
    handoff: ScriptedHandoff
    space: Space
    observed: list[tuple[str, str, int, float]] = field(default_factory=list)

    @property
    def url(self) -> str:
        scheme = "http" if self.door.settings.tls.certificate is None else "https"
        return f"{scheme}://127.0.0.1:{self.server.port}"

    def http(self, **options: Any) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx2.AsyncClient(**{"base_url": self.url, "headers": headers} | options)

    def incoming(self) -> list[Path]:
        return sorted(self.home.incoming.iterdir())

    async def raw(self, request: bytes) -> bytes:
        """Everything that is answered to these bytes until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    async def put_result(self, content: bytes, file_id: str = "file-result") -> str:
        """A result file, as a job would leave it."""
        self.home.file(file_id).write_bytes(content)
        row = File(
            seq=0,
            id=file_id,
            project="default",
            purpose=RESULTS,
            filename="step_metrics.csv",
            bytes=len(content),
            sha256="0" * 64,
            created_at=self.store.clock.now(),
            status=FileStatus.PROCESSED,
        )
        await self.store.db.write(lambda tx: files.insert(tx, row))
        return file_id

    async def put_model(self, name: str, kind: ModelKind = ModelKind.TUNED) -> None:
        row = Model(
            name=name,
            project=models.SHARED if kind is ModelKind.BASE else "default",
            kind=kind,
            base=BASE,
            path=f"models/{BASE}",
            sha256="0" * 64,
            created_at=self.store.clock.now(),
        )
        await self.store.db.write(lambda tx: models.insert(tx, row))


@asynccontextmanager
async def serving(settings: config.Settings) -> AsyncIterator[Face]:
    home = Home(settings.home)
    home.make()
    bell, metrics = Bell(), Metrics("0")
    database = Database(home.database, bell)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        await database.open()
        store = Store(database, HandClock(), Ids(random.Random(1).randbytes))
        pool, handoff = ScriptedPool(), ScriptedHandoff()
        taken_over = settings.serving.backend != "embedded"
        space = Space(home.root, 0)
        rooms = FileRooms(
            store=store, home=home, limits=settings.limits, metrics=metrics, space=space
        )
        door = Door(
            keys=Keys(store, KEY),
            rates=Rates(settings.limits.requests_per_minute, store.clock.monotonic),
            files=Files(rooms),
            jobs=Jobs(store, settings, LocalLauncher(home.root), bell, space),
            models=Models(store, home, settings),
            node=Node(store, home, metrics, (), lambda _devices: ()),
            chat=Chat(store, settings, pool, handoff if taken_over else None),
            settings=settings,
        )
        stack.push_async_callback(door.files.close)
        observed: list[tuple[str, str, int, float]] = []
        identity = certificates.read(settings.tls)
        server = await serve(door, "127.0.0.1", 0, lambda *seen: observed.append(seen), identity)
        stack.push_async_callback(server.stop)
        face = Face(door, store, home, server, pool, handoff, space, observed)
        await face.put_model(BASE, ModelKind.BASE)
        yield face


def conversations(count: int) -> bytes:
    """A valid training file."""
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus {n}?"},
                {"role": "assistant", "content": f"It is {2 * n}."},
            ]
        }
        for n in range(count)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions are of many kinds
            await asyncio.sleep(0.005)
