"""Published checkpoints: those with a name are listed, the others are resume points."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ftd.core.job import Checkpoint
from ftd.store.db import Database, Row, Transaction

_COLUMNS = "seq, id, job, created_at, step, model, metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """Where a next attempt may go on; `path` is relative to the home."""

    step: int
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """`fresh`: no attempt had published the step. `named`: it was not a listed checkpoint yet."""

    fresh: bool
    named: bool


def publish(
    tx: Transaction,
    *,
    checkpoint_id: str,
    job_id: str,
    now: int,
    step: int,
    model: str | None,
    metrics: Mapping[str, float],
    path: str,
    sha256: str,
) -> Published:
    """Record a checkpoint. A step that is published again (a replay) takes the newer place."""
    known = tx.execute(
        "SELECT model FROM checkpoints WHERE job = ? AND step = ?", (job_id, step)
    ).fetchone()
    tx.execute(
        "INSERT INTO checkpoints (id, job, created_at, step, model, metrics, path, sha256) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job, step) DO UPDATE SET "
        "path = excluded.path, sha256 = excluded.sha256, metrics = excluded.metrics, "
        "model = coalesce(excluded.model, model)",
        (checkpoint_id, job_id, now, step, model, json.dumps(metrics), path, sha256),
    )
    listed = known is not None and known["model"] is not None
    return Published(fresh=known is None, named=model is not None and not listed)


def thin(tx: Transaction, job_id: str, step: int) -> None:
    """Forget the resume points that the checkpoint of `step` makes needless: all before the one
    before it. So there are always two, and a damaged one costs no more than a few steps."""
    tx.execute(
        "DELETE FROM checkpoints WHERE job = :job AND model IS NULL AND step < "
        "(SELECT max(step) FROM checkpoints WHERE job = :job AND step < :step)",
        {"job": job_id, "step": step},
    )


def forget_after(tx: Transaction, job_id: str, step: int) -> None:
    """Forget the resume points after `step`, from which a trainer went on: it found none good."""
    tx.execute(
        "DELETE FROM checkpoints WHERE job = ? AND model IS NULL AND step > ?", (job_id, step)
    )


def forget(tx: Transaction, job_id: str, step: int) -> None:
    """Forget a resume point that is lost. A model's checkpoint stays: it is made again."""
    tx.execute(
        "DELETE FROM checkpoints WHERE job = ? AND model IS NULL AND step = ?", (job_id, step)
    )


def forget_over(tx: Transaction) -> None:
    """Forget the resume points of jobs that are over: nothing goes on from them."""
    tx.execute(
        "DELETE FROM checkpoints WHERE model IS NULL AND EXISTS "
        "(SELECT 1 FROM jobs WHERE jobs.id = checkpoints.job AND finished_at IS NOT NULL) "
        "AND NOT EXISTS "
        "(SELECT 1 FROM attempts WHERE attempts.job = checkpoints.job AND ended_at IS NULL)"
    )


async def page(
    db: Database, job_id: str, *, after: str | None, limit: int
) -> tuple[Checkpoint, ...]:
    """Highest step first. An unknown cursor gives nothing."""
    sql = f"SELECT {_COLUMNS} FROM checkpoints WHERE job = ? AND model IS NOT NULL"
    parameters: list[str | int] = [job_id]
    if after is not None:
        sql += " AND step < (SELECT step FROM checkpoints WHERE id = ? AND job = ?)"
        parameters += [after, job_id]
    rows = await db.rows(f"{sql} ORDER BY step DESC LIMIT ?", [*parameters, limit])
    return tuple(_checkpoint(row) for row in rows)


async def resume_points(db: Database, job_id: str) -> tuple[ResumePoint, ...]:
    """Newest step first."""
    rows = await db.rows(
        "SELECT step, path, sha256 FROM checkpoints WHERE job = ? ORDER BY step DESC", (job_id,)
    )
    return tuple(ResumePoint(**dict(row)) for row in rows)


async def at_step(db: Database, job_id: str, step: int) -> ResumePoint | None:
    rows = await db.rows(
        "SELECT step, path, sha256 FROM checkpoints WHERE job = ? AND step = ?", (job_id, step)
    )
    return ResumePoint(**dict(rows[0])) if rows else None


def _checkpoint(row: Row) -> Checkpoint:
    values = dict(row)
    return Checkpoint(**values | {"metrics": json.loads(values["metrics"])})
