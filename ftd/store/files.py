"""Files as rows; their bytes lie beside the database and outlive a delete while they are used."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

from ftd.core.dataset import Report
from ftd.core.file import File, FileStatus
from ftd.store.db import Database, Row, Transaction

_COLUMNS = (
    "seq, id, project, purpose, filename, bytes, sha256, created_at, expires_at, status, report"
)
_VISIBLE = "deleted_at IS NULL"


def insert(tx: Transaction, file: File) -> None:
    """Store a new file; its `seq` is assigned here and the given one ignored."""
    tx.execute(
        "INSERT INTO files (id, project, purpose, filename, bytes, sha256, created_at, expires_at, "
        "status, report) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            file.id,
            file.project,
            file.purpose,
            file.filename,
            file.bytes,
            file.sha256,
            file.created_at,
            file.expires_at,
            file.status,
            None if file.report is None else json.dumps(file.report),
        ),
    )


def checked(
    tx: Transaction, file_id: str, status: FileStatus, report: Mapping[str, object]
) -> None:
    """Keep what the check found."""
    tx.execute(
        "UPDATE files SET status = ?, report = ? WHERE id = ?",
        (status, json.dumps(report), file_id),
    )


def hide(tx: Transaction, project: str, file_id: str, now: int) -> bool:
    """Delete as clients see it; False if there is nothing to hide."""
    cursor = tx.execute(
        f"UPDATE files SET deleted_at = ? WHERE id = ? AND project = ? AND {_VISIBLE}",
        (now, file_id, project),
    )
    return cursor.rowcount == 1


def hide_expired(tx: Transaction, now: int) -> int:
    """Hide what has reached its expires_at; how many."""
    return tx.execute(
        f"UPDATE files SET deleted_at = ? WHERE expires_at <= ? AND {_VISIBLE}", (now, now)
    ).rowcount


def unpurged(tx: Transaction) -> tuple[str, ...]:
    """Hidden files whose bytes are still there."""
    rows = tx.execute(
        "SELECT id FROM files WHERE deleted_at IS NOT NULL AND purged_at IS NULL"
    ).fetchall()
    return tuple(row["id"] for row in rows)


def purged(tx: Transaction, file_id: str, now: int) -> None:
    tx.execute("UPDATE files SET purged_at = ? WHERE id = ?", (now, file_id))


def report(tx: Transaction, file_id: str) -> Report | None:
    """What the check of a file, hidden or not, has found; None while it is not checked."""
    row = tx.execute("SELECT report FROM files WHERE id = ?", (file_id,)).fetchone()
    return None if row["report"] is None else _understood(row["report"])


@lru_cache(maxsize=8)  # a sweep makes a hundred jobs of one file
def _understood(text: str) -> Report:
    return Report.from_json(json.loads(text))


def purpose(tx: Transaction, project: str, file_id: str) -> str | None:
    """What a visible file is for, as this transaction sees it; None where there is none."""
    row = tx.execute(
        f"SELECT purpose FROM files WHERE id = ? AND project = ? AND {_VISIBLE}", (file_id, project)
    ).fetchone()
    return None if row is None else str(row["purpose"])


async def get(db: Database, project: str, file_id: str) -> File | None:
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM files WHERE id = ? AND project = ? AND {_VISIBLE}",
        (file_id, project),
    )
    return _file(rows[0]) if rows else None


async def known_ids(db: Database) -> frozenset[str]:
    """Every file whose bytes should be there."""
    rows = await db.rows("SELECT id FROM files WHERE purged_at IS NULL")
    return frozenset(row["id"] for row in rows)


async def purged_ids(db: Database) -> frozenset[str]:
    """Every file that was deleted and whose bytes were to go."""
    rows = await db.rows("SELECT id FROM files WHERE purged_at IS NOT NULL")
    return frozenset(row["id"] for row in rows)


async def hashes(db: Database, ids: Sequence[str]) -> dict[str, str]:
    """The sha256 of these files, hidden or not, by id, as far as their bytes are there."""
    marks = ", ".join("?" * len(ids))
    rows = await db.rows(
        f"SELECT id, sha256 FROM files WHERE id IN ({marks}) AND purged_at IS NULL", ids
    )
    return {row["id"]: row["sha256"] for row in rows}


async def known_hashes(db: Database) -> frozenset[str]:
    """The sha256 of every file whose bytes should be there."""
    rows = await db.rows("SELECT DISTINCT sha256 FROM files WHERE purged_at IS NULL")
    return frozenset(row["sha256"] for row in rows)


async def unchecked(db: Database) -> tuple[File, ...]:
    """Files whose check has not been kept: the daemon ended before it did."""
    rows = await db.rows(f"SELECT {_COLUMNS} FROM files WHERE status = 'uploaded' ORDER BY seq")
    return tuple(_file(row) for row in rows)


async def page(
    db: Database, project: str, *, purpose: str | None, after: str | None, limit: int, oldest: bool
) -> tuple[File, ...]:
    """In order of creation, newest first unless `oldest`. An unknown cursor gives nothing."""
    sql = f"SELECT {_COLUMNS} FROM files WHERE project = ? AND {_VISIBLE}"
    parameters: list[str | int] = [project]
    if purpose is not None:
        sql += " AND purpose = ?"
        parameters.append(purpose)
    if after is not None:
        sql += f" AND seq {'>' if oldest else '<'} "
        sql += "(SELECT seq FROM files WHERE id = ? AND project = ?)"
        parameters += [after, project]
    sql += f" ORDER BY seq {'ASC' if oldest else 'DESC'} LIMIT ?"
    rows = await db.rows(sql, [*parameters, limit])
    return tuple(_file(row) for row in rows)


def _file(row: Row) -> File:
    values = dict(row)
    report = values.pop("report")
    return File(
        **values | {"status": FileStatus(values["status"])},
        report=None if report is None else json.loads(report),
    )
