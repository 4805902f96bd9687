"""What should happen next, decided from one view of the truth: no await, no clock, no log."""

from dataclasses import dataclass

from ftd.core.device import Device
from ftd.core.job import FINAL, State, Want


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJob:
    """A job that is not over, or is over while its attempt still ends."""

    id: str
    seq: int
    priority: int
    state: State
    want: Want
    checking: tuple[str, ...] = ()  # files whose check still runs


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAttempt:
    id: int
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`holders` maps a leased device to the job that leases it. `resting` jobs were refused a
    moment ago and keep the reason that they were given."""

    jobs: tuple[OpenJob, ...]
    attempts: tuple[LiveAttempt, ...]
    devices: tuple[Device, ...]
    holders: dict[str, str]
    resting: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Admit:
    """The job's files are checked: let it into the queue, or fail it."""

    job: str


@dataclass(frozen=True, slots=True)
class Start:
    job: str
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Nobody wants this attempt any more."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Data that people see: why a job does not run yet."""

    job: str
    reason: str


Action = Admit | Start | Stop | Wait


def decide(snapshot: Snapshot) -> list[Action]:
    """Wishes first, so that a cancelled job is never started; then the queue, in order."""
    return [*_honour_wishes(snapshot), *_admit(snapshot), *_fill_devices(snapshot)]


def _honour_wishes(snapshot: Snapshot) -> list[Action]:
    jobs = {job.id: job for job in snapshot.jobs}
    return [Stop(attempt.id) for attempt in snapshot.attempts if _unwanted(jobs.get(attempt.job))]


def _unwanted(job: OpenJob | None) -> bool:
    return job is None or job.state in FINAL or job.want is not Want.RUN


def _admit(snapshot: Snapshot) -> list[Action]:
    actions: list[Action] = []
    for job in snapshot.jobs:
        if job.state is State.VALIDATING:
            if job.checking:
                actions.append(Wait(job.id, f"checking {' and '.join(job.checking)}"))
            else:
                actions.append(Admit(job.id))
    return actions


def _fill_devices(snapshot: Snapshot) -> list[Action]:
    """Priority, then age; one device a job. A job whose last attempt still ends waits for it."""
    ending = {attempt.job for attempt in snapshot.attempts}
    free = [device for device in snapshot.devices if device.id not in snapshot.holders]
    waiting = 0
    actions: list[Action] = []
    queued = [job for job in snapshot.jobs if job.state is State.QUEUED and job.want is Want.RUN]
    for job in sorted(queued, key=lambda job: (-job.priority, job.seq)):
        if job.id in ending:
            actions.append(Wait(job.id, "its last attempt has not ended yet"))
        elif job.id in snapshot.resting:
            continue
        elif free:
            actions.append(Start(job.id, (free.pop(0),)))
        else:
            actions.append(Wait(job.id, _why(snapshot, waiting)))
            waiting += 1
    return actions


def _why(snapshot: Snapshot, ahead: int) -> str:
    if not snapshot.devices:
        return "there is no device to run on"
    busy = ", ".join(
        f"{device.id} runs {snapshot.holders[device.id]}"
        for device in snapshot.devices
        if device.id in snapshot.holders
    )
    place = f"; {ahead} queued ahead of it" if ahead else ""
    return f"{busy or 'every device was just lent'}{place}"
