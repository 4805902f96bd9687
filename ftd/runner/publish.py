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
from ftd.core.errors import FtdError, Kind
from ftd.core.file import RESULTS, File, FileStatus
from ftd.core.job import CHECKPOINT_DAMAGED, Attempt, JobError
from ftd.core.models import FULL, Model, ModelKind
from ftd.core.results import FILENAME, render
from ftd.host import blobs
from ftd.host.home import Home
from ftd.runner import manifest
from ftd.runner.manifest import Damaged, Listed
from ftd.store import checkpoints, events, jobs
from ftd.store.checkpoints import ResumePoint
from ftd.store.store import Store


async def publish(store: Store, home: Home, attempt: Attempt, done: wire.Done) -> JobError | None:
    """Publish the model of step `done.step` and the result file, then move the job.

    Returns why the attempt is lost instead, and is not settled, where the model is damaged.
    """
    job = await jobs.get(store.db, attempt.job)
    assert job is not None
    if job.final:
        await store.stopped(attempt)
        return None
    point = await checkpoints.at_step(store.db, job.id, done.step)
    if point is None:
        message = f"The trainer said that it was done, and has no checkpoint of step {done.step}."
        await store.failed(attempt, JobError(code="protocol_error", message=message))
        return None
    target = home.adapter(job.minted)
    try:
        published = await asyncio.to_thread(_publish_model, home.root / point.path, point, target)
    except Damaged as damage:
        message = f"The checkpoint of step {done.step} is damaged: {damage}."
        return JobError(code=CHECKPOINT_DAMAGED, message=message)
    except ValueError as error:
        message = f"The checkpoint of step {done.step} holds no model that can be kept: {error}"
        await store.failed(attempt, JobError(code="protocol_error", message=message))
        return None
    csv = await asyncio.to_thread(_csv, await events.all_steps(store.db, job.id))
    file_id = store.ids.file()
    await asyncio.to_thread(_publish_file, csv, home.file(file_id), home.incoming)
    now = store.clock.now()
    model = Model(
        name=job.minted,
        project=job.project,
        kind=ModelKind.TUNED,
        base=job.base,
        path=str(target.relative_to(home.root)),
        sha256=published.sha256,
        created_at=now,
        job=job.id,
        facts={"form": FULL if published.form == "model" else published.form},
    )
    result = File(
        seq=0,
        id=file_id,
        project=job.project,
        purpose=RESULTS,
        filename=FILENAME,
        bytes=len(csv),
        sha256=hashlib.sha256(csv).hexdigest(),
        created_at=now,
        status=FileStatus.PROCESSED,
    )
    try:
        succeeded = await store.succeed(
            attempt, model=model, result=result, trained_tokens=done.trained_tokens
        )
    except Exception as error:
        # Settling again makes it again, under another id. Where the database has failed, nobody
        # knows whether a row names it: the next start looks.
        if not (isinstance(error, FtdError) and error.kind is Kind.UNAVAILABLE):
            home.file(file_id).unlink()
        raise
    if not succeeded:
        await asyncio.to_thread(shutil.rmtree, target)
        home.file(file_id).unlink()
    return None


def _publish_model(checkpoint: Path, point: ResumePoint, target: Path) -> Listed:
    """Put the model at its place, whole or not at all, as the checkpoint's manifest has it.

    Raises Damaged where it is not; ValueError for links, pipes and devices in it.
    """
    model = manifest.listed(checkpoint, point.sha256)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if target.exists():  # a daemon put it there, and ended
        try:
            manifest.verify(target, model)
            return model
        except Damaged:
            shutil.rmtree(target)
    source = checkpoint / model.form
    if source.is_symlink():
        raise ValueError(f"{source} is a symbolic link")
    if not source.is_dir():
        raise Damaged(f"its {model.form} is missing")
    try:
        blobs.link_or_copy(source, temporary)
        manifest.verify(temporary, model)
        blobs.publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return model


def _csv(steps: Sequence[str]) -> bytes:
    """A hundred thousand steps are a second of work, in which the loop must answer others."""
    return render(map(json.loads, steps)).encode()


def _publish_file(content: bytes, target: Path, incoming: Path) -> None:
    temporary = incoming / target.name
    try:
        temporary.write_bytes(content)
        blobs.publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
