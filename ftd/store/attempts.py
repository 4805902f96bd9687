"""Attempts and the leases they hold: no device is over-lent, whatever the code believes."""

import json
from collections.abc import Sequence

from ftd.core.device import Device
from ftd.core.job import HOST_OUT_OF_MEMORY, TRAINER_CUT_OFF, Attempt, Ending, Losses
from ftd.store.db import Database, Row, Transaction

_COLUMNS = "id, job, number, launch, devices, started_at, spool_offset"

# An attempt that never began (its worker did not start, or a lock was held) is handed back: it
# counts neither for the job nor against it.
RETURNED = "returned"

_STARVED = "SELECT count(*) AS n FROM attempts WHERE job = ? AND ending_code = ?"


def begin(
    tx: Transaction,
    *,
    job_id: str,
    launch: str,
    devices: Sequence[Device],
    now: int,
    number: int | None = None,
) -> Attempt:
    """Create the job's next attempt with its leases: of every device the slots of a trainer.

    `number` is given for one that began long ago, of which no row knew.

    Raises sqlite3.IntegrityError, and so undoes the whole change, when one of them is taken
    already or another attempt of the job lives.
    """
    number = (
        number
        or tx.execute(
            "SELECT coalesce(max(number), 0) + 1 FROM attempts WHERE job = ?", (job_id,)
        ).fetchone()[0]
    )
    ids = tuple(device.id for device in devices)
    attempt_id = tx.execute(
        "INSERT INTO attempts (job, number, launch, devices, started_at) VALUES (?, ?, ?, ?, ?)",
        (job_id, number, launch, json.dumps(ids), now),
    ).lastrowid
    assert attempt_id is not None
    tx.executemany(
        "INSERT INTO leases (device, slot, attempt) VALUES (?, ?, ?)",
        [(device.id, slot, attempt_id) for device in devices for slot in device.training_slots],
    )
    return Attempt(
        id=attempt_id, job=job_id, number=number, launch=launch, devices=ids, started_at=now
    )


def lent(tx: Transaction, devices: Sequence[Device]) -> bool:
    """Whether somebody has a place that a trainer on these devices needs."""
    slots = [(device.id, slot) for device in devices for slot in device.training_slots]
    found = "SELECT 1 FROM leases WHERE device = ? AND slot = ?"
    return any(tx.execute(found, slot).fetchone() is not None for slot in slots)


def numbered(tx: Transaction, job_id: str, number: int) -> bool:
    """Whether the job has an attempt of this number."""
    found = "SELECT 1 FROM attempts WHERE job = ? AND number = ?"
    return tx.execute(found, (job_id, number)).fetchone() is not None


def advance(tx: Transaction, attempt_id: int, offset: int, last_word: str | None) -> None:
    """Move the spool's cursor; in the same transaction as the rows made from what was read."""
    tx.execute(
        "UPDATE attempts SET spool_offset = ?, last_word = coalesce(?, last_word) WHERE id = ?",
        (offset, last_word, attempt_id),
    )


def note_progress(tx: Transaction, attempt_id: int) -> None:
    """The attempt published a checkpoint, so the job moves on."""
    tx.execute("UPDATE attempts SET progressed = 1 WHERE id = ?", (attempt_id,))


def progressed(tx: Transaction, attempt_id: int) -> bool:
    """Whether the attempt published a checkpoint that the job did not have."""
    row = tx.execute("SELECT progressed FROM attempts WHERE id = ?", (attempt_id,)).fetchone()
    return bool(row["progressed"])


def end(
    tx: Transaction,
    attempt_id: int,
    *,
    ending: str,
    note: str | None,
    now: int,
    code: str | None = None,
) -> bool:
    """Close the attempt and free its devices; False if it was closed before."""
    cursor = tx.execute(
        "UPDATE attempts SET ended_at = ?, ending = ?, ending_note = ?, ending_code = ? "
        "WHERE id = ? AND ended_at IS NULL",
        (now, ending, note, code, attempt_id),
    )
    tx.execute("DELETE FROM leases WHERE attempt = ?", (attempt_id,))
    return cursor.rowcount == 1


def losses(tx: Transaction, job_id: str) -> Losses:
    """How many of the job's last attempts in a row began and published no checkpoint, and why. One
    that was asked to stop does not count: nothing went wrong with it."""
    row = tx.execute(
        "SELECT count(*) AS n, count(*) FILTER (WHERE ending_code = :cut_off) AS cut_off "
        "FROM attempts WHERE job = :job AND ending IS NOT :returned "
        "AND ending IS NOT :stopped AND number > "
        "(SELECT coalesce(max(number), 0) FROM attempts WHERE job = :job AND progressed)",
        {
            "job": job_id,
            "returned": RETURNED,
            "stopped": Ending.STOPPED,
            "cut_off": TRAINER_CUT_OFF,
        },
    ).fetchone()
    starved = tx.execute(_STARVED, (job_id, HOST_OUT_OF_MEMORY)).fetchone()["n"]
    return Losses(in_a_row=row["n"], cut_off=row["cut_off"], starved=starved)


async def starvations(db: Database, job_id: str) -> int:
    """How many of the job's attempts the host had no memory for."""
    count: int = (await db.rows(_STARVED, (job_id, HOST_OUT_OF_MEMORY)))[0]["n"]
    return count


async def last_word(db: Database, attempt_id: int) -> str | None:
    """The attempt's last telling fact, as the line that said it."""
    rows = await db.rows("SELECT last_word FROM attempts WHERE id = ?", (attempt_id,))
    word: str | None = rows[0]["last_word"]
    return word


def open_ones(tx: Transaction, job_id: str) -> tuple[int, ...]:
    """The ids of the job's attempts that have not ended: one at the most."""
    rows = tx.execute("SELECT id FROM attempts WHERE job = ? AND ended_at IS NULL", (job_id,))
    return tuple(row["id"] for row in rows)


async def live(db: Database) -> tuple[Attempt, ...]:
    rows = await db.rows(f"SELECT {_COLUMNS} FROM attempts WHERE ended_at IS NULL ORDER BY id")
    return tuple(attempt(row) for row in rows)


async def newest(db: Database, job_id: str) -> Attempt | None:
    """The job's latest attempt, or None."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM attempts WHERE job = ? ORDER BY number DESC LIMIT 1", (job_id,)
    )
    return attempt(rows[0]) if rows else None


async def holders(db: Database) -> dict[str, str]:
    """Which job leases which device. Inference workers are not told here."""
    rows = await db.rows(
        "SELECT DISTINCT leases.device, attempts.job FROM leases "
        "JOIN attempts ON attempts.id = leases.attempt"
    )
    return {row["device"]: row["job"] for row in rows}


def attempt(row: Row) -> Attempt:
    values = dict(row)
    return Attempt(**values | {"devices": tuple(json.loads(values["devices"]))})
