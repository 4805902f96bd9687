"""Run directories by their rows: what no row names was never anybody's."""

import json
from collections.abc import Collection
from dataclasses import dataclass

from ftd.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run that has ended. `over_at` is when its job was over, or None while it is not."""

    launch: str
    over_at: int | None


async def known(db: Database, launches: Collection[str]) -> frozenset[str]:
    """Those of them that an attempt or an inference worker was given."""
    rows = await db.rows(
        "SELECT launch FROM attempts WHERE launch IN (SELECT value FROM json_each(?1)) UNION "
        "SELECT launch FROM inference_workers WHERE launch IN (SELECT value FROM json_each(?1))",
        (json.dumps(sorted(launches)),),
    )
    return frozenset(row["launch"] for row in rows)


async def ended(db: Database, launches: Collection[str]) -> tuple[Ended, ...]:
    """Those of them whose attempt or inference worker has ended; the latter's job is its own."""
    rows = await db.rows(
        "SELECT launch, CASE WHEN NOT EXISTS (SELECT 1 FROM attempts AS live "
        "WHERE live.job = jobs.id AND live.ended_at IS NULL) THEN finished_at END AS over_at "
        "FROM attempts JOIN jobs ON jobs.id = attempts.job "
        "WHERE ended_at IS NOT NULL AND launch IN (SELECT value FROM json_each(?1)) UNION ALL "
        "SELECT launch, ended_at FROM inference_workers "
        "WHERE ended_at IS NOT NULL AND launch IN (SELECT value FROM json_each(?1))",
        (json.dumps(sorted(launches)),),
    )
    return tuple(Ended(**dict(row)) for row in rows)


async def checkpoint_paths(db: Database, launches: Collection[str]) -> frozenset[str]:
    """Where, relative to the home, the checkpoints of these runs' jobs lie."""
    return await _paths(db, launches, "SELECT path FROM checkpoints WHERE job IN")


async def model_paths(db: Database, launches: Collection[str]) -> frozenset[str]:
    """Where, relative to the home, the models of these runs' jobs lie whose bytes are needed."""
    return await _paths(db, launches, "SELECT path FROM models WHERE purged_at IS NULL AND job IN")


async def _paths(db: Database, launches: Collection[str], select: str) -> frozenset[str]:
    rows = await db.rows(
        f"{select} (SELECT job FROM attempts WHERE launch IN (SELECT value FROM json_each(?)))",
        (json.dumps(sorted(launches)),),
    )
    return frozenset(row["path"] for row in rows)
