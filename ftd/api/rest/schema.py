"""What we answer: OpenAI's objects, every required key always there, and a few keys of ours.

A client in strict mode accepts `error: null` and refuses `error: {}`, refuses a null for
`hyperparameters`, `organization_id` and `result_files`, and wants whole seconds. Ours beside
OpenAI's, on a job: `user_provided_suffix` (the real API sends it too), `priority`, `wait_reason`
(why it waits, a sentence), `phase` (what a running job does), `fine_tuned_model_sha256` (of all its
files: two jobs that show the same made the same).
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ftd.core import file as files
from ftd.core import job as jobs
from ftd.core import models
from ftd.core.hyperparams import Hyperparameters as Resolved
from ftd.core.hyperparams import Requested
from ftd.service.files import status_details
from ftd.service.page import Page

Auto = Literal["auto"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class Hyperparameters(_Answer):
    """ "auto" until the files are checked, numbers from then on."""

    n_epochs: int | Auto
    batch_size: int | Auto
    learning_rate_multiplier: float | Auto


class Supervised(_Answer):
    hyperparameters: Hyperparameters


class Method(_Answer):
    type: Literal["supervised"] = "supervised"
    supervised: Supervised


class JobError(_Answer):
    code: str
    message: str
    param: str | None


class Job(_Answer):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: jobs.State
    training_file: str
    validation_file: str | None
    result_files: tuple[str, ...]
    trained_tokens: int | None
    hyperparameters: Hyperparameters
    method: Method
    error: JobError | None
    seed: int
    integrations: tuple[()] = ()
    metadata: Mapping[str, str] | None
    user_provided_suffix: str | None
    priority: int
    wait_reason: str | None
    phase: str | None
    fine_tuned_model_sha256: str | None


class Event(_Answer):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: Mapping[str, Any] | None


class Checkpoint(_Answer):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: Mapping[str, int | float]


class File(_Answer):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: files.FileStatus
    status_details: str | None


class Model(_Answer):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    shutdown_date: None = None


class FileDeleted(_Answer):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class ModelDeleted(_Answer):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class JobList(_Answer):
    object: Literal["list"] = "list"
    data: tuple[Job, ...]
    has_more: bool


class EventList(_Answer):
    object: Literal["list"] = "list"
    data: tuple[Event, ...]
    has_more: bool


class CheckpointList(_Answer):
    object: Literal["list"] = "list"
    data: tuple[Checkpoint, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileList(_Answer):
    object: Literal["list"] = "list"
    data: tuple[File, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelList(_Answer):
    object: Literal["list"] = "list"
    data: tuple[Model, ...]


def job(row: jobs.Job, organization: str) -> Job:
    hyperparameters = _hyperparameters(row.hyperparameters or row.requested)
    error = row.error
    return Job(
        id=row.id,
        created_at=row.created_at,
        finished_at=row.finished_at,
        estimated_finish=row.estimated_finish,
        model=row.model,
        fine_tuned_model=row.fine_tuned_model,
        organization_id=organization,
        status=row.state,
        training_file=row.training_file,
        validation_file=row.validation_file,
        result_files=() if row.result_file is None else (row.result_file,),
        trained_tokens=row.trained_tokens,
        hyperparameters=hyperparameters,
        method=Method(supervised=Supervised(hyperparameters=hyperparameters)),
        error=error and JobError(code=error.code, message=error.message, param=error.param),
        seed=row.seed,
        metadata=row.metadata,
        user_provided_suffix=row.suffix,
        priority=row.priority,
        wait_reason=row.wait_reason,
        phase=row.doing,
        fine_tuned_model_sha256=row.fine_tuned_model_sha256,
    )


def event(row: jobs.Event) -> Event:
    return Event.model_validate(row, from_attributes=True)


def checkpoint(row: jobs.Checkpoint) -> Checkpoint:
    return Checkpoint(
        id=row.id,
        created_at=row.created_at,
        fine_tuning_job_id=row.job,
        fine_tuned_model_checkpoint=row.model,
        step_number=row.step,
        metrics=row.metrics,
    )


def file(row: files.File) -> File:
    return File(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        filename=row.filename,
        purpose=row.purpose,
        status=row.status,
        status_details=status_details(row),
    )


def model(row: models.Model, organization: str) -> Model:
    base = row.kind is models.ModelKind.BASE
    return Model(id=row.name, created=row.created_at, owned_by="system" if base else organization)


def job_list(page: Page[jobs.Job], organization: str) -> JobList:
    return JobList(data=tuple(job(row, organization) for row in page.data), has_more=page.has_more)


def event_list(page: Page[jobs.Event]) -> EventList:
    return EventList(data=tuple(map(event, page.data)), has_more=page.has_more)


def checkpoint_list(page: Page[jobs.Checkpoint]) -> CheckpointList:
    first, last = _ends(page.data)
    data = tuple(map(checkpoint, page.data))
    return CheckpointList(data=data, first_id=first, last_id=last, has_more=page.has_more)


def file_list(page: Page[files.File]) -> FileList:
    first, last = _ends(page.data)
    data = tuple(map(file, page.data))
    return FileList(data=data, first_id=first, last_id=last, has_more=page.has_more)


def _ends(
    rows: tuple[files.File, ...] | tuple[jobs.Checkpoint, ...],
) -> tuple[str, str] | tuple[None, None]:
    return (rows[0].id, rows[-1].id) if rows else (None, None)


def _hyperparameters(known: Resolved | Requested) -> Hyperparameters:
    """A requested None is "auto"; resolved ones have no None."""
    return Hyperparameters(
        n_epochs=known.n_epochs or "auto",
        batch_size=known.batch_size or "auto",
        learning_rate_multiplier=known.learning_rate_multiplier or "auto",
    )
