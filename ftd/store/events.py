"""What was told about each job, in the order it was told, each thing once."""

import json
from collections.abc import Mapping

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


def tell_step(
    tx: Transaction,
    *,
    job_id: str,
    event_id: str,
    now: int,
    step: int,
    message: str,
    data: Mapping[str, object],
) -> bool:
    """Add a step's metrics event unless the step was told before; keep its values either way."""
    text = json.dumps(data)
    tx.execute(
        "INSERT INTO steps (job, step, data) VALUES (?, ?, ?) "
        "ON CONFLICT (job, step) DO UPDATE SET data = excluded.data",
        (job_id, step, text),
    )
    cursor = tx.execute(
        "INSERT INTO events (id, job, created_at, level, type, message, data, step) "
        "VALUES (?, ?, ?, 'info', 'metrics', ?, ?, ?) ON CONFLICT (job, step) "
        "WHERE step IS NOT NULL DO NOTHING",
        (event_id, job_id, now, message, text, step),
    )
    return cursor.rowcount == 1


def told(tx: Transaction, job_id: str, message: str) -> bool:
    """Whether the job has an event with exactly this message."""
    row = tx.execute(
        "SELECT 1 FROM events WHERE job = ? AND message = ? LIMIT 1", (job_id, message)
    ).fetchone()
    return row is not None


def step_values(tx: Transaction, job_id: str, step: int) -> dict[str, float]:
    """The last values of a step; empty if it was never told."""
    row = tx.execute("SELECT data FROM steps WHERE job = ? AND step = ?", (job_id, step)).fetchone()
    return {} if row is None else json.loads(row["data"])


async def all_steps(db: Database, job_id: str) -> list[dict[str, float]]:
    """Every step's last values, in order."""
    rows = await db.rows("SELECT data FROM steps WHERE job = ? ORDER BY step", (job_id,))
    return [json.loads(row["data"]) for row in rows]


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
