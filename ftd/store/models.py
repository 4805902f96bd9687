"""Models as rows: bases, tuned models and checkpoints, by name."""

import json
from collections.abc import Collection

from ftd.core.models import Model, ModelKind
from ftd.store.db import Database, Row, Transaction

_COLUMNS = "name, project, kind, base, path, sha256, created_at, job, facts"

# Base models belong to the workstation: every project sees them.
SHARED = "*"


def insert(tx: Transaction, model: Model) -> None:
    """Store a model. Raises sqlite3.IntegrityError when the name is taken."""
    tx.execute(
        f"INSERT INTO models ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            model.name,
            model.project,
            model.kind,
            model.base,
            model.path,
            model.sha256,
            model.created_at,
            model.job,
            None if model.facts is None else json.dumps(model.facts),
        ),
    )


def replace(tx: Transaction, model: Model) -> None:
    """Store a model that a replayed step may have published before."""
    tx.execute("DELETE FROM models WHERE name = ? AND deleted_at IS NULL", (model.name,))
    insert(tx, model)


def hide(tx: Transaction, name: str, now: int) -> bool:
    """Delete as clients see it; False if there is nothing to hide."""
    cursor = tx.execute(
        "UPDATE models SET deleted_at = ? WHERE name = ? AND deleted_at IS NULL", (now, name)
    )
    return cursor.rowcount == 1


def unpurged(tx: Transaction) -> tuple[Model, ...]:
    """Hidden models whose bytes may still be there."""
    rows = tx.execute(
        f"SELECT {_COLUMNS} FROM models WHERE deleted_at IS NOT NULL AND purged_at IS NULL"
    ).fetchall()
    return tuple(_model(row) for row in rows)


def purged(tx: Transaction, name: str, now: int) -> None:
    tx.execute(
        "UPDATE models SET purged_at = ? WHERE name = ? AND deleted_at IS NOT NULL", (now, name)
    )


def shares_bytes(tx: Transaction, path: str) -> bool:
    """Whether a visible model lies at this path."""
    row = tx.execute(
        "SELECT 1 FROM models WHERE path = ? AND deleted_at IS NULL LIMIT 1", (path,)
    ).fetchone()
    return row is not None


_NAMED = (
    f"SELECT {_COLUMNS} FROM models WHERE name = ? AND project IN (?, ?) AND deleted_at IS NULL"
)


def find(tx: Transaction, project: str, name: str) -> Model | None:
    """A visible model, as this transaction sees it."""
    row = tx.execute(_NAMED, (name, project, SHARED)).fetchone()
    return None if row is None else _model(row)


async def get(db: Database, project: str, name: str) -> Model | None:
    rows = await db.rows(_NAMED, (name, project, SHARED))
    return _model(rows[0]) if rows else None


async def of_project(db: Database, project: str, names: Collection[str]) -> frozenset[str]:
    """Those of these names that are, or were, the project's models."""
    rows = await db.rows(
        "SELECT name FROM models WHERE project = ? AND name IN (SELECT value FROM json_each(?))",
        (project, json.dumps(list(names))),
    )
    return frozenset(row["name"] for row in rows)


async def any_named(db: Database, name: str) -> Model | None:
    """The newest model of this name, hidden or not: an accepted job still trains from it."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM models WHERE name = ? AND purged_at IS NULL "
        "ORDER BY deleted_at IS NULL DESC, seq DESC LIMIT 1",
        (name,),
    )
    return _model(rows[0]) if rows else None


async def unpurged_paths(db: Database) -> frozenset[str]:
    """Where, relative to the home, the bytes of some model should be."""
    rows = await db.rows("SELECT DISTINCT path FROM models WHERE purged_at IS NULL")
    return frozenset(row["path"] for row in rows)


async def purged_paths(db: Database) -> frozenset[str]:
    """Where, relative to the home, the bytes of deleted models were to go. Not of bases: another
    may have been added under the same name, and with it at the same path."""
    rows = await db.rows(
        "SELECT DISTINCT path FROM models WHERE purged_at IS NOT NULL AND kind <> 'base'"
    )
    return frozenset(row["path"] for row in rows)


async def visible(db: Database, project: str) -> tuple[Model, ...]:
    """Every model of the project, bases first, then in order of creation."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM models WHERE project IN (?, ?) AND deleted_at IS NULL "
        "ORDER BY kind <> 'base', seq",
        (project, SHARED),
    )
    return tuple(_model(row) for row in rows)


async def adapters(db: Database) -> tuple[Model, ...]:
    """Every tuned model and checkpoint that is not deleted, of all projects."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM models WHERE kind <> 'base' AND deleted_at IS NULL ORDER BY seq"
    )
    return tuple(_model(row) for row in rows)


def _model(row: Row) -> Model:
    values = dict(row)
    facts = values.pop("facts")
    return Model(
        **values | {"kind": ModelKind(values["kind"])},
        facts=None if facts is None else json.loads(facts),
    )
