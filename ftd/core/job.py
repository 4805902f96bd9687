"""A job's states and the one table of moves between them.

    validating_files --> queued --> running --> succeeded
           |               |  ^        |
           |               v  |        +-----> failed
           |             paused <------+
           +--> failed, cancelled      +-----> queued (its trainer was lost: try again)

`state` is a fact and is moved by the engine; `want` is a wish and is set by people. What needs no
trainer to end comes true at the door: a cancel, the pause of a queued job, a resume. The store
derives its compare-and-set from MOVES, and no other statement writes a state:

    right:  UPDATE jobs SET state = 'running' WHERE id = ? AND state IN (sources(RUNNING))
    wrong:  job = read(id); if job.state == QUEUED: UPDATE jobs SET state = 'running' WHERE id = ?
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from signal import Signals

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
    fine_tuned_model_sha256: str | None = None  # of its files' names and contents
    trained_tokens: int | None = None
    result_file: str | None = None
    step: int = 0
    total_steps: int | None = None
    estimated_finish: int | None = None

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def doing(self) -> str | None:
        """What a running job is busy with, in a word: its trainer's phase, or that it pauses."""
        pausing = self.state is State.RUNNING and self.want is Want.PAUSE
        return "pausing" if pausing else self.phase


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


TRAINER_LOST = "trainer_lost"
TRAINER_HUNG = "trainer_hung"
TRAINER_CUT_OFF = "trainer_cut_off"  # with its supervisor, or its host: nobody saw how it ended
HOST_OUT_OF_MEMORY = "host_out_of_memory"
CHECKPOINT_DAMAGED = "checkpoint_damaged"
INTERNAL = "internal_error"  # a mistake of ours
NO_SPACE = "no_space"
PASSING = frozenset({NO_SPACE, CHECKPOINT_DAMAGED})  # reasons that another attempt may not meet
MAX_PAUSE_S = 300.0  # before a lost job is tried again
CUT_OFF_TIMES = 5  # so many times as many chances has a job that is cut off; it may be the cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """What the shim saw of its worker's end."""

    code: int | None = None  # exit status, None if a signal ended it
    signal: int | None = None
    starved: bool = False  # it was killed for want of memory
    bounded: bool = False  # of what one worker may have, that is, and not of the host's
    peak_memory_bytes: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    ending: Ending
    error: JobError | None = None


def outcome(
    exit_: Exit | None,
    last_word: str | None,
    error: JobError | None,
    *,
    ended_for: JobError | None = None,
) -> Outcome:
    """Judge an ended attempt by its last lossless fact first and its exit second.

    A trainer that said `done` has published its model, however the process ended after it. One
    that only exited, with whatever status, did not finish: it is lost and may be tried again. So
    may one that gave up for a reason that passes. `ended_for` is why we ended it ourselves, if we
    did.
    """
    if last_word == "done":
        return Outcome(ending=Ending.DONE)
    if last_word == "failed":
        passes = error is not None and error.code in PASSING
        return Outcome(ending=Ending.LOST if passes else Ending.FAILED, error=error)
    if last_word == "stopped":
        return Outcome(ending=Ending.STOPPED)
    return Outcome(ending=Ending.LOST, error=ended_for or _obituary(exit_))


def _obituary(exit_: Exit | None) -> JobError:
    if exit_ is None:
        words = "vanished without an exit record (a power cut, or its supervisor was killed)"
        return JobError(code=TRAINER_CUT_OFF, message=f"The trainer {words}.")
    if exit_.starved:
        return JobError(code=HOST_OUT_OF_MEMORY, message=_starvation(exit_))
    if exit_.signal is not None:
        words = f"was killed by signal {exit_.signal}{_name(exit_.signal)}"
    else:
        words = f"exited with status {exit_.code} before it finished"
    return JobError(code=TRAINER_LOST, message=f"The trainer {words}.")


def _starvation(exit_: Exit) -> str:
    peak_bytes = exit_.peak_memory_bytes
    had = "" if peak_bytes is None else f", which held {peak_bytes / 2**30:.1f} GiB at its peak"
    if exit_.bounded:
        return f"More memory was taken than one worker may have, which ended the trainer{had}."
    return f"The host ran out of memory, and its kernel killed the trainer{had}."


def _name(number: int) -> str:
    known = {signal.value: signal.name for signal in Signals}
    return f" ({known[number]})" if number in known else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The lost attempts of a job, the one just lost included."""

    in_a_row: int  # since the last that published a checkpoint, which itself counts as none
    cut_off: int = 0  # of those in a row, the ones that nobody can be blamed for
    starved: int = 0  # of all: those that the host had no memory for


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A lost job is tried again, `after_s` seconds from now; `how` says so to people."""

    after_s: float
    how: str


def again(
    error: JobError, losses: Losses, *, attempts: int, pause_s: float, smaller: bool
) -> Again | None:
    """Whether a lost job has another chance, of `attempts` in a row; None: it has failed.

    Each waits twice as long as the one before it, from `pause_s` on. One that the host had no
    memory for gets one chance, with passes of half the size, if they can be `smaller`. One that was
    cut off takes none of them; but it may be what the machine dies of, so there are CUT_OFF_TIMES
    as many of these.
    """
    starved = error.code == HOST_OUT_OF_MEMORY
    cut_off = error.code == TRAINER_CUT_OFF
    counted = losses.cut_off if cut_off else losses.in_a_row - losses.cut_off
    most = attempts * CUT_OFF_TIMES if cut_off else attempts
    if counted >= most or (starved and (losses.starved > 1 or not smaller)):
        return None
    after_s = min(pause_s * 2.0 ** (losses.in_a_row - 1), MAX_PAUSE_S) if losses.in_a_row else 0.0
    how = "The job is queued again"
    how += ", not counting this attempt" if cut_off and losses.in_a_row else ""
    how += ", with half the memory for a pass" if starved else ""
    how += f", and tried in {after_s:g} s" if after_s else ""
    return Again(after_s=after_s, how=f"{how}.")


def pauses(retry_at: int | None, now: int) -> bool:
    """Whether a lost job still waits for its next chance. A wall clock that was set back must not
    make that a day."""
    return retry_at is not None and 0 < retry_at - now <= MAX_PAUSE_S
