"""Inference workers and the one slot each that they lease: tenants beside the attempts."""

from dataclasses import dataclass

from ftd.core.device import Device
from ftd.store.db import Database, Row, Transaction

_COLUMNS = "id, weights, launch, device, started_at"

KEPT = 1000  # rows of workers that have ended: their log lines say more


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    """An inference worker that has not ended."""

    id: int
    weights: str  # the name of the model that it has loaded
    launch: str
    device: str
    started_at: int


def begin(
    tx: Transaction, *, weights: str, launch: str, device: Device, now: int
) -> ServerRow | None:
    """Create a worker's row with its lease: the lowest free slot. None when no slot is free."""
    taken = {
        row["slot"] for row in tx.execute("SELECT slot FROM leases WHERE device = ?", (device.id,))
    }
    slot = next((slot for slot in device.serving_slots if slot not in taken), None)
    if slot is None:
        return None
    server_id = tx.execute(
        "INSERT INTO inference_workers (weights, launch, device, started_at) VALUES (?, ?, ?, ?)",
        (weights, launch, device.id, now),
    ).lastrowid
    assert server_id is not None
    tx.execute(
        "INSERT INTO leases (device, slot, server) VALUES (?, ?, ?)", (device.id, slot, server_id)
    )
    tx.execute(
        "DELETE FROM inference_workers WHERE ended_at IS NOT NULL AND id <= ?", (server_id - KEPT,)
    )
    return ServerRow(id=server_id, weights=weights, launch=launch, device=device.id, started_at=now)


def end(tx: Transaction, server_id: int, *, note: str, now: int) -> bool:
    """Close the worker's row and free its slot; False if it was closed before."""
    cursor = tx.execute(
        "UPDATE inference_workers SET ended_at = ?, ending_note = ? "
        "WHERE id = ? AND ended_at IS NULL",
        (now, note, server_id),
    )
    tx.execute("DELETE FROM leases WHERE server = ?", (server_id,))
    return cursor.rowcount == 1


def open_rows(tx: Transaction) -> tuple[ServerRow, ...]:
    """Those that have not ended, inside a change."""
    return tuple(_server(row) for row in tx.execute(_LIVE))


async def live(db: Database) -> tuple[ServerRow, ...]:
    """Those that have not ended, the oldest first."""
    return tuple(_server(row) for row in await db.rows(_LIVE))


_LIVE = f"SELECT {_COLUMNS} FROM inference_workers WHERE ended_at IS NULL ORDER BY id"


def _server(row: Row) -> ServerRow:
    return ServerRow(**dict(row))
