"""Whether the database can be trusted, however the last daemon ended.

A clean stop leaves everything in ftd.db, and beside it ftd.db.clean, a note of how that file looks
then. The next start takes the note away before it writes. Where there is no note, or the file is
another than the note says, or a log of changes lies beside it, the whole database is read before
anything is done with it: a kill or a power cut leaves it whole, a failing disk or a hand may not.
"""

import json
import logging
import sqlite3
from pathlib import Path

from ftd.store.connection import APPLICATION_ID, Unusable, connect, explain, fatal, look
from ftd.store.copying import sync

log = logging.getLogger(__name__)


def blank(path: Path) -> bool:
    """Whether there is no database yet, or one without a table. Raises Unusable as read_whole."""
    if not path.exists():
        return True
    return not _ask(path, "SELECT count(*) FROM sqlite_master")


def lost(path: Path, leftover: Path) -> Unusable:
    """The error for a home that has no database, or a blank one, and has what was once in one."""
    return Unusable(
        f"There is no database {path}, but there is {leftover}, which a new one would not know. "
        f"{_advice(path)} To begin anew, empty {path.parent}."
    )


def stopped_cleanly(path: Path) -> bool:
    """Whether the database is exactly what the last daemon left when it stopped in order."""
    try:
        note = json.loads(_note(path).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return bool(note == _looks(path) and not _log_bytes(path))


def read_whole(path: Path) -> None:
    """Read every row: about a second for a million events.

    Raises Unusable for what is damaged or is no database of ftd's. Nothing is changed by it, not
    even by SQLite, which would play a log into a database that it opens for writing.
    """
    found = " ".join(str(_ask(path, "PRAGMA quick_check(1)")).split())
    if found != "ok":
        raise _damaged(path, found)
    if _ask(path, "PRAGMA application_id") != APPLICATION_ID:
        raise Unusable(f"{path} is another program's database. {_advice(path)}")


def begin(path: Path) -> None:
    """From now on the database is in use: only `end` makes the next start a quick one."""
    if _note(path).exists():
        _note(path).unlink()
        sync(path.parent)


def end(path: Path) -> None:
    """Note that the database is closed, with nothing left outside of its file.

    Call it when nobody of ours has it open. Where another process has, or the disk is full, there
    is no note, which costs the next start a look at everything.
    """
    try:
        connection = connect(path)
        try:
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
        if _log_bytes(path):
            return
        _note(path).write_text(json.dumps(_looks(path)))
        sync(_note(path))
        sync(path.parent)
    except (OSError, sqlite3.Error):
        log.warning("the stop is not noted as a clean one", exc_info=True)


def _ask(path: Path, question: str) -> object:
    """The one value that answers the question."""
    try:
        connection = look(path)
        try:
            value: object = connection.execute(question).fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        if fatal(error):
            raise _damaged(path, str(error)) from error
        raise explain(error) from error
    return value


def _damaged(path: Path, fault: str) -> Unusable:
    return Unusable(f"{path} is damaged ({fault}) and was left as it is. {_advice(path)}")


def _advice(path: Path) -> str:
    home = path.parent
    return f"Move {home} away and have `ftd restore BACKUP --home {home}` make it again."


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.clean")


def _looks(path: Path) -> dict[str, int]:
    """What changes when the file is written to, replaced or copied."""
    status = path.stat()
    return {"bytes": status.st_size, "inode": status.st_ino, "mtime_ns": status.st_mtime_ns}


def _log_bytes(path: Path) -> int:
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0
