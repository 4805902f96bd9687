"""The schema's versions: an older database becomes this one's, a newer one is left alone."""

import sqlite3
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ftd.core.errors import FtdError, Kind
from ftd.store.connection import APPLICATION_ID, Unusable, connect, explain, fatal, look
from ftd.store.copying import copy, sync

KEPT = 2  # databases of earlier versions that stay beside the present one


def migrate(path: Path) -> None:
    """Bring the database to this version's schema, one transaction a version.

    A copy of an older one is kept beside it, as ftd.db.schema-<its version>; of those the newest
    two stay. Raises Unusable for a newer schema or a damaged database, FtdError when the disk is
    full or another process holds the database; the database is then as it was.
    """
    scripts = _scripts()
    try:
        connection = connect(path)
        try:
            version = version_of(connection, path)
            if 0 < version < len(scripts):
                _keep(connection, path, version)
            for number, script in enumerate(scripts[version:], start=version + 1):
                connection.executescript(
                    f"BEGIN IMMEDIATE; {script.read_text()} "
                    f"PRAGMA application_id = {APPLICATION_ID}; "
                    f"PRAGMA user_version = {number}; COMMIT;"
                )
        finally:
            connection.close()
    except sqlite3.Error as error:
        if fatal(error):
            raise Unusable(f"{path} is damaged: {error}.") from error
        raise explain(error) from error


def outdated(path: Path) -> bool:
    """Whether the next start would migrate this database. Changes nothing; raises as migrate."""
    try:
        connection = look(path)
        try:
            return version_of(connection, path) < len(_scripts())
        finally:
            connection.close()
    except sqlite3.Error as error:
        if fatal(error):
            raise Unusable(f"{path} is damaged: {error}.") from error
        raise explain(error) from error


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version, 0 in a new database. Raises Unusable for one that we do not know."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    known = len(_scripts())
    if version > known:
        raise Unusable(
            f"{path} has schema {version}, written by a newer ftd; this one knows {known}. "
            "Install the newer version again, or restore a backup."
        )
    return version


def _scripts() -> list[Traversable]:
    """The migrations in their order; a schema's version is how many of them made it."""
    entries = resources.files("ftd.store.migrations").iterdir()
    scripts = [entry for entry in entries if entry.name.endswith(".sql")]
    return sorted(scripts, key=lambda entry: entry.name)


def _keep(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Copy what is to be migrated, and let go of what has been kept longest."""
    prefix = f"{path.name}.schema-"
    draft = path.with_name(f".{prefix}{version}")
    draft.unlink(missing_ok=True)
    try:
        copy(connection, draft)
        draft.rename(path.with_name(f"{prefix}{version}"))
    except sqlite3.OperationalError as error:
        told = explain(error)
        if isinstance(told, FtdError) and told.kind is Kind.NO_SPACE:
            raise FtdError(
                Kind.NO_SPACE,
                f"There is no room for a copy of {path}, which this version of ftd would change. "
                "Nothing was changed.",
            ) from error
        raise
    finally:
        draft.unlink(missing_ok=True)
    numbers = [kept.name.removeprefix(prefix) for kept in path.parent.glob(f"{prefix}*")]
    for old in sorted(int(number) for number in numbers if number.isdigit())[:-KEPT]:
        path.with_name(f"{prefix}{old}").unlink()
    sync(path.parent)
