"""Inference workers as tenants: one slot each, beside a trainer or in its stead."""

import asyncio
import sqlite3
from dataclasses import replace

import pytest

from ftd.core.device import Device
from ftd.core.job import State
from ftd.store import attempts, servers
from ftd.store.servers import ServerRow
from ftd.store.store import Store
from tests.store.test_store import add_file, add_job, started, state

CPU = Device(id="cpu", kind="cpu", name="a CPU", memory_bytes=1, slots=4)
CARD = Device(id="GPU-1", kind="cuda", name="a card", memory_bytes=1, slots=3)


async def served(store: Store, device: Device, weights: str = "m") -> ServerRow:
    row = await store.serve(weights, store.ids.launch(), device)
    assert row is not None
    return row


async def slots(store: Store) -> list[tuple[str, int, bool]]:
    """Every lease: its device, its slot, and whether a job has it."""
    rows = await store.db.rows("SELECT device, slot, attempt FROM leases ORDER BY device, slot")
    return [(row["device"], row["slot"], row["attempt"] is not None) for row in rows]


async def test_the_cpu_has_a_place_for_training_and_the_rest_for_servers(store: Store) -> None:
    rows = await asyncio.gather(*(store.serve("m", f"run-{n}", CPU) for n in range(5)))
    assert [row is None for row in rows] == [False, False, False, True, True]
    assert (await store.snapshot((CPU, CARD))).full == {"cpu"}
    await add_file(store, "file-1")
    await add_job(store, "ftjob-1")
    await add_job(store, "ftjob-2")
    await started(store, "ftjob-1")
    assert await slots(store) == [("cpu", slot, slot == 0) for slot in range(4)]
    with pytest.raises(sqlite3.IntegrityError):
        await store.start("ftjob-2", "run-9", (CPU,))
    assert await state(store, "ftjob-2") is State.QUEUED
    assert await attempts.holders(store.db) == {"cpu": "ftjob-1"}
    assert (await store.snapshot((CPU,))).holders == {"cpu": "ftjob-1"}


async def test_a_card_is_a_trainers_alone_or_servers_share_it(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    first, second = await served(store, CARD), await served(store, CARD, "n")
    assert await slots(store) == [("GPU-1", 0, False), ("GPU-1", 1, False)]
    assert (await store.snapshot((CARD,))).holders == {}
    assert (await store.snapshot((CARD,))).full == frozenset()
    await store.served(first.id, "idle")
    with pytest.raises(sqlite3.IntegrityError):
        await store.start("ftjob-1", "run-1", (CARD,))
    assert await state(store) is State.QUEUED
    await store.served(second.id, "idle")
    attempt = await started(store, devices=(CARD,))
    assert await store.serve("m", "run-2", CARD) is None
    assert [row.weights for row in await servers.live(store.db)] == [], "no row without a lease"
    await store.stopped(attempt)
    assert await served(store, CARD)


async def test_the_lowest_free_slot_is_taken(store: Store) -> None:
    rows = [await served(store, CARD) for _ in range(2)]
    await store.served(rows[0].id, "idle")
    await served(store, CARD)
    assert [slot for _, slot, _ in await slots(store)] == [0, 1]


async def test_a_server_ends_once(store: Store) -> None:
    row = await served(store, CARD, "smollm2")
    assert await servers.live(store.db) == (row,)
    assert (row.weights, row.device, row.started_at) == ("smollm2", "GPU-1", 1_700_000_000)
    assert await store.served(row.id, "it was idle")
    assert not await store.served(row.id, "its daemon ended")
    assert await servers.live(store.db) == ()
    assert await slots(store) == []
    (ended,) = await store.db.rows("SELECT ended_at, ending_note FROM inference_workers")
    assert tuple(ended) == (1_700_000_000, "it was idle")


async def test_what_an_earlier_daemon_left_is_ended(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    await started(store)
    rows = (await served(store, CPU), await served(store, CPU, "n"))
    assert await store.recover_servers() == rows
    assert await store.recover_servers() == ()
    assert await slots(store) == [("cpu", 0, True)], "a trainer goes on"
    notes = await store.db.rows("SELECT DISTINCT ending_note FROM inference_workers")
    assert [row[0] for row in notes] == ["its daemon ended"]


async def test_old_rows_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "KEPT", 3)
    lasting = await served(store, CARD)
    for _ in range(6):
        await store.served((await served(store, CARD)).id, "idle")
    rows = await store.db.rows("SELECT id FROM inference_workers ORDER BY id")
    assert [row["id"] for row in rows] == [lasting.id, 5, 6, 7]


@pytest.mark.parametrize("tenants", ["NULL, NULL", "1, 1"])
async def test_a_lease_has_one_tenant(store: Store, tenants: str) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    await started(store, devices=(replace(CPU, id="other"),))
    await served(store, CARD)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        await store.db.write(
            lambda tx: tx.execute(f"INSERT INTO leases VALUES ('cpu', 0, {tenants})") and None
        )


async def test_two_launches_have_two_names(store: Store) -> None:
    assert await store.serve("m", "run-1", CARD) is not None
    with pytest.raises(sqlite3.IntegrityError):
        await store.serve("m", "run-1", CARD)
    assert len(await slots(store)) == 1
