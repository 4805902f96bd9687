"""What the rows of a database name: all that lies beside it and must be kept with it."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ftd.store.connection import Unusable, explain, fatal, look
from ftd.store.copying import copy, verify
from ftd.store.schema import version_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Whose bytes should be there: of what is not deleted, and of what an open job still needs.

    `files` are ids, with the sha256 of their bytes. `models` are paths relative to the home, with
    the hash of their tree, or None of those that are a part of a checkpoint. `checkpoints` are
    paths of what jobs that are not over may go on from, with the sha256 of their manifests.
    """

    files: Mapping[str, str]
    models: Mapping[str, str | None]
    checkpoints: Mapping[str, str]


def snapshot(path: Path, target: Path) -> Kept:
    """Put a verified copy of the database, which may be in use, at `target`; what it names.

    Raises Unusable when it is damaged, FtdError when the disk is full.
    """
    try:
        connection = look(path)
        try:
            if not version_of(connection, path):
                raise Unusable(f"{path} has no tables")
            copy(connection, target)
        finally:
            connection.close()
        return _read(target, alone=True)
    except sqlite3.Error as error:
        raise _told(error, path) from error


def now(path: Path) -> Kept:
    """What a database that may be in use names at this moment; raises as `snapshot`."""
    try:
        return _read(path)
    except sqlite3.Error as error:
        raise _told(error, path) from error


def prove(path: Path) -> None:
    """See that a copy is whole and of no newer ftd than this. Raises Unusable when it is not."""
    try:
        connection = look(path, alone=True)
        try:
            version_of(connection, path)
            verify(connection, path)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _told(error, path) from error


# Of what is deleted, that which an open job still needs.
_NEEDED = (
    "EXISTS (SELECT 1 FROM jobs WHERE {names} AND (finished_at IS NULL OR EXISTS "
    "(SELECT 1 FROM attempts WHERE attempts.job = jobs.id AND ended_at IS NULL)))"
)
_FILE_NEEDED = _NEEDED.format(names="files.id IN (training_file, validation_file)")
_MODEL_NEEDED = _NEEDED.format(names="models.name IN (jobs.model, jobs.base)")


def _read(path: Path, *, alone: bool = False) -> Kept:
    connection = look(path, alone=alone)
    try:
        connection.execute("BEGIN")  # one view for the three
        files = connection.execute(
            "SELECT id, sha256 FROM files "
            f"WHERE purged_at IS NULL AND (deleted_at IS NULL OR {_FILE_NEEDED})"
        )
        models = connection.execute(
            "SELECT path, CASE kind WHEN 'checkpoint' THEN NULL ELSE sha256 END AS sha256 "
            f"FROM models WHERE purged_at IS NULL AND (deleted_at IS NULL OR {_MODEL_NEEDED})"
        )
        checkpoints = connection.execute(
            "SELECT path, sha256 FROM checkpoints "
            "WHERE job IN (SELECT id FROM jobs WHERE finished_at IS NULL)"
        )
        return Kept(
            files={row["id"]: row["sha256"] for row in files},
            models={row["path"]: row["sha256"] for row in models},
            checkpoints={row["path"]: row["sha256"] for row in checkpoints},
        )
    finally:
        connection.close()


def _told(error: sqlite3.Error, path: Path) -> Exception:
    return Unusable(f"{path} is damaged: {error}") if fatal(error) else explain(error)
