"""One writer thread, many readers: how the truth is kept.

Every change is a plain function on the writer's connection, `work(tx)`. The thread runs all
waiting ones in one transaction, a savepoint each, with one COMMIT at synchronous=FULL: an
acknowledged write survives kill -9 and power loss, and a failing neighbour spoils nothing.

    right:  await db.write(lambda tx: jobs.move(tx, job_id, State.QUEUED))
    wrong:  awaiting between two statements of one change; sharing the writer's connection

A caller that is cancelled while it waits does not undo its write: the future is shielded, and the
work runs to its commit (gRPC cancels handlers whenever a client hangs up).

When the disk fails a commit, or the file is no longer where it was, nothing is acknowledged any
more: `lost` says so, and whoever assembled the house ends it. The next start reads everything.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from ftd.bell import Bell, wait
from ftd.core.errors import FtdError, Kind
from ftd.store.connection import connect, explain, fatal
from ftd.store.schema import migrate

Transaction = sqlite3.Connection
Row = sqlite3.Row
Parameters = Sequence[Any] | Mapping[str, Any]
Read = Callable[..., Awaitable[list[sqlite3.Row]]]

T = TypeVar("T")

READERS = 3
MAX_GROUP = 512  # changes in one commit; bounds how long the first waits for the last
LOOK_S = 5.0  # between looks whether the file is still there, while nothing is written


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
        self,
        path: Path,
        bell: Bell,
        *,
        observe: Callable[[float], None] = lambda _: None,
        relieve: Callable[[], bool] = lambda: False,
    ) -> None:
        """`observe` is told how long each group commit took, in seconds, on the loop. `relieve` is
        called in the writer's thread when the disk is full: True if it has made room."""
        self._path = path
        self._bell = bell
        self._observe = observe
        self._relieve = relieve
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        self._thread = threading.Thread(target=self._write_forever, name="ftd-writer")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: sqlite3.Connection | None = None
        self._places: tuple[_Place, ...] = ()
        self._fault: str | None = None
        self._failed = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Create or migrate, then start the writer. Raises FtdError as migrate does."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._prepare)
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
            return await self._fetch(reader, sql, parameters)

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
            return await self._fetch(reader, sql, parameters)
        finally:
            # A cancelled one may still run; what the next asks of this reader waits behind it.
            self._readers.put_nowait(reader)

    async def _fetch(
        self, reader: aiosqlite.Connection, sql: str, parameters: Parameters
    ) -> list[sqlite3.Row]:
        try:
            return list(await reader.execute_fetchall(sql, parameters))
        except sqlite3.Error as error:
            if fatal(error):
                self._fault = self._fault or _failure(error)
                self._failed.set()
            raise

    async def _return(self, reader: aiosqlite.Connection) -> None:
        try:
            await reader.rollback()
        finally:
            self._readers.put_nowait(reader)

    async def lost(self) -> str:
        """Wait until nothing more can be written here for good, and say why."""
        while (fault := self._fault or self._displaced()) is None:
            await wait(self._failed, LOOK_S)
        self._fault = fault
        return fault

    def _prepare(self) -> None:
        migrate(self._path)
        self._connection = connect(self._path)
        log = self._path.with_name(f"{self._path.name}-wal")  # as long as we have it open
        self._places = tuple(_Place(path, _identity(path)) for path in (self._path, log))

    def _write_forever(self) -> None:
        connection = self._connection
        assert connection is not None, "opened before it is written to"
        try:
            while (first := self._changes.get()) is not None:
                group, ended = self._waiting(first)
                started = time.perf_counter()
                if self._fault is None:
                    self._fault = _commit(connection, group, self._relieve) or self._displaced()
                if self._fault is not None:
                    _refuse(group, self._fault)
                self._loop_soon(group, time.perf_counter() - started)
                if ended:
                    return
        finally:
            connection.close()

    def _displaced(self) -> str | None:
        """Why what is written goes where nobody will find it; two looks at names, microseconds."""
        for place in self._places:
            now = _identity(place.path)
            if now != place.identity:
                return f"{place.path} was {'removed' if now is None else 'replaced'}"
        return None

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
        if self._fault is not None:
            self._failed.set()
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


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    identity: tuple[int, int] | None


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has this name; it must not be opened to learn that, for closing any descriptor
    of the database lets go of its locks."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _failure(error: sqlite3.Error) -> str:
    return f"the database failed ({error})"


def _refuse(group: list[_Change], fault: str) -> None:
    for change in group:
        change.result = None
        change.error = FtdError(Kind.UNAVAILABLE, f"The daemon ends: {fault}.")


def _commit(
    connection: sqlite3.Connection, group: list[_Change], relieve: Callable[[], bool]
) -> str | None:
    """Run the group in one transaction; each change gets its result or its error. On a full disk
    it is run again if room could be made.

    Returns what is wrong with the database when it cannot be trusted any more.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        for change in group:
            _run(connection, change)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if fatal(error):
            return _failure(error)
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        told = explain(error)
        if isinstance(told, FtdError) and told.kind is Kind.NO_SPACE and relieve():
            for change in group:
                change.result = change.error = None
            return _commit(connection, group, relieve)
        for change in group:
            change.error = change.error or told
    return None


def _run(connection: sqlite3.Connection, change: _Change) -> None:
    connection.execute("SAVEPOINT change")
    try:
        change.result = change.work(connection)
    except Exception as error:
        if fatal(error) or not connection.in_transaction:
            raise  # a full disk rolls back everything, not only this change
        connection.execute("ROLLBACK TO change")
        change.error = error
    connection.execute("RELEASE change")
