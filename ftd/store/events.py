"""What was told about each job, in the order it was told, each thing once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftd.core.job import Event
from ftd.store.db import Database, Row, Transaction

_COLUMNS = "seq, id, job, created_at, level, type, message, data"


def tell(
    tx: Transaction,
    *,
    job_id: str,
    event_id: str,
    now: int,
    message: str,
    level: str = "info",
    data: Mapping[str, object] | None = None,
) -> None:
    """Add an event of type message."""
    tx.execute(
        "INSERT INTO events (id, job, created_at, level, type, message, data) "
        "VALUES (?, ?, ?, ?, 'message', ?, ?)",
        (event_id, job_id, now, level, message, None if data is None else json.dumps(data)),
    )


def tell_all(tx: Transaction, job_id: str, now: int, told: Sequence[tuple[str, str]]) -> None:
    """Add plain events, each an id and its message, in one statement."""
    marks = ", ".join(["(?, ?, ?, 'info', 'message', ?)"] * len(told))
    tx.execute(
        f"INSERT INTO events (id, job, created_at, level, type, message) VALUES {marks}",
        [value for id_, message in told for value in (id_, job_id, now, message)],
    )


@dataclass(frozen=True, slots=True)
class StepTold:
    """A step's metrics event, about to be told. `data` is its JSON object."""

    step: int
    id: str
    message: str
    data: str


def tell_steps(tx: Transaction, job_id: str, now: int, steps: Sequence[StepTold]) -> int:
    """Add each step's metrics event unless the step was told before; how many were added.

    A step that is said again has its last values kept beside its event, for the result file.
    """
    cursor = tx.executemany(
        "INSERT INTO events (id, job, created_at, level, type, message, data, step) "
        "VALUES (?, ?, ?, 'info', 'metrics', ?, ?, ?) ON CONFLICT (job, step) "
        "WHERE step IS NOT NULL DO NOTHING",
        [(told.id, job_id, now, told.message, told.data, told.step) for told in steps],
    )
    if cursor.rowcount < len(steps):
        tx.executemany(
            "INSERT INTO steps (job, step, data) SELECT ?, ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM events WHERE id = ?) "
            "ON CONFLICT (job, step) DO UPDATE SET data = excluded.data",
            [(job_id, told.step, told.data, told.id) for told in steps],
        )
    return cursor.rowcount


def told(tx: Transaction, job_id: str, message: str) -> bool:
    """Whether the job has an event of type message that says exactly this."""
    row = tx.execute(
        "SELECT 1 FROM events WHERE job = ? AND message = ? AND step IS NULL LIMIT 1",
        (job_id, message),
    ).fetchone()
    return row is not None


_LAST = (
    "SELECT coalesce(steps.data, events.data) AS data FROM events "
    "LEFT JOIN steps ON steps.job = events.job AND steps.step = events.step "
    "WHERE events.job = ? AND events.step"
)


def step_values(tx: Transaction, job_id: str, step: int) -> dict[str, float]:
    """The last values of a step; empty if it was never told."""
    row = tx.execute(f"{_LAST} = ?", (job_id, step)).fetchone()
    return {} if row is None else json.loads(row["data"])


async def furthest(db: Database, job_id: str) -> int:
    """The highest step that was told of a job; 0 before its first."""
    rows = await db.rows("SELECT max(step) AS step FROM events WHERE job = ?", (job_id,))
    return rows[0]["step"] or 0


async def all_steps(db: Database, job_id: str) -> list[str]:
    """Every step's last values as their JSON, in order."""
    rows = await db.rows(f"{_LAST} IS NOT NULL ORDER BY events.step", (job_id,))
    return [row["data"] for row in rows]


async def page(db: Database, job_id: str, *, after: str | None, limit: int) -> tuple[Event, ...]:
    """Newest first, older than the event `after`. An unknown cursor gives nothing."""
    sql = f"SELECT {_COLUMNS} FROM events WHERE job = ?"
    parameters: list[str | int] = [job_id]
    if after is not None:
        sql += " AND seq < (SELECT seq FROM events WHERE id = ? AND job = ?)"
        parameters += [after, job_id]
    rows = await db.rows(f"{sql} ORDER BY seq DESC LIMIT ?", [*parameters, limit])
    return tuple(_event(row) for row in rows)


async def since(db: Database, job_id: str, seq: int, limit: int) -> tuple[Event, ...]:
    """Oldest first, newer than `seq`."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM events WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?",
        (job_id, seq, limit),
    )
    return tuple(_event(row) for row in rows)


async def seq_of(db: Database, job_id: str, event_id: str) -> int | None:
    rows = await db.rows("SELECT seq FROM events WHERE id = ? AND job = ?", (event_id, job_id))
    return rows[0]["seq"] if rows else None


def _event(row: Row) -> Event:
    values = dict(row)
    data = values.pop("data")
    return Event(**values, data=None if data is None else json.loads(data))
