"""One writer thread, many readers: how the truth is kept.

Every change is a plain function on the writer's connection, `work(tx)`. The thread runs all
waiting ones in one transaction, a savepoint each, with one COMMIT at synchronous=FULL: an
acknowledged write survives kill -9 and power loss, and a failing neighbour spoils nothing.

    right:  await db.write(lambda tx: jobs.move(tx, job_id, State.QUEUED))
    wrong:  awaiting between two statements of one change; sharing the writer's connection

A caller that is cancelled while it waits does not undo its write: the future is shielded, and the
work runs to its commit (gRPC cancels handlers whenever a client hangs up).
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from ftd.bell import Bell
from ftd.core.errors import FtdError, Kind

Transaction = sqlite3.Connection
Row = sqlite3.Row
Parameters = Sequence[Any] | Mapping[str, Any]
Read = Callable[..., Awaitable[list[sqlite3.Row]]]

T = TypeVar("T")

APPLICATION_ID = 0x66746400  # "ftd"
READERS = 3
MAX_GROUP = 512  # changes in one commit; bounds how long the first waits for the last


@dataclass(slots=True)
class _Change:
    work: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"
    about: tuple[str, ...] | None
    result: Any = None
    error: BaseException | None = None


class Database:
    """The home's ftd.db. Open it on the loop that will use it; one process at a time."""

    def __init__(
        self, path: Path, bell: Bell, *, observe: Callable[[float], None] = lambda _: None
    ) -> None:
        """`observe` is told how long each group commit took, in seconds, on the loop."""
        self._path = path
        self._bell = bell
        self._observe = observe
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        self._thread = threading.Thread(target=self._write_forever, name="ftd-writer")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def open(self) -> None:
        """Create or migrate, then start the writer. Raises FtdError for a newer schema."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(migrate, self._path)
        self._thread.start()
        for _ in range(READERS):
            reader = await aiosqlite.connect(
                f"{self._path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
            )
            reader.row_factory = sqlite3.Row
            await reader.execute("PRAGMA query_only = ON")
            self._readers.put_nowait(reader)

    async def close(self) -> None:
        """Finish what waits, then close. Safe to call twice."""
        if self._closed or self._loop is None:
            return
        self._closed = True
        self._changes.put(None)
        await asyncio.to_thread(self._thread.join)
        for _ in range(READERS):
            await (await self._readers.get()).close()

    async def write(
        self, work: Callable[[Transaction], T], *, about: tuple[str, ...] | None = None
    ) -> T:
        """Run `work` in the writer's next transaction; returns once it is on disk.

        What `work` raises undoes it alone and is raised here. `about` are the bell's topics that
        it may concern: the jobs of which it tells, and SCHEDULE if it may change what is decided.
        By default everyone looks.
        """
        if self._closed or self._loop is None:
            raise FtdError(Kind.UNAVAILABLE, "The daemon is shutting down.")
        change = _Change(work, self._loop.create_future(), about)
        self._changes.put(change)
        result: T = await asyncio.shield(change.future)
        return result

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Read]:
        """One consistent view: `rows = await read(sql, parameters)`. Keep it short."""
        reader = await self._readers.get()

        async def read(sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
            return list(await reader.execute_fetchall(sql, parameters))

        try:
            await reader.execute("BEGIN")
            yield read
        finally:
            # Shielded, so that a cancelled reader never goes back with its view still open.
            await asyncio.shield(self._return(reader))

    async def rows(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """What one statement reads, which is a view of its own: one visit of the reader's thread
        in place of three."""
        reader = await self._readers.get()
        try:
            return list(await reader.execute_fetchall(sql, parameters))
        finally:
            # A cancelled one may still run; what the next asks of this reader waits behind it.
            self._readers.put_nowait(reader)

    async def _return(self, reader: aiosqlite.Connection) -> None:
        try:
            await reader.rollback()
        finally:
            self._readers.put_nowait(reader)

    def _write_forever(self) -> None:
        connection = connect(self._path)
        try:
            while (first := self._changes.get()) is not None:
                group, ended = self._waiting(first)
                started = time.perf_counter()
                _commit(connection, group)
                self._loop_soon(group, time.perf_counter() - started)
                if ended:
                    return
        finally:
            connection.close()

    def _waiting(self, first: _Change) -> tuple[list[_Change], bool]:
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                change = self._changes.get_nowait()
            except queue.Empty:
                break
            if change is None:
                return group, True
            group.append(change)
        return group, False

    def _loop_soon(self, group: list[_Change], seconds: float) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it who waits
            self._loop.call_soon_threadsafe(self._resolve, group, seconds)

    def _resolve(self, group: list[_Change], seconds: float) -> None:
        self._observe(seconds)
        for change in group:
            if change.future.cancelled():
                continue
            if change.error is not None:
                change.future.set_exception(change.error)
                change.future.exception()  # a caller that hung up leaves nobody to fetch it
            else:
                change.future.set_result(change.result)
        self._bell.ring(_topics(group))


def _topics(group: list[_Change]) -> set[str] | None:
    topics: set[str] = set()
    for change in group:
        if change.about is None:
            return None
        topics.update(change.about)
    return topics


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


def _commit(connection: sqlite3.Connection, group: list[_Change]) -> None:
    """Run the group in one transaction; each change gets its result or its error."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        for change in group:
            _run(connection, change)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for change in group:
            change.error = change.error or _explain(error)


def _run(connection: sqlite3.Connection, change: _Change) -> None:
    connection.execute("SAVEPOINT change")
    try:
        change.result = change.work(connection)
    except Exception as error:
        if not connection.in_transaction:
            raise  # a full disk rolls back everything, not only this change
        connection.execute("ROLLBACK TO change")
        change.error = error
    connection.execute("RELEASE change")


def _explain(error: sqlite3.Error) -> Exception:
    if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return FtdError(Kind.NO_SPACE, "The disk is full: nothing was stored.")
    return error


def migrate(path: Path) -> None:
    """Bring the database to this version's schema; a backup is made before an upgrade.

    Raises FtdError when a newer ftd wrote it.
    """
    scripts = _scripts()
    connection = connect(path)
    try:
        version = _version(connection, path)
        if 0 < version < len(scripts):
            _back_up(connection, path.with_name(f"{path.name}.schema-{version}"))
        for number, script in enumerate(scripts[version:], start=version + 1):
            connection.executescript(
                f"BEGIN IMMEDIATE; {script.read_text()} "
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
            )
    finally:
        connection.close()


def outdated(path: Path) -> bool:
    """Whether the next start would migrate this database. Changes nothing; raises as migrate."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        return _version(connection, path) < len(_scripts())
    finally:
        connection.close()


def _scripts() -> list[Traversable]:
    """The migrations in their order; a schema's version is how many of them made it."""
    entries = resources.files("ftd.store.migrations").iterdir()
    scripts = [entry for entry in entries if entry.name.endswith(".sql")]
    return sorted(scripts, key=lambda entry: entry.name)


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    known = len(_scripts())
    if version > known:
        raise FtdError(
            Kind.CONFLICT,
            f"{path} has schema {version}, written by a newer ftd; this one knows {known}. "
            "Install the newer version again, or restore a backup.",
        )
    return version


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    target.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (str(target),))
