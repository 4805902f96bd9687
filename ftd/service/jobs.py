"""Fine-tuning jobs: every use case, with OpenAI's limits, defaults and errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from ftd.bell import Bell, wait
from ftd.config import Settings
from ftd.core.errors import FtdError, Kind, invalid, no_such_job
from ftd.core.file import FINE_TUNE
from ftd.core.hyperparams import MAX_BATCH, MAX_EPOCHS, Requested
from ftd.core.job import Attempt, Checkpoint, Event, Job, State
from ftd.core.models import MAX_SUFFIX, Model, tuned_name, unfit
from ftd.core.once import Once, Repeated
from ftd.host.space import Space
from ftd.host.tail import Tail
from ftd.launch.base import Launcher
from ftd.service import audit
from ftd.service.actor import Actor
from ftd.service.page import Page, clamp, cut
from ftd.service.veil import veiled
from ftd.store import attempts, checkpoints, events, files, idempotency, jobs, models
from ftd.store.db import Transaction
from ftd.store.store import Store

JOBS_PAGE = 20
EVENTS_PAGE = 20
CHECKPOINTS_PAGE = 10
METHODS = ("supervised",)
MAX_SEED = 2_147_483_647
MAX_MULTIPLIER = 1000  # of the learning rate
MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512  # of metadata
PRIORITIES = range(-1000, 1001)
WATCHED = 500  # events of one read
TICK_S = 5.0  # how late a lost ring can make a watcher
LOG_BYTES = 64 * 1024
LOG_TICK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateJob:
    """A request for a job; its values are checked here, its types were by the face."""

    model: str
    training_file: str
    validation_file: str | None = None
    requested: Requested = field(default_factory=Requested)
    method: str = "supervised"
    suffix: str | None = None
    seed: int | None = None
    metadata: Mapping[str, str] | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataFilter:
    """Jobs whose metadata has all these pairs, or none at all if `null`."""

    pairs: Mapping[str, str] = field(default_factory=dict)
    null: bool = False


class Jobs:
    """Create, look at, watch, pause and cancel jobs."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        launcher: Launcher,
        bell: Bell,
        space: Space,
    ) -> None:
        self._store = store
        self._settings = settings
        self._launcher = launcher
        self._bell = bell
        self._space = space
        self._watchers = 0

    @property
    def organization(self) -> str:
        return self._settings.organization

    async def create(self, actor: Actor, request: CreateJob, once: Once | None = None) -> Job:
        """Accept a job. Its files may still be processing; it waits for them. With `once`, the job
        that was created for the same request before, if any. Raises NO_SPACE while the disk is
        full."""
        check(request)
        if self._space.full:
            raise FtdError(Kind.NO_SPACE, "The disk of ftd's home is full; no job was created.")
        try:
            job = await self._store.create(lambda tx: self._job(tx, actor, request, once))
        except Repeated as before:
            job = await self.get(actor, before.made)
        audit.concerns(job.id)
        return job

    def _job(self, tx: Transaction, actor: Actor, request: CreateJob, once: Once | None) -> Job:
        """The job of a request, from what this transaction sees: a file that is deleted meanwhile
        was deleted before or after."""
        ids, now = self._store.ids, self._store.clock.now()
        job_id = ids.job()
        if once is not None:
            idempotency.claim(tx, actor.project, once, job_id, now)
        model = self._model(tx, actor, request.model)
        _check_file(tx, actor, request.training_file, "training_file")
        if request.validation_file is not None:
            _check_file(tx, actor, request.validation_file, "validation_file")
        return Job(
            seq=0,
            id=job_id,
            project=actor.project,
            created_at=now,
            model=model.name,
            base=model.base,
            minted=tuned_name(model.base, request.suffix, ids.model()),
            training_file=request.training_file,
            validation_file=request.validation_file,
            suffix=request.suffix,
            seed=ids.seed() if request.seed is None else request.seed,
            method=request.method,
            requested=request.requested,
            metadata=request.metadata,
            priority=request.priority,
            state=State.VALIDATING,
        )

    async def list(
        self,
        actor: Actor,
        *,
        after: str | None = None,
        limit: int | None = None,
        metadata: MetadataFilter | None = None,
    ) -> Page[Job]:
        """Newest first. An unknown cursor gives an empty page."""
        count = clamp(limit, JOBS_PAGE, self._settings.limits.page)
        wanted = metadata or MetadataFilter()
        rows = await jobs.page(
            self._store.db,
            actor.project,
            after=after or None,
            limit=count + 1,
            pairs=wanted.pairs,
            null_metadata=wanted.null,
        )
        return cut(await self._told(actor, rows), count)

    async def get(self, actor: Actor, job_id: str) -> Job:
        """One job. Raises NOT_FOUND, for another project's as for one that never was."""
        (job,) = await self._told(actor, (await self._own(actor, job_id),))
        return job

    async def _told(self, actor: Actor, found: tuple[Job, ...]) -> tuple[Job, ...]:
        """Jobs as their project sees them: what they wait for may be another's."""
        reasons = await veiled(self._store.db, actor.project, [job.wait_reason for job in found])
        return tuple(
            job if job.wait_reason == reason else replace(job, wait_reason=reason)
            for job, reason in zip(found, reasons, strict=True)
        )

    async def _own(self, actor: Actor, job_id: str) -> Job:
        job = await jobs.owned(self._store.db, actor.project, job_id)
        if job is None:
            raise no_such_job(job_id)
        return job

    async def cancel(self, actor: Actor, job_id: str) -> Job:
        """Cancelled at once; its trainer ends behind it. Raises CONFLICT for a job that is over."""
        audit.concerns(job_id)
        return await self._changed(actor, job_id, self._store.cancel)

    async def pause(self, actor: Actor, job_id: str) -> Job:
        """Paused at once if it has not begun; else `running` until its checkpoint is published.
        Again changes nothing. Raises CONFLICT for a job that is over."""
        audit.concerns(job_id)
        return await self._changed(actor, job_id, self._store.pause)

    async def resume(self, actor: Actor, job_id: str) -> Job:
        """Queued again, or when its trainer has stopped if it still pauses; a job that nobody has
        paused stays as it is. Raises CONFLICT for a job that is over."""
        audit.concerns(job_id)
        return await self._changed(actor, job_id, self._store.resume)

    async def _changed(
        self, actor: Actor, job_id: str, change: Callable[[str], Awaitable[Job | None]]
    ) -> Job:
        """The job after a change, unless it was over by then."""
        await self._own(actor, job_id)
        changed = await change(job_id)
        if changed is None:
            raise FtdError(
                Kind.CONFLICT, f"Job has already completed: {job_id}", param="fine_tune_id"
            )
        (job,) = await self._told(actor, (changed,))
        return job

    async def events(
        self, actor: Actor, job_id: str, *, after: str | None = None, limit: int | None = None
    ) -> Page[Event]:
        """Newest first."""
        await self._own(actor, job_id)
        count = clamp(limit, EVENTS_PAGE, self._settings.limits.page)
        rows = await events.page(self._store.db, job_id, after=after or None, limit=count + 1)
        return cut(rows, count)

    async def checkpoints(
        self, actor: Actor, job_id: str, *, after: str | None = None, limit: int | None = None
    ) -> Page[Checkpoint]:
        """Highest step first."""
        await self._own(actor, job_id)
        count = clamp(limit, CHECKPOINTS_PAGE, self._settings.limits.page)
        rows = await checkpoints.page(self._store.db, job_id, after=after or None, limit=count + 1)
        return cut(rows, count)

    async def watch(
        self, actor: Actor, job_id: str, *, after: str | None = None
    ) -> AsyncIterator[Event]:
        """Every event newer than `after`, oldest first, each once; ends when the job is over.

        Raises NOT_FOUND for an unknown job or cursor, UNAVAILABLE when too many watch.
        """
        await self._own(actor, job_id)
        seq = 0
        if after:
            known = await events.seq_of(self._store.db, job_id, after)
            if known is None:
                raise FtdError(Kind.NOT_FOUND, f"No such event: {after}", param="after")
            seq = known
        if self._watchers >= self._settings.limits.watchers:
            raise FtdError(Kind.UNAVAILABLE, "Too many event streams are open.")
        self._watchers += 1
        try:
            while True:
                heard = self._bell.listen(job_id)
                over = (await self._own(actor, job_id)).final
                rows = await events.since(self._store.db, job_id, seq, WATCHED)
                for event in rows:
                    seq = event.seq
                    yield event
                if len(rows) == WATCHED:
                    continue
                if over:
                    return
                await wait(heard, TICK_S)
        finally:
            self._watchers -= 1

    async def logs(
        self, actor: Actor, job_id: str, *, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """The newest attempt's log; with `follow`, those that come too, until the job is over."""
        await self._own(actor, job_id)
        seen = None
        while True:
            over = (await self._own(actor, job_id)).final
            attempt = await attempts.newest(self._store.db, job_id)
            if attempt is not None and attempt.launch != seen:
                seen = attempt.launch
                async for data in self._log_of(actor, attempt, follow and not over):
                    yield data
            elif over or not follow:
                return
            else:
                await asyncio.sleep(LOG_TICK_S)

    async def _log_of(self, actor: Actor, attempt: Attempt, follow: bool) -> AsyncIterator[bytes]:
        """One attempt's log; with `follow`, until the job is over or has another attempt."""
        with Tail(self._launcher.log(attempt.launch)) as tail:
            while True:
                over = (await self._own(actor, attempt.job)).final
                newest = await attempts.newest(self._store.db, attempt.job)
                while data := await asyncio.to_thread(tail.read, LOG_BYTES):
                    yield data
                if over or not follow or newest is None or newest.launch != attempt.launch:
                    return
                await asyncio.sleep(LOG_TICK_S)

    def _model(self, tx: Transaction, actor: Actor, name: str) -> Model:
        resolved = self._settings.aliases.get(name, name)
        model = models.find(tx, actor.project, resolved)
        if model is None:
            raise FtdError(
                Kind.INVALID,
                f"Model {name} is not available for fine-tuning or does not exist.",
                code="model_not_available",
                param="model",
            )
        training = self._settings.training_of(model.base)
        if (reason := unfit(model, full=training.full)) is not None:
            raise invalid(reason, code="model_not_available", param="model")
        return model


def _check_file(tx: Transaction, actor: Actor, file_id: str, param: str) -> None:
    purpose = files.purpose(tx, actor.project, file_id)
    if purpose is None:
        raise invalid(f"invalid {param}: {file_id}", code="invalid_file", param=param)
    if purpose != FINE_TUNE:
        raise invalid(
            f"invalid {param}: {file_id} has the purpose {purpose!r}, and must have {FINE_TUNE!r}",
            code="invalid_file",
            param=param,
        )


def check(request: CreateJob) -> None:
    """Every bound of a create request, in one place. Raises INVALID with the field at fault."""
    if request.method not in METHODS:
        raise invalid(
            f"method.type {request.method!r} is not supported; use 'supervised'.",
            param="method.type",
        )
    asked = request.requested
    where = "hyperparameters"
    if asked.n_epochs is not None and not 1 <= asked.n_epochs <= MAX_EPOCHS:
        raise invalid(f"n_epochs must be between 1 and {MAX_EPOCHS}.", param=f"{where}.n_epochs")
    if asked.batch_size is not None and not 1 <= asked.batch_size <= MAX_BATCH:
        raise invalid(f"batch_size must be between 1 and {MAX_BATCH}.", param=f"{where}.batch_size")
    multiplier = asked.learning_rate_multiplier
    if multiplier is not None and not 0 < multiplier <= MAX_MULTIPLIER:
        raise invalid(
            f"learning_rate_multiplier must be greater than 0 and at most {MAX_MULTIPLIER}.",
            param=f"{where}.learning_rate_multiplier",
        )
    if request.suffix is not None and not 1 <= len(request.suffix) <= MAX_SUFFIX:
        raise invalid(f"suffix must have 1 to {MAX_SUFFIX} characters.", param="suffix")
    if request.seed is not None and not 0 <= request.seed <= MAX_SEED:
        raise invalid(f"seed must be between 0 and {MAX_SEED}.", param="seed")
    if request.priority not in PRIORITIES:
        raise invalid("priority must be between -1000 and 1000.", param="priority")
    _check_metadata(request.metadata or {})


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > MAX_PAIRS:
        raise invalid(f"metadata has at most {MAX_PAIRS} pairs.", param="metadata")
    for key, value in metadata.items():
        if len(key) > MAX_KEY:
            raise invalid(f"a metadata key has at most {MAX_KEY} characters.", param="metadata")
        if len(value) > MAX_VALUE:
            raise invalid(
                f"a metadata value has at most {MAX_VALUE} characters.", param=f"metadata.{key}"
            )
