"""The workstation as it is told: a device that is lent to nobody."""

import random
from collections.abc import Sequence
from pathlib import Path

from ftd.bell import Bell
from ftd.core.device import Device, Reading
from ftd.core.ids import Ids
from ftd.daemon import SystemClock
from ftd.host.home import Home
from ftd.metrics import Metrics
from ftd.service.actor import HOST, Actor
from ftd.service.node import Node
from ftd.store.db import Database
from ftd.store.store import Store

ONE = Device(id="GPU-1", kind="cuda", name="a card", memory_bytes=1)
TWO = Device(id="GPU-2", kind="cuda", name="a card", memory_bytes=1)


def sensors(devices: Sequence[Device]) -> tuple[Reading, ...]:
    return tuple(Reading(device=device) for device in devices)


async def test_a_device_that_is_withheld_is_shown_as_long_as_it_is(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    database = Database(home.database, Bell())
    await database.open()
    try:
        store = Store(database, SystemClock(), Ids(random.Random(1).randbytes))
        withheld = {"GPU-1": "it keeps memory"}
        node = Node(store, home, Metrics("0"), (ONE, TWO), sensors, withheld)
        actor = Actor(project="p", name="somebody")
        seen = await node.devices(actor)
        assert [reading.withheld for reading in seen] == ["it keeps memory", None]
        text = (await node.metrics(HOST)).decode()
        assert 'ftd_device_withheld{device="GPU-1"} 1.0' in text
        assert 'ftd_device_withheld{device="GPU-2"} 0.0' in text
        del withheld["GPU-1"]
        assert 'ftd_device_withheld{device="GPU-1"} 0.0' in (await node.metrics(HOST)).decode()
    finally:
        await database.close()
