"""A real store in a temporary file, with a clock turned by hand and seeded ids."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from ftd.bell import Bell
from ftd.core.ids import Ids
from ftd.store.db import Database
from ftd.store.store import Store


@dataclass
class HandClock:
    time: int = 1_700_000_000

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return float(self.time)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    database = Database(tmp_path / "ftd.db", Bell())
    await database.open()
    yield Store(database, HandClock(), Ids(random.Random(1).randbytes))
    await database.close()
