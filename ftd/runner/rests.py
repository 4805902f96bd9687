"""How long a job rests whose runner has failed, and when it has failed too often.

What a runner wants for (space, descriptors, memory) comes back, so that it is only waited for. A
mistake of ours meets the same rows and files again, and would for ever.

    right:  as many failures in a row at one place: the job fails, and says that ftd is at fault
    wrong:  begun anew at every turn, while the job answers that it runs

Nothing of it is kept: the next daemon may know better, and tries as often.
"""

import errno
from dataclasses import dataclass, field

from ftd.core.errors import FULL_DISK, FtdError, Kind
from ftd.core.job import INTERNAL, Attempt, JobError

FIRST_S = 1.0  # and twice as long each time
MOST_S = 60.0
WANTING_S = 15.0  # the most, where something is only wanted: to go on soon once it is there
FAILURES = 8  # in a row: two minutes of them
FORGET_S = 3600.0
QUOTED = 200  # characters of an error

_WANTS = FULL_DISK | {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(slots=True)
class _Rest:
    attempt: int
    offset: int
    until: float
    rests: int = 0
    failures: int = 0
    error: str = ""


@dataclass(slots=True)
class Rests:
    """Of all jobs. Times are the clock's monotonic seconds."""

    _jobs: dict[str, _Rest] = field(default_factory=dict)

    def failed(self, attempt: Attempt, offset: int, error: BaseException, now: float) -> float:
        """A runner of this attempt ended with `error`; it had kept its spool up to `offset`.
        Returns for how many seconds the job rests."""
        self._jobs = {job: rest for job, rest in self._jobs.items() if now < rest.until + FORGET_S}
        rest = self._jobs.get(attempt.job)
        known = rest.offset if rest is not None and rest.attempt == attempt.id else 0
        if rest is None or offset > known:
            rest = _Rest(attempt.id, offset, now)  # it came further than the one before it
        rest.attempt, rest.offset = attempt.id, offset
        rest.rests += 1
        most_s = WANTING_S
        if not wants(error):
            rest.failures += 1
            rest.error = f"{type(error).__name__}: {error}"[:QUOTED]
            most_s = MOST_S
        rest_s = min(FIRST_S * 2.0 ** min(rest.rests - 1, 10), most_s)
        rest.until = now + rest_s
        self._jobs[attempt.job] = rest
        return rest_s

    def settled(self, job: str) -> None:
        """An attempt of the job came to its end."""
        self._jobs.pop(job, None)

    def resting(self, job: str, now: float) -> bool:
        """Whether nobody should follow its attempt yet."""
        rest = self._jobs.get(job)
        return rest is not None and now < rest.until

    def fault(self, job: str) -> JobError | None:
        """Why the job fails, once its runners have failed too often."""
        rest = self._jobs.get(job)
        if rest is None or rest.failures < FAILURES:
            return None
        message = (
            f"This is a fault of ftd's and not of the job's: {rest.failures} times in a row it "
            f"could not go on with its trainer ({rest.error}). The daemon's log says more "
            "(journalctl -u ftd, where systemd runs it). The job can be submitted again."
        )
        return JobError(code=INTERNAL, message=message)


def wants(error: BaseException) -> bool:
    """Whether it was for want of something that comes back by itself."""
    if isinstance(error, FtdError):
        return error.kind in (Kind.NO_SPACE, Kind.UNAVAILABLE)
    if isinstance(error, OSError):
        return error.errno in _WANTS
    return isinstance(error, MemoryError)
