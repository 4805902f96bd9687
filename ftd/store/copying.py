"""A copy of the database as it is at one moment, made while others write, and proven whole."""

import os
import sqlite3
from pathlib import Path

from ftd.store.connection import Unusable


def copy(connection: sqlite3.Connection, target: Path) -> None:
    """Put a verified copy of what `connection` sees at `target`, on the disk for good once its
    directory is synced.

    `target` must not exist. Raises sqlite3.Error as SQLite does, Unusable when the copy is not
    whole; something may lie at `target` then.
    """
    copied = sqlite3.connect(target, isolation_level=None)
    try:
        copied.execute("PRAGMA synchronous = OFF")  # synced below, once
        connection.backup(copied)  # in one step, and so of one moment
        copied.execute("PRAGMA journal_mode = DELETE")  # one file, and none beside it
        verify(copied, target)
    finally:
        copied.close()
    sync(target)


def verify(connection: sqlite3.Connection, path: Path) -> None:
    """Read every row and every index. Raises Unusable, which names `path`, for any fault."""
    try:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found == "ok" and connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
            found = "a row refers to one that is not there"
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise Unusable(f"{path} is damaged: {found}")


def sync(path: Path) -> None:
    """Have the disk hold what this file, or this directory's list of names, is now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
