"""The end of a good attempt: its last checkpoint becomes the tuned model, its steps the CSV.

The bytes come first and the rows after, so every crash in between is mended by doing it again.
"""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ftd.core import wire
from ftd.core.file import RESULTS, File, FileStatus
from ftd.core.job import Attempt, JobError
from ftd.core.models import FULL, Model, ModelKind
from ftd.core.results import FILENAME, render
from ftd.host import blobs
from ftd.host.home import Home
from ftd.store import checkpoints, events, jobs
from ftd.store.store import Store


async def publish(store: Store, home: Home, attempt: Attempt, done: wire.Done) -> None:
    """Publish the model of step `done.step` and the result file, then move the job."""
    job = await jobs.get(store.db, attempt.job)
    assert job is not None
    if job.final:
        await store.stopped(attempt)
        return
    point = await checkpoints.at_step(store.db, job.id, done.step)
    if point is None:
        message = f"The trainer said that it was done, and has no checkpoint of step {done.step}."
        await store.failed(attempt, JobError(code="protocol_error", message=message))
        return
    source = _contents(home.root / point.path)
    target = home.adapter(job.minted)
    try:
        sha256 = await asyncio.to_thread(_publish_model, source, target)
    except (FileNotFoundError, ValueError) as error:
        message = f"The checkpoint of step {done.step} holds no model that can be kept: {error}"
        await store.failed(attempt, JobError(code="protocol_error", message=message))
        return
    csv = await asyncio.to_thread(_csv, await events.all_steps(store.db, job.id))
    file_id = store.ids.file()
    await asyncio.to_thread(_publish_file, csv, home.file(file_id), home.incoming)
    now = store.clock.now()
    succeeded = await store.succeed(
        attempt,
        model=Model(
            name=job.minted,
            project=job.project,
            kind=ModelKind.TUNED,
            base=job.base,
            path=str(target.relative_to(home.root)),
            sha256=sha256,
            created_at=now,
            job=job.id,
            facts={"form": FULL if source.name == "model" else source.name},
        ),
        result=File(
            seq=0,
            id=file_id,
            project=job.project,
            purpose=RESULTS,
            filename=FILENAME,
            bytes=len(csv),
            sha256=hashlib.sha256(csv).hexdigest(),
            created_at=now,
            status=FileStatus.PROCESSED,
        ),
        trained_tokens=done.trained_tokens,
    )
    if not succeeded:
        await asyncio.to_thread(shutil.rmtree, target)
        home.file(file_id).unlink()


def _contents(checkpoint: Path) -> Path:
    """The model inside a checkpoint: an adapter, or every weight."""
    adapter = checkpoint / "adapter"
    return adapter if adapter.is_dir() else checkpoint / "model"


def _publish_model(source: Path, target: Path) -> str:
    """Put the model at its place, whole or not at all; returns its hash.

    Raises ValueError for links, pipes and devices in it, FileNotFoundError where there is none.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if not target.exists():
        if source.is_symlink():
            raise ValueError(f"{source} is a symbolic link")
        try:
            blobs.link_or_copy(source, temporary)
            blobs.publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return blobs.tree_sha256(target)


def _csv(steps: Sequence[str]) -> bytes:
    """A hundred thousand steps are a second of work, in which the loop must answer others."""
    return render(map(json.loads, steps)).encode()


def _publish_file(content: bytes, target: Path, incoming: Path) -> None:
    temporary = incoming / target.name
    temporary.write_bytes(content)
    blobs.publish(temporary, target)
