"""A door in memory: the service floor's promises without a disk, a database or a trainer."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from ftd.config import Settings
from ftd.core.device import Device, Reading
from ftd.core.errors import FtdError, Kind, invalid, no_such_file, no_such_job
from ftd.core.file import RESULTS, File, FileStatus
from ftd.core.job import FINAL, Checkpoint, Event, Job, State, Want
from ftd.core.models import tuned_name
from ftd.core.once import Once
from ftd.service.actor import Actor
from ftd.service.jobs import CreateJob, MetadataFilter
from ftd.service.page import Page, clamp, cut
from ftd.service.rates import Rates
from tests.api.grpc.fake_chat import FakeChat
from tests.api.grpc.fake_keys import KEY, FakeKeys
from tests.api.grpc.fake_models import BASE, FakeModels

__all__ = ["KEY"]

TICK_S = 0.01


def newest(rows: list[Any], after: str | None, limit: int | None, default: int) -> Page[Any]:
    """A page of rows that are kept oldest first."""
    found = rows[::-1]
    if after is not None:
        ids = [row.id for row in found]
        found = found[ids.index(after) + 1 :] if after in ids else []
    count = clamp(limit, default, 1000)
    return cut(tuple(found[: count + 1]), count)


@dataclass
class FakeJobs:
    files: "FakeFiles"
    models: "FakeModels"
    organization: str = "org-local"
    rows: dict[str, Job] = field(default_factory=dict)
    told: dict[str, list[Event]] = field(default_factory=dict)
    saved: dict[str, list[Checkpoint]] = field(default_factory=dict)
    logged: dict[str, bytes] = field(default_factory=dict)
    created: list[CreateJob] = field(default_factory=list)
    once: list[Once | None] = field(default_factory=list)
    watching: int = 0

    async def create(self, actor: Actor, request: CreateJob, once: Once | None = None) -> Job:
        await self.files.get(actor, request.training_file)
        if request.requested.n_epochs == 0:
            raise invalid("n_epochs must be between 1 and 50.", param="hyperparameters.n_epochs")
        self.created.append(request)
        self.once.append(once)
        number = len(self.created)
        job = Job(
            seq=number,
            id=f"ftjob-{number}",
            project=actor.project,
            created_at=int(time.time()),
            model=request.model,
            base=BASE,
            minted=tuned_name(BASE, request.suffix, f"abcdefg{number}"),
            training_file=request.training_file,
            validation_file=request.validation_file,
            suffix=request.suffix,
            seed=7 if request.seed is None else request.seed,
            method=request.method,
            requested=request.requested,
            metadata=request.metadata,
            priority=request.priority,
            state=State.QUEUED,
            wait_reason="no device is free",
        )
        return self.add(job)

    def add(self, job: Job) -> Job:
        self.rows[job.id] = job
        self.told[job.id] = []
        self.saved[job.id] = []
        self.tell(job.id, f"Created fine-tuning job: {job.id}")
        return job

    def change(self, job_id: str, **changes: Any) -> Job:
        self.rows[job_id] = replace(self.rows[job_id], **changes)
        return self.rows[job_id]

    def tell(
        self,
        job_id: str,
        message: str,
        *,
        level: str = "info",
        kind: str = "message",
        data: Mapping[str, object] | None = None,
    ) -> Event:
        seq = len(self.told[job_id]) + 1
        event = Event(
            seq=seq,
            id=f"ftevent-{seq}",
            job=job_id,
            created_at=1_700_000_000 + seq,
            level=level,
            type=kind,
            message=message,
            data=data,
        )
        self.told[job_id].append(event)
        return event

    def step(self, job_id: str, step: int, total: int, loss: float) -> None:
        self.change(job_id, step=step, total_steps=total)
        data = {"step": step, "total_steps": total, "train_loss": loss, "tokens_per_second": 4321.0}
        message = f"Step {step}/{total}: training loss={loss:.2f}"
        self.tell(job_id, message, kind="metrics", data=data)

    def finish(self, job_id: str, state: State, **changes: Any) -> None:
        self.change(job_id, state=state, finished_at=1_700_001_000, wait_reason=None, **changes)

    async def get(self, actor: Actor, job_id: str) -> Job:
        if job_id not in self.rows:
            raise no_such_job(job_id)
        return self.rows[job_id]

    async def list(
        self, actor: Actor, *, after: str | None, limit: int | None, metadata: MetadataFilter | None
    ) -> Page[Job]:
        wanted = (metadata or MetadataFilter()).pairs.items()
        rows = [row for row in self.rows.values() if wanted <= (row.metadata or {}).items()]
        return newest(rows, after, limit, 20)

    async def cancel(self, actor: Actor, job_id: str) -> Job:
        self._open(await self.get(actor, job_id))
        self.finish(job_id, State.CANCELLED)
        return self.rows[job_id]

    async def pause(self, actor: Actor, job_id: str) -> Job:
        job = self._open(await self.get(actor, job_id))
        if job.state is State.QUEUED:
            return self.change(job_id, want=Want.PAUSE, state=State.PAUSED, wait_reason=None)
        return self.change(job_id, want=Want.PAUSE)

    async def resume(self, actor: Actor, job_id: str) -> Job:
        job = self._open(await self.get(actor, job_id))
        state = State.QUEUED if job.state is State.PAUSED else job.state
        return self.change(job_id, want=Want.RUN, state=state)

    def _open(self, job: Job) -> Job:
        if job.final:
            raise FtdError(
                Kind.CONFLICT, f"Job has already completed: {job.id}", param="fine_tune_id"
            )
        return job

    async def events(
        self, actor: Actor, job_id: str, *, after: str | None, limit: int | None
    ) -> Page[Event]:
        await self.get(actor, job_id)
        return newest(self.told[job_id], after, limit, 20)

    async def checkpoints(
        self, actor: Actor, job_id: str, *, after: str | None, limit: int | None
    ) -> Page[Checkpoint]:
        await self.get(actor, job_id)
        return newest(self.saved[job_id], after, limit, 10)

    async def watch(self, actor: Actor, job_id: str, *, after: str | None) -> AsyncIterator[Event]:
        await self.get(actor, job_id)
        next_ = [event.id for event in self.told[job_id]].index(after) + 1 if after else 0
        self.watching += 1
        try:
            while True:
                over = self.rows[job_id].state in FINAL
                for event in self.told[job_id][next_:]:
                    next_ += 1
                    yield event
                if over:
                    return
                await asyncio.sleep(TICK_S)
        finally:
            self.watching -= 1

    async def logs(self, actor: Actor, job_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        await self.get(actor, job_id)
        yield self.logged.get(job_id, b"")
        while follow and not self.rows[job_id].final:  # noqa: ASYNC110  # a fake's bell
            await asyncio.sleep(TICK_S)


@dataclass
class FakeFiles:
    """Checks that a line is JSON, and nothing else; calls a line of `not json` not JSONL at all."""

    rows: dict[str, File] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    open_uploads: int = 0
    uploads: int = 0
    limit_bytes: int = 2**24

    def upload(self, actor: Actor, *, expected_bytes: int | None = None) -> "FakeUpload":
        return FakeUpload(self, actor, expected_bytes)

    def add(self, file_id: str, content: bytes, *, purpose: str = "fine-tune", **more: Any) -> File:
        self.contents[file_id] = content
        self.rows[file_id] = File(
            **{
                "seq": len(self.rows) + 1,
                "id": file_id,
                "project": "default",
                "purpose": purpose,
                "filename": "data.jsonl",
                "bytes": len(content),
                "sha256": "0" * 64,
                "created_at": int(time.time()),
                "status": FileStatus.PROCESSED,
                **more,
            }
        )
        return self.rows[file_id]

    def add_results(self, job_id: str, csv: str) -> File:
        return self.add(
            f"file-{job_id}", csv.encode(), purpose=RESULTS, filename="step_metrics.csv"
        )

    async def list(
        self,
        actor: Actor,
        *,
        purpose: str | None,
        after: str | None,
        limit: int | None,
        order: str | None,
    ) -> Page[File]:
        rows = [row for row in self.rows.values() if purpose in (None, row.purpose)]
        return newest(rows if order != "asc" else rows[::-1], after, limit, 10_000)

    async def get(self, actor: Actor, file_id: str) -> File:
        if file_id not in self.rows:
            raise no_such_file(file_id)
        return self.rows[file_id]

    async def delete(self, actor: Actor, file_id: str) -> None:
        await self.get(actor, file_id)
        del self.rows[file_id], self.contents[file_id]

    async def content(self, actor: Actor, file_id: str) -> BinaryIO:
        await self.get(actor, file_id)
        return io.BytesIO(self.contents[file_id])


class FakeUpload:
    def __init__(self, files: FakeFiles, actor: Actor, expected_bytes: int | None) -> None:
        self._files = files
        self._expected = expected_bytes or 0
        self.data = bytearray()

    async def __aenter__(self) -> Self:
        self._refuse(self._expected)
        self._files.open_uploads += 1
        self._files.uploads += 1
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.open_uploads -= 1

    async def write(self, data: bytes) -> None:
        self.data += data
        self._refuse(len(self.data))

    async def finish(
        self,
        *,
        filename: str,
        purpose: str,
        expires_after_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> File:
        lines = bytes(self.data).splitlines()
        if lines[:1] == [b"not json"]:
            raise invalid("Expected file to have JSONL format.")
        faults = [
            {
                "line": number,
                "example": number,
                "offset": 0,
                "path": "",
                "code": "invalid_json",
                "message": f"Example {number} cannot be parsed.",
                "fix": "Write JSON.",
            }
            for number, line in enumerate(lines, start=1)
            if not _is_json(line)
        ]
        return self._files.add(
            f"file-{self._files.uploads}",
            bytes(self.data),
            purpose=purpose,
            filename=filename,
            expires_at=None if expires_after_s is None else int(time.time()) + expires_after_s,
            status=FileStatus.ERROR if faults else FileStatus.PROCESSED,
            report={
                "format": "chat",
                "examples": len(lines) - len(faults),
                "lines": len(lines),
                "faults": faults,
                "fault_count": len(faults),
                "warnings": [],
                "statistics": {"turns": 2 * len(lines), "characters": 1234},
            },
        )

    def _refuse(self, size: int) -> None:
        if size > self._files.limit_bytes:
            raise FtdError(Kind.TOO_LARGE, "The file is too large.", param="file")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class FakeNode:
    broken = False

    async def devices(self, actor: Actor) -> tuple[Reading, ...]:
        if self.broken:
            raise RuntimeError("a secret of the house")
        gpu = Device(id="GPU-1", kind="cuda", name="A card", memory_bytes=24 * 2**30)
        cpu = Device(id="cpu", kind="cpu", name="A processor", memory_bytes=8 * 2**30)
        busy = Reading(
            device=gpu,
            used_bytes=6 * 2**30,
            utilization=0.5,
            temperature_celsius=61.0,
            power_watts=200.0,
            holder="ftjob-1",
        )
        return busy, Reading(device=cpu, serves=("smollm2", "other"))


class FakeDoor:
    def __init__(self, home: Path) -> None:
        self.keys = FakeKeys()
        self.files = FakeFiles()
        self.models = FakeModels()
        self.models.put(BASE)
        self.jobs = FakeJobs(self.files, self.models)
        self.node = FakeNode()
        self.chat = FakeChat(self.models)
        self.settings = Settings(home=home)
        self.rates = Rates(self.settings.limits.requests_per_minute, time.monotonic)
