"""Files: taken in once, straight to their final disk, and checked before anyone trains on them."""

import asyncio
import hashlib
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ftd.config import Limits
from ftd.core.dataset import Report
from ftd.core.errors import FULL_DISK, FtdError, Kind, invalid, no_such_file
from ftd.core.file import FINE_TUNE, PURPOSES, File, FileStatus
from ftd.core.once import Once, Repeated
from ftd.host import blobs, unknown
from ftd.host.home import Home
from ftd.host.shelf import Shelf
from ftd.host.space import Space
from ftd.launch.sandbox import DEFAULT, Sandbox
from ftd.launch.tool import run_tool
from ftd.metrics import Metrics
from ftd.service import audit
from ftd.service.actor import Actor
from ftd.service.page import Page, clamp, cut
from ftd.store import files, idempotency, jobs
from ftd.store.db import Transaction
from ftd.store.store import Store

log = logging.getLogger(__name__)

PAGE = 10_000  # OpenAI's default and most
CHECKERS = 2  # files checked at once
WRITE_BYTES = 2**20  # one write to disk
SYNC_BYTES = 64 * 2**20  # the most of one upload that the disk does not hold yet
SPARE_BYTES = 64 * 2**20  # of the disk that an upload must leave
MAX_FILENAME = 255
EXPIRES_S = range(3600, 2_592_001)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRooms:
    """What the door to files works with."""

    store: Store
    home: Home
    limits: Limits
    metrics: Metrics
    space: Space
    sandbox: Sandbox = DEFAULT


class Files:
    """Uploads, listings, contents, deletes."""

    def __init__(self, rooms: FileRooms) -> None:
        self._rooms = rooms
        self._store = rooms.store
        self._home = rooms.home
        self._limits = rooms.limits
        self._shelf = Shelf(rooms.home.tokens, rooms.limits.cache_bytes)
        self._checkers = asyncio.Semaphore(CHECKERS)
        self._checks: dict[str, asyncio.Task[File]] = {}

    def upload(self, actor: Actor, *, expected_bytes: int | None = None) -> "Upload":
        """A new upload; leaving its `async with` without finish() removes every trace."""
        return Upload(self, self._rooms, actor, expected_bytes)

    async def list(
        self,
        actor: Actor,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int | None = None,
        order: str | None = None,
    ) -> Page[File]:
        """Newest first, or oldest with order "asc". Raises INVALID for another order."""
        if order not in (None, "", "asc", "desc"):
            raise invalid("order must be 'asc' or 'desc'.", param="order")
        count = clamp(limit, PAGE, PAGE)
        rows = await files.page(
            self._store.db,
            actor.project,
            purpose=purpose or None,
            after=after or None,
            limit=count + 1,
            oldest=order == "asc",
        )
        return cut(rows, count)

    async def get(self, actor: Actor, file_id: str) -> File:
        file = await files.get(self._store.db, actor.project, file_id)
        if file is None:
            raise no_such_file(file_id)
        return file

    async def delete(self, actor: Actor, file_id: str) -> None:
        """Hide the file now; its bytes go when no job needs them any more."""
        audit.concerns(file_id)
        now = self._store.clock.now()
        hidden = await self._store.db.write(lambda tx: files.hide(tx, actor.project, file_id, now))
        if not hidden:
            raise no_such_file(file_id)
        await self.sweep()

    async def content(self, actor: Actor, file_id: str) -> BinaryIO:
        """The bytes, opened before the answer, so that a delete does not cut it off."""
        await self.get(actor, file_id)
        try:
            return self._home.file(file_id).open("rb")
        except FileNotFoundError:
            raise no_such_file(file_id) from None

    async def sweep(self) -> None:
        """Hide what has expired and remove the bytes that nobody needs."""
        now = self._store.clock.now()

        def work(tx: Transaction) -> tuple[str, ...]:
            files.hide_expired(tx, now)
            gone = tuple(
                file_id
                for file_id in files.unpurged(tx)
                if not jobs.in_use(tx, "training_file", file_id)
                and not jobs.in_use(tx, "validation_file", file_id)
            )
            for file_id in gone:
                files.purged(tx, file_id, now)
            return gone

        for file_id in await self._store.db.write(work):
            self._home.file(file_id).unlink(missing_ok=True)
        if self._shelf.sources():
            wanted = await files.known_hashes(self._store.db)
            await asyncio.to_thread(self._shelf.sweep, wanted)
        await self._check_again()

    async def recover(self) -> None:
        """After a start: drop half uploads, set aside bytes that no row names, take up broken-off
        checks."""
        shutil.rmtree(self._home.incoming, ignore_errors=True)
        self._home.incoming.mkdir(mode=0o700)
        self._shelf.recover()
        await self._set_aside()
        await self._check_again()

    async def _set_aside(self) -> None:
        """Leave what lies in files/ as the rows say. All of it was published: whoever sent it may
        have been told so, by a database that is not this one."""
        known = await files.known_ids(self._store.db)
        deleted = await files.purged_ids(self._store.db)
        found = [path for path in self._home.files.iterdir() if path.is_file()]
        for path in found:
            if path.name in deleted:  # and the daemon ended before its bytes went
                path.unlink()
        lost = [path for path in found if path.name not in known | deleted]
        now = self._store.clock.now()
        await asyncio.to_thread(unknown.set_aside, lost, self._home, now)

    async def _check_again(self) -> None:
        """Take up checks that were broken off: by the daemon's end, or by a full disk."""
        for file in await files.unchecked(self._store.db):
            if file.id not in self._checks:
                self._spawn(file)

    async def close(self) -> None:
        """End the checks that still run; the next start takes them up."""
        checks = list(self._checks.values())
        for task in checks:
            task.cancel()
        await asyncio.gather(*checks, return_exceptions=True)

    async def accept(self, file: File, temporary: Path, once: Once | None = None) -> File:
        """Publish an uploaded file, check it, and answer within check_wait_s. With `once`, the file
        that was made of the same upload before, if any. Raises INVALID for a fine-tune file that is
        no JSONL at all: nothing of it is kept.
        """
        await asyncio.to_thread(blobs.publish, temporary, self._home.file(file.id))
        try:
            await self._store.db.write(lambda tx: _insert(tx, file, once))
        except Repeated as before:
            self._home.file(file.id).unlink()
            actor = Actor(project=file.project, name="upload")
            return _jsonl(await self._soon(await self.get(actor, before.made)))
        except FtdError:
            self._home.file(file.id).unlink()
            raise
        if file.purpose != FINE_TUNE:
            return file
        self._spawn(file)
        checked = await self._soon(file)
        try:
            return _jsonl(checked)
        except FtdError:
            await self._store.db.write(lambda tx: idempotency.forget(tx, file.id))
            await self.delete(Actor(project=file.project, name="upload"), file.id)
            raise

    async def _soon(self, file: File) -> File:
        """As its check leaves it; as it is, where that takes longer than check_wait_s."""
        if (check := self._checks.get(file.id)) is None:
            return file
        done, _ = await asyncio.wait({check}, timeout=self._limits.check_wait_s)
        return check.result() if done else file

    async def _check(self, file: File) -> File:
        """Read the whole file in a process of its own and keep what it found."""
        async with self._checkers:
            report = await self._read(file)
        good = not report.fault_count and report.not_jsonl is None
        status = FileStatus.PROCESSED if good else FileStatus.ERROR
        kept = report.to_json()
        await self._store.db.write(lambda tx: files.checked(tx, file.id, status, kept))
        return replace(file, status=status, report=kept)

    async def _read(self, file: File) -> Report:
        result = await run_tool(
            "ftd.worker.validate",
            str(self._home.file(file.id)),
            "--line-bytes",
            str(self._limits.line_bytes),
            "--json-depth",
            str(self._limits.json_depth),
            timeout_s=None,
            memory_bytes=self._limits.check_memory_bytes,
            sandbox=self._rooms.sandbox,
            # Its notes on a large file are gigabytes too, and /tmp may be memory.
            env=os.environ | {"TMPDIR": str(self._home.incoming)},
        )
        if result.returncode == 0:
            return Report.from_json(result.answer())
        log.error("file check failed", extra={"file": file.id, "status": result.returncode})
        # What it says of its end may quote the file.
        log.debug("file check", extra={"file": file.id, "stderr": result.stderr_tail})
        return Report.unreadable(
            "The file could not be checked: the checking process ended with status "
            f"{result.returncode}. See the daemon's log."
        )

    def _spawn(self, file: File) -> "asyncio.Task[File]":
        task = self._checks[file.id] = asyncio.create_task(self._check(file))
        task.add_done_callback(lambda done: self._checked(file, done))
        return task

    def _checked(self, file: File, task: "asyncio.Task[File]") -> None:
        del self._checks[file.id]
        if not task.cancelled() and (error := task.exception()) is not None:
            # The sweep begins it anew.
            log.error("file check broken off", extra={"file": file.id}, exc_info=error)


class Upload:
    """One upload on its way; `async with` it, write, finish."""

    def __init__(
        self, owner: Files, rooms: FileRooms, actor: Actor, expected_bytes: int | None
    ) -> None:
        self._files = owner
        self._actor = actor
        self._expected = expected_bytes
        self._rooms = rooms
        self._id = self._rooms.store.ids.file()
        self._path = self._rooms.home.incoming / f"{self._id}.part"
        self._sha256 = hashlib.sha256()
        self._buffer = bytearray()
        self._bytes = 0
        self._unsynced = 0
        self._file: BinaryIO | None = None

    async def __aenter__(self) -> Self:
        """Raises TOO_LARGE or NO_SPACE when the announced size cannot be taken."""
        self._refuse(self._expected or 0)
        free = shutil.disk_usage(self._path.parent).free
        if self._rooms.space.full or free < (self._expected or 0) + SPARE_BYTES:
            raise _no_space()
        self._file = self._path.open("xb", buffering=0)
        self._rooms.metrics.api.uploads.inc()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._rooms.metrics.api.uploads.dec()
        self._path.unlink(missing_ok=True)

    async def write(self, data: bytes) -> None:
        """Take the next bytes. Raises TOO_LARGE past the limit, NO_SPACE on a full disk."""
        self._bytes += len(data)
        self._refuse(self._bytes)
        self._buffer += data
        if len(self._buffer) >= WRITE_BYTES:
            await self._flush()

    async def finish(
        self,
        *,
        filename: str,
        purpose: str,
        expires_after_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> File:
        """Publish and check what was written; with a key, unless the same upload was before.

        Raises INVALID, with OpenAI's texts, for a purpose, a name, an expiry or a content that
        cannot be; nothing is kept then.
        """
        if purpose not in PURPOSES:
            allowed = ", ".join(repr(known) for known in sorted(PURPOSES))
            raise invalid(f"{purpose!r} is not one of [{allowed}] - 'purpose'", param="purpose")
        if purpose == FINE_TUNE and not filename.endswith(".jsonl"):
            raise invalid("Invalid file format for Fine-Tuning API. Must be .jsonl", param="file")
        if not 1 <= len(filename) <= MAX_FILENAME:
            raise invalid(f"A file name has 1 to {MAX_FILENAME} characters.", param="file")
        if expires_after_s is not None and expires_after_s not in EXPIRES_S:
            raise invalid(
                "expires_after.seconds must be between 3600 and 2592000.", param="expires_after"
            )
        await self._flush()
        now = self._rooms.store.clock.now()
        file = File(
            seq=0,
            id=self._id,
            project=self._actor.project,
            purpose=purpose,
            filename=filename,
            bytes=self._bytes,
            sha256=self._sha256.hexdigest(),
            created_at=now,
            expires_at=None if expires_after_s is None else now + expires_after_s,
            status=FileStatus.UPLOADED if purpose == FINE_TUNE else FileStatus.PROCESSED,
        )
        audit.concerns(file.id)
        once = None
        if idempotency_key is not None:
            once = Once.of(idempotency_key, file.sha256, filename, purpose, str(expires_after_s))
        return await self._files.accept(file, self._path, once)

    async def _flush(self) -> None:
        if not self._buffer:
            return
        data, self._buffer = bytes(self._buffer), bytearray()
        try:
            await asyncio.to_thread(self._store, data)
        except OSError as error:
            if error.errno in FULL_DISK:
                self._rooms.space.relieve()
                raise _no_space() from error
            raise
        self._rooms.metrics.api.upload_bytes.inc(len(data))

    def _store(self, data: bytes) -> None:
        assert self._file is not None, "an upload is entered before it is written"
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._sha256.update(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            # All of it at the end would have others wait for the disk: for seconds, with gigabytes.
            os.fdatasync(self._file.fileno())
            self._unsynced = 0

    def _refuse(self, size: int) -> None:
        limit = self._rooms.limits.upload_bytes
        if size > limit:
            raise FtdError(
                Kind.TOO_LARGE, f"The file is larger than {limit:,} bytes.", param="file"
            )


def _jsonl(file: File) -> File:
    """The file itself. Raises INVALID for one that is no JSONL at all: nothing of it is kept."""
    if text := (file.report or {}).get("not_jsonl"):
        raise invalid(str(text), param="file")
    return file


def _insert(tx: Transaction, file: File, once: Once | None) -> None:
    if once is not None:
        idempotency.claim(tx, file.project, once, file.id, file.created_at)
    files.insert(tx, file)


def _no_space() -> FtdError:
    return FtdError(Kind.NO_SPACE, "The disk of ftd's home is full; nothing was stored.")


def status_details(file: File) -> str | None:
    """The first fault of a file in error, in OpenAI's words."""
    if file.status is not FileStatus.ERROR or file.report is None:
        return None
    report = Report.from_json(file.report)
    return report.not_jsonl or (report.faults[0].message if report.faults else None)
