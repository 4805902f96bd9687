"""GPUs that keep memory after a run, as their sensors tell; jobs that go elsewhere meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from ftd.core.device import Device, Reading
from ftd.core.job import State
from ftd.engine import Engine
from ftd.runner.quarantine import Quarantine
from tests.runner.test_runner import CPU, World, world

__all__ = ["world"]

GIB = 2**30
ONE = Device(id="GPU-1", kind="cuda", name="a card", memory_bytes=80 * GIB)
TWO = Device(id="GPU-2", kind="cuda", name="a card", memory_bytes=80 * GIB)


@dataclass
class Cards:
    """Sensors that read what a test says."""

    used: dict[str, int] = field(default_factory=lambda: {"GPU-1": GIB, "GPU-2": GIB})
    owners: dict[str, int] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    def __call__(self, devices: Sequence[Device]) -> tuple[Reading, ...]:
        self.reads += [device.id for device in devices]
        return tuple(
            Reading(
                device=device,
                used_bytes=self.used[device.id],
                owners=self.owners.get(device.id, 0),
            )
            for device in devices
        )


async def test_a_card_that_keeps_memory_is_withheld_until_it_gives_it_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cards = Cards()
    quarantine = Quarantine((ONE, TWO), cards)
    assert await quarantine.look(()) == {}
    assert await quarantine.look(("GPU-1", "GPU-2")) == {}
    cards.used = {"GPU-1": 31 * GIB, "GPU-2": GIB}
    why = "30.0 GiB of its memory are in use and belong to no process"
    for _ in range(3):
        assert await quarantine.look(()) == {"GPU-1": why}
    assert [record.getMessage() for record in caplog.records] == ["a GPU keeps memory"]
    cards.used["GPU-1"] = GIB
    assert await quarantine.look(()) == {}
    assert quarantine.withheld == {}


async def test_a_card_is_read_when_its_tenant_has_gone_and_not_for_ever() -> None:
    cards = Cards()
    quarantine = Quarantine((ONE, CPU), cards)
    for _ in range(3):
        await quarantine.look(())
    assert cards.reads == ["GPU-1"], "as it is before anybody comes"
    for _ in range(3):
        await quarantine.look(("GPU-1", "cpu"))
    assert cards.reads == ["GPU-1"]
    for _ in range(3):
        await quarantine.look(())
    assert cards.reads == ["GPU-1", "GPU-1"]


async def test_what_was_in_use_before_us_and_what_others_have_is_not_ours() -> None:
    cards = Cards(used={"GPU-1": 20 * GIB})
    quarantine = Quarantine((ONE,), cards)
    await quarantine.look(())
    await quarantine.look(("GPU-1",))
    assert await quarantine.look(()) == {}
    await quarantine.look(("GPU-1",))
    cards.used, cards.owners = {"GPU-1": 60 * GIB}, {"GPU-1": 1}
    assert await quarantine.look(()) == {}


async def test_a_card_that_was_never_seen_idle_is_taken_as_it_is() -> None:
    """The daemon was restarted while a job ran there."""
    cards = Cards(used={"GPU-1": 20 * GIB})
    quarantine = Quarantine((ONE,), cards)
    await quarantine.look(("GPU-1",))
    assert await quarantine.look(()) == {}


async def test_jobs_go_to_the_other_card_and_say_why_they_wait(world: World) -> None:
    cards = Cards()
    quarantine = Quarantine((ONE, TWO), cards)
    engine = Engine(world.rooms, world.bell, (ONE, TWO), quarantine=quarantine)
    world.engine = asyncio.create_task(engine.run())
    cards.used["GPU-1"] = GIB
    await world.submit(["steps", 1], ["hang"], name="ftjob-1")
    await world.until_told("Step 1/", "ftjob-1")
    cards.used["GPU-1"] = 31 * GIB
    await world.store.cancel("ftjob-1")
    await world.until_free()
    await world.submit(["steps", 1], ["hang"], name="ftjob-2")
    await world.until_told("Step 1/", "ftjob-2")
    rows = await world.store.db.rows("SELECT devices FROM attempts ORDER BY id")
    assert [row["devices"] for row in rows] == ['["GPU-1"]', '["GPU-2"]']
    await world.submit(["steps", 1], ["checkpoint", 1], ["done", 1], name="ftjob-3")
    why = await world.until_waiting("ftjob-3")
    assert why.startswith("GPU-1 is withheld: 30.0 GiB of its memory are in use")
    assert why.endswith("GPU-2 runs ftjob-2")
    cards.used["GPU-1"] = GIB
    await world.until(State.SUCCEEDED, "ftjob-3")
