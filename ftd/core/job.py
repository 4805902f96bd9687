"""A job's states and the one table of moves between them.

    validating_files --> queued --> running --> succeeded
           |               |  ^        |
           |               v  |        +-----> failed
           |             paused <------+
           +--> failed, cancelled      +-----> queued (its trainer was lost: try again)

`state` is a fact and is moved by the engine; `want` is a wish and is set by people. Cancel is the
one move made at the door. The store derives its compare-and-set from MOVES, and no other
statement writes a state:

    right:  UPDATE jobs SET state = 'running' WHERE id = ? AND state IN (sources(RUNNING))
    wrong:  job = read(id); if job.state == QUEUED: UPDATE jobs SET state = 'running' WHERE id = ?
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ftd.core.hyperparams import Hyperparameters, Requested


class State(StrEnum):
    """OpenAI's own words."""

    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Want(StrEnum):
    """What people wish for a job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


_S = State
MOVES: Mapping[State, frozenset[State]] = {
    _S.VALIDATING: frozenset({_S.QUEUED, _S.FAILED, _S.CANCELLED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.PAUSED, _S.QUEUED}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
FINAL = frozenset(state for state, targets in MOVES.items() if not targets)


def sources(to: State) -> frozenset[State]:
    """The states from which a job may move to `to`."""
    return frozenset(state for state, targets in MOVES.items() if to in targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job failed: OpenAI's code, a sentence for people, and the field at fault."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of the truth. Times are Unix seconds."""

    seq: int
    id: str
    project: str
    created_at: int
    finished_at: int | None = None
    model: str  # as asked for, aliases resolved
    base: str  # the registered base model under it
    minted: str  # the name its tuned model will have
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int
    method: str = "supervised"
    requested: Requested
    hyperparameters: Hyperparameters | None = None  # known once the files are checked
    metadata: Mapping[str, str] | None = None
    priority: int = 0
    state: State
    want: Want = Want.RUN
    wait_reason: str | None = None
    phase: str | None = None
    error: JobError | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    result_file: str | None = None
    step: int = 0
    total_steps: int | None = None
    estimated_finish: int | None = None

    @property
    def final(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was told about a job, once. `seq` orders all events of all jobs."""

    seq: int
    id: str
    job: str
    created_at: int
    level: str  # info | warn | error
    type: str  # message | metrics
    message: str
    data: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A published checkpoint; `model` is the name it answers to."""

    seq: int
    id: str
    job: str
    created_at: int
    step: int
    model: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a job in a process of its own; known by its run directory `launch`."""

    id: int
    job: str
    number: int  # 1 for a job's first
    launch: str
    devices: tuple[str, ...]
    started_at: int
    spool_offset: int = 0


class Ending(StrEnum):
    """How an attempt ended, seen from the job."""

    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"  # it was asked to
    LOST = "lost"  # it vanished: nobody asked, nobody was told


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """What the shim saw of its worker's end."""

    code: int | None = None  # exit status, None if a signal ended it
    signal: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    ending: Ending
    error: JobError | None = None


def outcome(exit_: Exit | None, last_word: str | None, error: JobError | None) -> Outcome:
    """Judge an ended attempt by its last lossless fact first and its exit second.

    A trainer that said `done` has published its model, however the process ended after it. One
    that only exited, with whatever status, did not finish: it is lost and may be tried again.
    """
    if last_word == "done":
        return Outcome(ending=Ending.DONE)
    if last_word == "failed":
        return Outcome(ending=Ending.FAILED, error=error)
    if last_word == "stopped":
        return Outcome(ending=Ending.STOPPED)
    return Outcome(
        ending=Ending.LOST, error=JobError(code="trainer_lost", message=_obituary(exit_))
    )


def _obituary(exit_: Exit | None) -> str:
    if exit_ is None:
        return "The trainer vanished without an exit record (a crash of its supervisor or host)."
    if exit_.signal is not None:
        return f"The trainer was killed by signal {exit_.signal}."
    return f"The trainer exited with status {exit_.code} before it finished."


MAX_ATTEMPTS = 3


def may_retry(attempts_without_progress: int) -> bool:
    """Whether a job whose trainer was lost goes back into the queue."""
    return attempts_without_progress < MAX_ATTEMPTS
