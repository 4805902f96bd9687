"""What an attempt is told: the spec, resolved once per job, and the inputs that go with it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftd.config import Settings, Training
from ftd.core.device import Device
from ftd.core.errors import invalid, no_such_model
from ftd.core.job import Attempt, Job
from ftd.core.models import Model, is_full, unfit
from ftd.core.spec import Optimizer, TrainSpec
from ftd.host.home import Home
from ftd.launch.base import Assignment
from ftd.runner.manifest import manifest_sha256
from ftd.store import attempts, checkpoints, events, jobs, models
from ftd.store.checkpoints import ResumePoint
from ftd.store.db import Transaction
from ftd.store.store import Store

MIN_PASS = 8  # tokens: what the configuration allows at least


@dataclass(frozen=True, slots=True)
class Plan:
    spec: TrainSpec
    assignment: Assignment


async def plan(
    store: Store, settings: Settings, home: Home, job: Job, attempt: Attempt, device: Device
) -> Plan:
    """Resolve what the job's first attempt resolves, or take it over from then.

    Raises FtdError when a model that the job needs is gone, or cannot be gone on from.
    """
    given = await models.any_named(store.db, job.model)
    base = await models.any_named(store.db, job.base)
    if given is None or base is None:
        raise no_such_model(job.model if given is None else job.base)
    training = settings.training_of(job.base)
    kept = await jobs.spec(store.db, job.id)
    if kept is None and (reason := unfit(given, full=training.full)) is not None:
        raise invalid(reason, code="model_not_available", param="model")
    points = await _resume_points(store, home, job)
    spec = (
        _spec(training, job, given, base, device)
        if kept is None
        else TrainSpec.model_validate_json(kept)
    )
    resume = [f"in/{name}" for name in _names(points)]
    spec = spec.model_copy(
        update={
            "attempt": attempt.number,
            "resume": resume[0] if resume else None,
            "resume_else": tuple(resume[1:]),
            "checkpoint_every_steps": training.checkpoint_every_steps,
            "checkpoint_every_s": 60 * training.checkpoint_every_minutes,
        }
    )
    if kept is None:
        await store.db.write(lambda tx: jobs.keep_spec(tx, job.id, spec.model_dump_json()))
    if await attempts.starvations(store.db, job.id):
        spec = _smaller(spec)
    return Plan(
        spec=spec,
        assignment=Assignment(
            job=job.id,
            attempt=attempt.number,
            spec=spec.model_dump_json().encode(),
            inputs=_inputs(home, job, given, base, points),
            devices=(device,),
        ),
    )


def _spec(training: Training, job: Job, given: Model, base: Model, device: Device) -> TrainSpec:
    assert job.hyperparameters is not None, f"{job.id} is queued without hyperparameters"
    full = training.full
    peak = training.full_learning_rate if full else training.lora_learning_rate
    return TrainSpec(
        job=job.id,
        attempt=1,
        seed=job.seed,
        model_name=job.base,
        adapter="in/adapter" if not is_full(given) else None,
        validation_file="in/validation.jsonl" if job.validation_file else None,
        n_epochs=job.hyperparameters.n_epochs,
        batch_size=job.hyperparameters.batch_size,
        optimizer=Optimizer(
            learning_rate=peak * job.hyperparameters.learning_rate_multiplier,
            warmup_ratio=training.warmup_ratio,
            weight_decay=training.weight_decay,
            clip_norm=training.clip_norm,
        ),
        lora=None if full else training.lora,
        context_tokens=min(training.context_tokens, context_tokens(base)),
        micro_batch_tokens=training.micro_batch_tokens,
        memory_bytes=device.memory_bytes // 2 if device.shared else device.memory_bytes,
        device="cuda" if device.kind == "cuda" else "cpu",
        dtype=dtype(training, device),
        threads=training.threads,
    )


def _smaller(spec: TrainSpec) -> TrainSpec:
    """With half the memory for a pass, because the host has run out of it. The batch stays."""
    tokens = max(spec.micro_batch_tokens // 2, MIN_PASS)
    memory = None if spec.memory_bytes is None else spec.memory_bytes // 2
    return spec.model_copy(update={"micro_batch_tokens": tokens, "memory_bytes": memory})


def dtype(training: Training, device: Device) -> Literal["float32", "bfloat16"]:
    """What a job computes in on this device."""
    if training.dtype != "auto":
        return training.dtype
    return "bfloat16" if device.kind == "cuda" else "float32"


def context_tokens(base: Model) -> int:
    """The base model's own limit, from its registered facts."""
    value = (base.facts or {}).get("context_tokens")
    return value if isinstance(value, int) and value > 0 else 2**31


def _inputs(
    home: Home, job: Job, given: Model, base: Model, points: Sequence[ResumePoint]
) -> dict[str, Path]:
    inputs = {"training.jsonl": home.file(job.training_file)}
    if job.validation_file:
        inputs["validation.jsonl"] = home.file(job.validation_file)
    if not is_full(given):
        inputs["adapter"] = home.root / given.path
        inputs["model"] = home.root / base.path
    else:
        inputs["model"] = home.root / given.path
    places = [home.root / point.path for point in points]
    return inputs | dict(zip(_names(points), places, strict=True))


def _names(points: Sequence[ResumePoint]) -> list[str]:
    """What the checkpoints to go on from are called among the inputs."""
    return ["resume", *(f"resume-{point.step}" for point in points[1:])][: len(points)]


async def _resume_points(store: Store, home: Home, job: Job) -> tuple[ResumePoint, ...]:
    """The checkpoints whose manifest is the one that was published, newest first.

    The trainer hashes their files, gigabytes perhaps, and goes on from the first that is whole:
    they are linked to it, so that more of them cost nothing. People are told of those lost.
    """
    points = await checkpoints.resume_points(store.db, job.id)
    found = await asyncio.to_thread(
        lambda: [manifest_sha256(home.root / point.path) for point in points]
    )
    judged = list(zip(points, found, strict=True))
    lost = [point.step for point, sha256 in judged if sha256 != point.sha256]
    if lost:
        await store.db.write(lambda tx: _note_lost(store, tx, job.id, lost), about=(job.id,))
    return tuple(point for point, sha256 in judged if sha256 == point.sha256)


def _note_lost(store: Store, tx: Transaction, job_id: str, steps: Sequence[int]) -> None:
    for step in steps:
        message = (
            f"The checkpoint of step {step} is damaged: its manifest is missing or is not the one "
            "that was published. It is not used."
        )
        if not events.told(tx, job_id, message):
            store.tell(tx, job_id, message, level="warn")
        checkpoints.forget(tx, job_id, step)
