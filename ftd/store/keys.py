"""API keys as rows. A revoked one stays: whoever reads old logs finds out whose it was."""

import json
from collections.abc import Mapping

from ftd.core.keys import Key, Scope
from ftd.store.db import Database, Row, Transaction

_COLUMNS = "id, name, project, scopes, sha256, created_at, expires_at, used_at, revoked_at"


def insert(tx: Transaction, key: Key) -> None:
    tx.execute(
        f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key.id,
            key.name,
            key.project,
            json.dumps(sorted(key.scopes)),
            key.sha256,
            key.created_at,
            key.expires_at,
            key.used_at,
            key.revoked_at,
        ),
    )


def count(tx: Transaction) -> int:
    """How many have not been revoked."""
    number: int = tx.execute("SELECT count(*) FROM keys WHERE revoked_at IS NULL").fetchone()[0]
    return number


def revoke(tx: Transaction, key_id: str, now: int) -> Key | None:
    """Revoke a key; None if there is no such one. Again changes nothing."""
    tx.execute("UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (now, key_id))
    row = tx.execute(f"SELECT {_COLUMNS} FROM keys WHERE id = ?", (key_id,)).fetchone()
    return None if row is None else _key(row)


def note_uses(tx: Transaction, used: Mapping[str, int]) -> None:
    """Keep when these keys were used last."""
    tx.executemany(
        "UPDATE keys SET used_at = ? WHERE id = ?", [(at, key_id) for key_id, at in used.items()]
    )


async def live(db: Database) -> tuple[Key, ...]:
    """Those that have not been revoked; some may have expired."""
    rows = await db.rows(f"SELECT {_COLUMNS} FROM keys WHERE revoked_at IS NULL ORDER BY seq")
    return tuple(_key(row) for row in rows)


async def page(db: Database, *, after: str | None, limit: int) -> tuple[Key, ...]:
    """Newest first, the revoked ones too. An unknown cursor gives nothing."""
    sql = f"SELECT {_COLUMNS} FROM keys"
    parameters: list[str | int] = []
    if after is not None:
        sql += " WHERE seq < (SELECT seq FROM keys WHERE id = ?)"
        parameters.append(after)
    rows = await db.rows(f"{sql} ORDER BY seq DESC LIMIT ?", [*parameters, limit])
    return tuple(_key(row) for row in rows)


def _key(row: Row) -> Key:
    values = dict(row)
    return Key(**values | {"scopes": frozenset(map(Scope, json.loads(values["scopes"])))})
