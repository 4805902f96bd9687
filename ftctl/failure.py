"""How a command ends: the exit statuses, and what is said when it goes wrong."""

from enum import IntEnum


class Status(IntEnum):
    """Exit statuses; scripts rely on them."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    JOB_FAILED = 5
    JOB_CANCELLED = 6
    UNREACHABLE = 7
    TIMED_OUT = 8
    INTERRUPTED = 130


class Failure(Exception):  # the end of a command, not a fault of ours
    """Ends the command with `status`: one line says what is wrong, `hint` what to do."""

    def __init__(
        self, message: str, *, hint: str | None = None, status: Status = Status.ERROR
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status
