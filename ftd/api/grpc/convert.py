"""Core values as protobuf messages, one function for each message.

Every function is total: what the rest of the house lets in, gRPC can say. Text that came through
JSON may hold lone surrogates, which protobuf refuses and `_text` replaces.
"""

from collections.abc import Mapping
from pathlib import Path

from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value

from ftd.core.device import Reading
from ftd.core.file import File
from ftd.core.hyperparams import Hyperparameters, Requested
from ftd.core.job import Checkpoint, Event, Job, JobError
from ftd.core.keys import Key
from ftd.core.models import Model
from ftd.service.files import status_details
from ftd.v1 import files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2

OWNER = "system"  # of base models; a tuned one belongs to the organization


def job(value: Job, organization: str) -> jobs_pb2.Job:
    resolved = value.hyperparameters
    return jobs_pb2.Job(
        id=value.id,
        created_at=value.created_at,
        finished_at=value.finished_at,
        estimated_finish=value.estimated_finish,
        model=value.model,
        fine_tuned_model=value.fine_tuned_model,
        fine_tuned_model_sha256=value.fine_tuned_model_sha256,
        organization_id=organization,
        status=value.state.value,
        training_file=value.training_file,
        validation_file=value.validation_file,
        result_files=[] if value.result_file is None else [value.result_file],
        trained_tokens=value.trained_tokens,
        hyperparameters=hyperparameters(resolved or value.requested),
        method=value.method,
        error=None if value.error is None else job_error(value.error),
        seed=value.seed,
        metadata={_text(key): _text(held) for key, held in (value.metadata or {}).items()},
        has_metadata=value.metadata is not None,
        suffix=None if value.suffix is None else _text(value.suffix),
        priority=value.priority,
        wait_reason=value.wait_reason,
        phase=value.doing,
        step=value.step,
        total_steps=value.total_steps,
        hyperparameter_reasons=resolved.reasons if resolved else (),
    )


def hyperparameters(value: Requested | Hyperparameters) -> jobs_pb2.Hyperparameters:
    """An absent field is "auto"."""
    return jobs_pb2.Hyperparameters(
        n_epochs=value.n_epochs,
        batch_size=value.batch_size,
        learning_rate_multiplier=value.learning_rate_multiplier,
    )


def requested(message: jobs_pb2.Hyperparameters) -> Requested:
    """The way back, of what a client asked for."""

    def given(name: str) -> bool:
        return message.HasField(name)

    return Requested(
        n_epochs=message.n_epochs if given("n_epochs") else None,
        batch_size=message.batch_size if given("batch_size") else None,
        learning_rate_multiplier=(
            message.learning_rate_multiplier if given("learning_rate_multiplier") else None
        ),
    )


def job_error(value: JobError) -> jobs_pb2.JobError:
    return jobs_pb2.JobError(code=value.code, message=_text(value.message), param=value.param)


def event(value: Event) -> jobs_pb2.Event:
    return jobs_pb2.Event(
        id=value.id,
        created_at=value.created_at,
        level=value.level,
        type=value.type,
        message=_text(value.message),
        data=None if value.data is None else struct(value.data),
    )


def checkpoint(value: Checkpoint) -> jobs_pb2.Checkpoint:
    return jobs_pb2.Checkpoint(
        id=value.id,
        created_at=value.created_at,
        fine_tuning_job_id=value.job,
        fine_tuned_model_checkpoint=value.model,
        step_number=value.step,
        metrics=dict(value.metrics),
    )


def file(value: File, *, report: bool = True) -> files_pb2.File:
    """Without `report` for listings, which would be megabytes with it."""
    return files_pb2.File(
        id=value.id,
        filename=_text(value.filename),
        purpose=value.purpose,
        bytes=value.bytes,
        created_at=value.created_at,
        status=value.status.value,
        status_details=_optional_text(status_details(value)),
        expires_at=value.expires_at,
        sha256=value.sha256,
        report=struct(value.report) if report and value.report is not None else None,
    )


def model(value: Model, *, home: Path, organization: str) -> models_pb2.Model:
    facts = value.facts or {}
    return models_pb2.Model(
        id=value.name,
        created_at=value.created_at,
        owned_by=organization if value.job else OWNER,
        kind=value.kind.value,
        base=value.base,
        sha256=value.sha256,
        job_id=value.job,
        path=str(home / value.path),
        architecture=_text(str(facts.get("architecture", ""))),
        parameters=_count(facts.get("parameters")),
        context_tokens=_count(facts.get("context_tokens")),
    )


def device(value: Reading) -> node_pb2.Device:
    return node_pb2.Device(
        id=value.device.id,
        kind=value.device.kind,
        name=_text(value.device.name),
        memory_bytes=value.device.memory_bytes,
        used_bytes=value.used_bytes,
        utilization=value.utilization,
        temperature_celsius=value.temperature_celsius,
        power_watts=value.power_watts,
        job_id=value.holder,
        models=map(_text, value.serves),
        withheld=value.withheld,
    )


def key(value: Key) -> keys_pb2.Key:
    """What is known of a key, which is not the key."""
    return keys_pb2.Key(
        id=value.id,
        name=_text(value.name),
        project=value.project,
        scopes=sorted(value.scopes),
        created_at=value.created_at,
        expires_at=value.expires_at,
        last_used_at=value.used_at,
        revoked_at=value.revoked_at,
    )


def struct(value: Mapping[str, object]) -> Struct:
    """JSON as protobuf has it: every number a double, exact up to 2**53."""
    message = Struct()
    for key, held in value.items():
        message.fields[_text(key)].CopyFrom(_value(held))
    return message


def _value(value: object) -> Value:
    match value:
        case None:
            return Value(null_value=NULL_VALUE)
        case bool():
            return Value(bool_value=value)
        case int() | float():
            return Value(number_value=value)
        case str():
            return Value(string_value=_text(value))
        case Mapping():
            return Value(struct_value=struct(value))
        case list() | tuple():
            message = Value()
            message.list_value.values.extend(_value(item) for item in value)
            return message
        case _:
            raise TypeError(f"a {type(value).__name__} is not JSON")


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()


def _optional_text(value: str | None) -> str | None:
    return None if value is None else _text(value)


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
