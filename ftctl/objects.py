"""The daemon's messages as the REST API's JSON objects.

Jobs, events, checkpoints and files are REST's, key for key; models, devices and keys say more, for
which REST has no place.
"""

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from ftd.v1 import files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2

Object = dict[str, Any]


def job(message: jobs_pb2.Job) -> Object:
    hyperparameters = {
        name: optional(message.hyperparameters, name, "auto")
        for name in ("n_epochs", "batch_size", "learning_rate_multiplier")
    }
    return {
        "id": message.id,
        "object": "fine_tuning.job",
        "created_at": message.created_at,
        "finished_at": optional(message, "finished_at"),
        "estimated_finish": optional(message, "estimated_finish"),
        "model": message.model,
        "fine_tuned_model": optional(message, "fine_tuned_model"),
        "organization_id": message.organization_id,
        "status": message.status,
        "training_file": message.training_file,
        "validation_file": optional(message, "validation_file"),
        "result_files": list(message.result_files),
        "trained_tokens": optional(message, "trained_tokens"),
        "hyperparameters": hyperparameters,
        "method": {
            "type": message.method,
            message.method: {"hyperparameters": dict(hyperparameters)},
        },
        "error": _job_error(message.error) if message.HasField("error") else None,
        "seed": message.seed,
        "integrations": [],
        "metadata": dict(message.metadata) if message.has_metadata else None,
        "user_provided_suffix": optional(message, "suffix"),
        "priority": message.priority,
        "wait_reason": optional(message, "wait_reason"),
        "phase": optional(message, "phase"),
        "fine_tuned_model_sha256": optional(message, "fine_tuned_model_sha256"),
    }


def event(message: jobs_pb2.Event) -> Object:
    return {
        "id": message.id,
        "object": "fine_tuning.job.event",
        "created_at": message.created_at,
        "level": message.level,
        "message": message.message,
        "type": message.type,
        "data": struct(message.data) if message.HasField("data") else None,
    }


def checkpoint(message: jobs_pb2.Checkpoint) -> Object:
    return {
        "id": message.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": message.created_at,
        "fine_tuning_job_id": message.fine_tuning_job_id,
        "fine_tuned_model_checkpoint": message.fine_tuned_model_checkpoint,
        "step_number": message.step_number,
        "metrics": {name: _number(held) for name, held in sorted(message.metrics.items())},
    }


def file(message: files_pb2.File) -> Object:
    return {
        "id": message.id,
        "object": "file",
        "bytes": message.bytes,
        "created_at": message.created_at,
        "expires_at": optional(message, "expires_at"),
        "filename": message.filename,
        "purpose": message.purpose,
        "status": message.status,
        "status_details": optional(message, "status_details"),
    }


def model(message: models_pb2.Model) -> Object:
    return {
        "id": message.id,
        "object": "model",
        "created": message.created_at,
        "owned_by": message.owned_by,
        "shutdown_date": None,
        "kind": message.kind,
        "base": message.base,
        "job_id": optional(message, "job_id"),
        "path": message.path,
        "sha256": message.sha256,
        "architecture": message.architecture or None,
        "parameters": message.parameters or None,
        "context_tokens": message.context_tokens or None,
    }


def device(message: node_pb2.Device) -> Object:
    return {
        "id": message.id,
        "object": "device",
        "kind": message.kind,
        "name": message.name,
        "memory_bytes": message.memory_bytes,
        "used_bytes": optional(message, "used_bytes"),
        "utilization": optional(message, "utilization"),
        "temperature_celsius": optional(message, "temperature_celsius"),
        "power_watts": optional(message, "power_watts"),
        "job_id": optional(message, "job_id"),
        "models": list(message.models),
        "withheld": optional(message, "withheld"),
    }


def key(message: keys_pb2.Key) -> Object:
    return {
        "id": message.id,
        "object": "key",
        "name": message.name,
        "project": message.project,
        "scopes": list(message.scopes),
        "created_at": message.created_at,
        "expires_at": optional(message, "expires_at"),
        "last_used_at": optional(message, "last_used_at"),
        "revoked_at": optional(message, "revoked_at"),
    }


def listing(rows: Iterable[Object]) -> Object:
    """A list that has no pages."""
    return {"object": "list", "data": list(rows)}


def page(rows: Iterable[Object], has_more: bool) -> Object:
    """A page of jobs or events."""
    return {**listing(rows), "has_more": has_more}


def page_with_ends(rows: Iterable[Object], has_more: bool) -> Object:
    """A page of files or checkpoints, which also names its first and last."""
    found = listing(rows)
    data = found["data"]
    ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {**found, "first_id": ends[0], "last_id": ends[1], "has_more": has_more}


def optional(message: Message, name: str, absent: Any = None) -> Any:
    """A field that may be unset."""
    return getattr(message, name) if message.HasField(name) else absent


def struct(message: Struct) -> Object:
    return {key: _value(held) for key, held in message.fields.items()}


def _value(message: Value) -> Any:
    match message.WhichOneof("kind"):
        case "number_value":
            return _number(message.number_value)
        case "string_value":
            return message.string_value
        case "bool_value":
            return message.bool_value
        case "struct_value":
            return struct(message.struct_value)
        case "list_value":
            return [_value(item) for item in message.list_value.values]
        case _:
            return None


def _number(value: float) -> float | int:
    """Protobuf's JSON has doubles alone; a whole one was an integer."""
    return int(value) if value.is_integer() else value


def _job_error(message: jobs_pb2.JobError) -> Object:
    return {"code": message.code, "message": message.message, "param": optional(message, "param")}
