"""What an attempt is told: the spec, resolved once per job, and the inputs that go with it."""

import hashlib
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
from ftd.store import checkpoints, jobs, models
from ftd.store.store import Store


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
    resume = await _resume_point(store, home, job)
    spec = (
        _spec(training, job, given, base, device)
        if kept is None
        else TrainSpec.model_validate_json(kept)
    )
    spec = spec.model_copy(
        update={"attempt": attempt.number, "resume": None if resume is None else "in/resume"}
    )
    if kept is None:
        await store.db.write(lambda tx: jobs.keep_spec(tx, job.id, spec.model_dump_json()))
    return Plan(
        spec=spec,
        assignment=Assignment(
            job=job.id,
            attempt=attempt.number,
            spec=spec.model_dump_json().encode(),
            inputs=_inputs(home, job, given, base, resume),
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
    home: Home, job: Job, given: Model, base: Model, resume: Path | None
) -> dict[str, Path]:
    inputs = {"training.jsonl": home.file(job.training_file)}
    if job.validation_file:
        inputs["validation.jsonl"] = home.file(job.validation_file)
    if not is_full(given):
        inputs["adapter"] = home.root / given.path
        inputs["model"] = home.root / base.path
    else:
        inputs["model"] = home.root / given.path
    if resume is not None:
        inputs["resume"] = resume
    return inputs


async def _resume_point(store: Store, home: Home, job: Job) -> Path | None:
    """The newest checkpoint whose manifest is the one that was published."""
    for point in await checkpoints.resume_points(store.db, job.id):
        directory = home.root / point.path
        if manifest_sha256(directory) == point.sha256:
            return directory
    return None


def manifest_sha256(checkpoint: Path) -> str | None:
    """The hash of a checkpoint's manifest, or None where there is none. The files that it names
    are hashed by whoever loads them."""
    try:
        return hashlib.sha256((checkpoint / "MANIFEST.json").read_bytes()).hexdigest()
    except OSError:
        return None
