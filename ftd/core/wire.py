"""The protocol between daemon and worker: everything either can say, once.

Facts go up and commands go down, each one JSON line of at most LINE_BYTES (PIPE_BUF, so lines of
several threads never interleave). The union is closed: an unknown kind is refused, and a new
field of a known kind has a default, so that the next release reads an old worker's spool.

    right:  report(Step(step=7, loss=1.2, ...))         on the descriptor made for facts
    wrong:  print('{"kind": "step", ...}')              stdout is noise for the log

Every value is bounded, so that what is kept can be counted with, shown, and said in any JSON: a
trainer that says more says nonsense. What its facts say of each other, story.py judges.

Rates: a fast trainer says 20 steps a second of 300 bytes each, 6 kB/s; nothing is said per token.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

VERSION = 1
LINE_BYTES = 4096
FAULT_CHARACTERS = 300

FLOAT32_MAX = 3.4028234663852886e38  # no loss or norm is computed in anything wider

Count = Annotated[int, Field(ge=0, le=2**53)]  # exact in every JSON reader, and in a double
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
StepNumber = Annotated[int, Field(ge=0, le=10**9)]
Number = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
Ratio = Annotated[float, Field(ge=0, le=1.01)]  # sums in float32 end a hair above 1
Seconds = Annotated[float, Field(ge=0, le=1e7)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]

# Facts that may be lost with the last pipe contents of a power cut; all others are fsynced.
SAMPLED = frozenset({"step", "phase"})


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Started(_Message):
    """The worker is up, its imports done; it waits for a command."""

    kind: Literal["started"] = "started"
    version: Count = VERSION
    pid: Count
    libraries: dict[str, str] = {}


class Accepted(_Message):
    """The worker has its assignment and holds its locks; the attempt counts as started."""

    kind: Literal["accepted"] = "accepted"
    job: str
    attempt: Count


class Phase(_Message):
    """What the worker is busy with: loading, tokenizing, training, saving."""

    kind: Literal["phase"] = "phase"
    name: Word


class Notice(_Message):
    """Something people should read: an event of type message."""

    kind: Literal["notice"] = "notice"
    level: Literal["info", "warn", "error"] = "info"
    message: str
    data: dict[str, Whole | Number | str | None] | None = None


class Prepared(_Message):
    """The data is tokenised and the plan is known."""

    kind: Literal["prepared"] = "prepared"
    examples: Count
    validation_examples: Count = 0
    truncated: Count = 0
    skipped: Count = 0
    epoch_tokens: Count  # input tokens of one epoch, after truncation
    steps_per_epoch: StepNumber
    total_steps: StepNumber
    trainable_parameters: Count = 0


class Resumed(_Message):
    """Training goes on after `step`, from a verified checkpoint."""

    kind: Literal["resumed"] = "resumed"
    step: StepNumber


class Step(_Message):
    """One optimizer step. Losses are nats per token; accuracies are 0..1."""

    kind: Literal["step"] = "step"
    step: Annotated[StepNumber, Field(ge=1)]
    total_steps: Annotated[StepNumber, Field(ge=1)]
    train_loss: Number | None = None  # None: not a number; None is not sent
    train_mean_token_accuracy: Ratio | None = None
    learning_rate: Number
    grad_norm: Number | None = None
    tokens: Count  # input tokens of this step
    loss_tokens: Count
    seconds: Seconds
    valid_loss: Number | None = None
    valid_mean_token_accuracy: Ratio | None = None
    full_valid_loss: Number | None = None
    full_valid_mean_token_accuracy: Ratio | None = None


class Saved(_Message):
    """A checkpoint is published under `path` (relative to the run's out directory).

    `contents` names the directory in it that holds the model. One that was not saved at the end
    of an epoch is a resume point, not a model.
    """

    kind: Literal["saved"] = "saved"
    step: StepNumber
    epoch: StepNumber
    path: Annotated[str, Field(max_length=1024)]
    manifest_sha256: Annotated[str, Field(max_length=64)]
    contents: Literal["adapter", "model"] = "adapter"
    epoch_end: bool = True


class Done(_Message):
    """Training is complete; the checkpoint of `step` is the final model."""

    kind: Literal["done"] = "done"
    step: StepNumber
    trained_tokens: Count


class Stopped(_Message):
    """The worker ended because it was asked to, after `step`."""

    kind: Literal["stopped"] = "stopped"
    step: StepNumber


class Ready(_Message):
    """An inference worker has loaded its model and listens on out/serve.sock."""

    kind: Literal["ready"] = "ready"
    context_tokens: Count  # the smaller of the spec's and the model's


class Failed(_Message):
    """The worker gives up. `code` and `message` become the job's error."""

    kind: Literal["failed"] = "failed"
    code: Word
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
    attempt: Count
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
    return parse(adapter, line, strict=True)


def parse(adapter: TypeAdapter[_T], line: bytes, *, strict: bool = False) -> _T:
    """The message of a line, however long. Raises WireError that names the first fault.

    `strict` takes no number for a string of digits, and nothing else for what it only resembles.
    """
    try:
        return adapter.validate_json(line, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        told = f"{where}: {first['msg']}"[:FAULT_CHARACTERS]  # it may quote the line
        raise WireError(f"what makes no sense: {told}") from error


def finite(value: float) -> float | None:
    """JSON has no NaN: a loss that is not a number, or is beyond float32's, is told as None."""
    return value if abs(value) <= FLOAT32_MAX else None
