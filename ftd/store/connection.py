"""How the database is opened, so that a commit lasts, and what its errors mean to whoever asks."""

import sqlite3
from pathlib import Path

from ftd.core.errors import FtdError, Kind

APPLICATION_ID = 0x66746400  # "ftd"

# A full disk where SQLite does not say so, a quota, a limit of the process, a sector that fails.
_NOT_TAKEN = frozenset(
    {
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_TRUNCATE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    }
)


class Unusable(FtdError):
    """A database that this ftd must not touch: damaged, lost, or made by a newer one."""

    def __init__(self, message: str) -> None:
        super().__init__(Kind.CONFLICT, message)


def connect(path: Path) -> sqlite3.Connection:
    """A writer's connection, autocommit, with the settings that make a commit durable."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "busy_timeout = 5000",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "temp_store = MEMORY",
        f"journal_size_limit = {64 * 2**20}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def look(path: Path, *, alone: bool = False) -> sqlite3.Connection:
    """A connection that changes nothing, not even when it is closed; `path` must be there.

    `alone` promises that nobody writes to the file, which may then lie on a read-only disk.
    """
    how = "mode=ro&immutable=1" if alone else "mode=ro"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def fatal(error: Exception) -> bool:
    """Whether the database can be trusted with nothing more: it is damaged, or the disk failed.

    A failed fsync is never tried again: the kernel has forgotten by then what it could not write,
    and would say that all is well. A failed write is none of these: its change is undone.
    """
    code = _code(error)
    if code is None or code in _NOT_TAKEN:
        return False
    return code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def explain(error: sqlite3.Error) -> Exception:
    """The error as its caller should read it; what is a mistake of ours stays as it is."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return FtdError(Kind.NO_SPACE, "The disk is full: nothing was stored.")
    if code in _NOT_TAKEN:
        return FtdError(Kind.NO_SPACE, "The disk did not take a write: nothing was stored.")
    if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
        return FtdError(
            Kind.UNAVAILABLE, "The database is locked by another process; please try again."
        )
    return error


def _code(error: Exception) -> int | None:
    """SQLite's extended result code; None for an error that is not SQLite's own."""
    code = getattr(error, "sqlite_errorcode", None)
    return code if isinstance(code, int) else None
