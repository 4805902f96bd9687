"""What a start makes of models whose rows and bytes are not both there."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ftd.bell import Bell
from ftd.config import Settings
from ftd.core.errors import FtdError
from ftd.core.ids import Ids
from ftd.core.models import Model, ModelKind
from ftd.host.home import Home
from ftd.service.actor import Actor
from ftd.service.models import Models
from ftd.store import models
from ftd.store.db import Database, Transaction
from ftd.store.store import Store
from tests.store.conftest import HandClock

NOW = 1_000_000_000


class Room(NamedTuple):
    models: Models
    home: Home
    store: Store

    def lay(self, path: str, content: str = "weights") -> Path:
        place = self.home.root / path
        place.mkdir()
        (place / "model.safetensors").write_text(content)
        return place

    async def row(self, name: str, path: str, kind: ModelKind, *, purged: bool = False) -> None:
        model = Model(
            name=name, project="*", kind=kind, base="m", path=path, sha256="0", created_at=1
        )

        def work(tx: Transaction) -> None:
            models.insert(tx, model)
            if purged:
                models.hide(tx, name, 2)
                models.purged(tx, name, 3)

        await self.store.db.write(work)

    def on_disk(self) -> set[str]:
        return {
            str(path.parent.relative_to(self.home.root))
            for path in self.home.root.rglob("model.safetensors")
        }


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    home = Home(tmp_path / "home")
    home.make()
    database = Database(home.database, Bell())
    await database.open()
    store = Store(database, HandClock(NOW), Ids(random.Random(5).randbytes))
    yield Room(Models(store, home, Settings(home=home.root)), home, store)
    await database.close()


async def test_a_start_sets_aside_the_models_that_no_row_names(room: Room) -> None:
    """An older database was put back: they were added, and tuned, after it."""
    await room.row("known", "models/known", ModelKind.BASE)
    await room.row("ft:m::kkkkkkkk", "adapters/kkkkkkkk", ModelKind.TUNED)
    for path in ("models/known", "models/lost", "adapters/kkkkkkkk", "adapters/llllllll"):
        room.lay(path)
    await room.models.recover()
    assert room.on_disk() == {
        "models/known", "adapters/kkkkkkkk", "unknown/models/lost", "unknown/adapters/llllllll",
    }  # fmt: skip
    assert (room.home.unknown / "models" / "lost").stat().st_mtime == NOW


async def test_a_start_removes_what_was_on_its_way_in_or_out(room: Room) -> None:
    room.lay("models/.adding-x1")
    room.lay("adapters/.abcdefgh.tmp")
    await room.row("ft:m::dddddddd", "adapters/dddddddd", ModelKind.TUNED, purged=True)
    room.lay("adapters/dddddddd")
    await room.models.recover()
    assert room.on_disk() == set()


async def test_a_base_that_was_added_again_after_its_removal_is_not_lost(room: Room) -> None:
    """The older database knows of the removal alone."""
    await room.row("m", "models/m", ModelKind.BASE, purged=True)
    room.lay("models/m")
    await room.models.recover()
    assert room.on_disk() == {"unknown/models/m"}


async def test_what_a_start_could_not_set_aside_is_not_replaced(room: Room, tmp_path: Path) -> None:
    room.lay("models/m")
    me, nowhere = Actor(project="default", name="me"), str(tmp_path / "nowhere")
    with pytest.raises(FtdError, match="no file or directory"):
        await room.models.add(me, name="m", source=nowhere)
    assert room.on_disk() == {"unknown/models/m"}
