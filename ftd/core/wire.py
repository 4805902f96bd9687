"""The protocol between daemon and worker: everything either can say, once.

Facts go up and commands go down, each one JSON line of at most LINE_BYTES (PIPE_BUF, so lines of
several threads never interleave). The union is closed: an unknown kind is refused, and a new
field of a known kind has a default, so that the next release reads an old worker's spool.

    right:  report(Step(step=7, loss=1.2, ...))         on the descriptor made for facts
    wrong:  print('{"kind": "step", ...}')              stdout is noise for the log

Rates: a fast trainer says 20 steps a second of 300 bytes each, 6 kB/s; nothing is said per token.
"""

import math
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

VERSION = 1
LINE_BYTES = 4096

# Facts that may be lost with the last pipe contents of a power cut; all others are fsynced.
SAMPLED = frozenset({"step", "phase"})


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Started(_Message):
    """The worker is up, its imports done; it waits for a command."""

    kind: Literal["started"] = "started"
    version: int = VERSION
    pid: int
    libraries: dict[str, str] = {}


class Accepted(_Message):
    """The worker has its assignment and holds its locks; the attempt counts as started."""

    kind: Literal["accepted"] = "accepted"
    job: str
    attempt: int


class Phase(_Message):
    """What the worker is busy with: loading, tokenizing, training, saving."""

    kind: Literal["phase"] = "phase"
    name: str


class Notice(_Message):
    """Something people should read: an event of type message."""

    kind: Literal["notice"] = "notice"
    level: Literal["info", "warn", "error"] = "info"
    message: str
    data: dict[str, float | int | str | None] | None = None


class Prepared(_Message):
    """The data is tokenised and the plan is known."""

    kind: Literal["prepared"] = "prepared"
    examples: int
    validation_examples: int = 0
    truncated: int = 0
    skipped: int = 0
    epoch_tokens: int  # input tokens of one epoch, after truncation
    steps_per_epoch: int
    total_steps: int
    trainable_parameters: int = 0


class Resumed(_Message):
    """Training goes on after `step`, from a verified checkpoint."""

    kind: Literal["resumed"] = "resumed"
    step: int


class Step(_Message):
    """One optimizer step. Losses are nats per token; accuracies are 0..1."""

    kind: Literal["step"] = "step"
    step: int
    total_steps: int
    train_loss: float | None = None  # None: not a number; None is not sent
    train_mean_token_accuracy: float | None = None
    learning_rate: float
    grad_norm: float | None = None
    tokens: int  # input tokens of this step
    loss_tokens: int
    seconds: float
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class Saved(_Message):
    """A checkpoint is published under `path` (relative to the run's out directory).

    `contents` names the directory in it that holds the model. One that was not saved at the end
    of an epoch is a resume point, not a model.
    """

    kind: Literal["saved"] = "saved"
    step: int
    epoch: int
    path: str
    manifest_sha256: str
    contents: Literal["adapter", "model"] = "adapter"
    epoch_end: bool = True


class Done(_Message):
    """Training is complete; the checkpoint of `step` is the final model."""

    kind: Literal["done"] = "done"
    step: int
    trained_tokens: int


class Stopped(_Message):
    """The worker ended because it was asked to, after `step`."""

    kind: Literal["stopped"] = "stopped"
    step: int


class Ready(_Message):
    """An inference worker has loaded its model and listens on out/serve.sock."""

    kind: Literal["ready"] = "ready"
    context_tokens: int  # the smaller of the spec's and the model's


class Failed(_Message):
    """The worker gives up. `code` and `message` become the job's error."""

    kind: Literal["failed"] = "failed"
    code: str
    message: str
    param: str | None = None


Fact = Annotated[
    Started
    | Accepted
    | Phase
    | Notice
    | Prepared
    | Resumed
    | Step
    | Saved
    | Done
    | Stopped
    | Ready
    | Failed,
    Field(discriminator="kind"),
]


class Assign(_Message):
    """Take this job: read `spec` (relative to the run directory) and begin.

    `gpus` are the UUIDs of those that the worker may see; None: those that its environment names.
    The shim sends the descriptors of the job's and devices' locks along with this line.
    """

    kind: Literal["assign"] = "assign"
    job: str
    attempt: int
    spec: str = "in/spec.json"
    gpus: tuple[str, ...] | None = None


class Stop(_Message):
    """End at the next step boundary, saving a checkpoint first if `save`."""

    kind: Literal["stop"] = "stop"
    save: bool = False


Command = Annotated[Assign | Stop, Field(discriminator="kind")]

_FACT: TypeAdapter[Fact] = TypeAdapter(Fact)
_COMMAND: TypeAdapter[Command] = TypeAdapter(Command)


_T = TypeVar("_T")


class WireError(ValueError):
    """A line that is not of this protocol."""


def encode(message: BaseModel) -> bytes:
    """One line, newline included. Raises WireError when it is longer than LINE_BYTES."""
    line = message.model_dump_json(exclude_none=True).encode() + b"\n"
    if len(line) > LINE_BYTES:
        raise WireError(f"a {type(message).__name__} of {len(line)} bytes exceeds {LINE_BYTES}")
    return line


def decode_fact(line: bytes) -> Fact:
    """Raises WireError for a line that is too long, not JSON, or of an unknown kind."""
    return _decode(_FACT, line)


def decode_command(line: bytes) -> Command:
    """Raises WireError, as decode_fact does."""
    return _decode(_COMMAND, line)


def _decode(adapter: TypeAdapter[_T], line: bytes) -> _T:
    if len(line) > LINE_BYTES:
        raise WireError(f"a line of {len(line)} bytes exceeds {LINE_BYTES}")
    return parse(adapter, line)


def parse(adapter: TypeAdapter[_T], line: bytes) -> _T:
    """The message of a line, however long. Raises WireError that names the first fault."""
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WireError(f"what makes no sense: {where}: {first['msg']}") from error


def finite(value: float) -> float | None:
    """JSON has no NaN: a loss that is not a number is told as None."""
    return value if math.isfinite(value) else None
