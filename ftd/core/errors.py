"""One table of errors: what went wrong, and how each face says it."""

import errno
from enum import Enum
from typing import Final

FULL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT})  # heals by itself


class Kind(Enum):
    """(gRPC status code, HTTP status, OpenAI error type).

    Bad parameters are 400 and never 409 or 422: OpenAI's clients retry the first and have no
    class of their own for the second.
    """

    INVALID = ("INVALID_ARGUMENT", 400, "invalid_request_error")
    CONFLICT = ("FAILED_PRECONDITION", 400, "invalid_request_error")
    UNAUTHENTICATED = ("UNAUTHENTICATED", 401, "invalid_request_error")
    FORBIDDEN = ("PERMISSION_DENIED", 403, "invalid_request_error")
    NOT_FOUND = ("NOT_FOUND", 404, "invalid_request_error")
    METHOD_NOT_ALLOWED = ("UNIMPLEMENTED", 405, "invalid_request_error")
    TIMED_OUT = ("DEADLINE_EXCEEDED", 408, "invalid_request_error")
    TOO_LARGE = ("RESOURCE_EXHAUSTED", 413, "invalid_request_error")
    MISDIRECTED = ("PERMISSION_DENIED", 421, "invalid_request_error")
    RATE_LIMITED = ("RESOURCE_EXHAUSTED", 429, "requests")
    HEAD_TOO_LARGE = ("RESOURCE_EXHAUSTED", 431, "invalid_request_error")
    UNAVAILABLE = ("UNAVAILABLE", 503, "server_error")
    NO_SPACE = ("RESOURCE_EXHAUSTED", 507, "server_error")
    INTERNAL = ("INTERNAL", 500, "server_error")

    @property
    def grpc_code(self) -> str:
        return self.value[0]

    @property
    def http_status(self) -> int:
        return self.value[1]

    @property
    def openai_type(self) -> str:
        return self.value[2]

    @property
    def retry_s(self) -> int | None:
        """When to try again, where that may help by itself. OpenAI's clients heed up to 60."""
        return _RETRY_S.get(self)


_RETRY_S: Final = {Kind.UNAVAILABLE: 5, Kind.NO_SPACE: 30}


class FtdError(Exception):
    """A mistake somebody outside can mend, or a limit somebody outside has met.

    `code` and `param` are OpenAI's: a machine-readable reason and the request field at fault.
    `retry_s` is when to try again; what the kind says of it, if nothing else is known.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.code = code
        self.param = param
        self.retry_s = kind.retry_s if retry_s is None else retry_s


def invalid(message: str, *, code: str | None = None, param: str | None = None) -> FtdError:
    return FtdError(Kind.INVALID, message, code=code, param=param)


def empty_array(param: str) -> FtdError:
    return invalid(
        f"Invalid '{param}': empty array. Expected an array with minimum length 1, but got an "
        "empty array instead.",
        code="empty_array",
        param=param,
    )


def array_too_long(param: str, length: int, most: int) -> FtdError:
    return invalid(
        f"Invalid '{param}': array too long. Expected an array with maximum length {most}, "
        f"but got an array with length {length} instead.",
        code="array_above_max_length",
        param=param,
    )


def no_such_file(file_id: str) -> FtdError:
    return FtdError(Kind.NOT_FOUND, f"No such File object: {file_id}", param="id")


def no_such_job(job_id: str) -> FtdError:
    return FtdError(
        Kind.NOT_FOUND,
        f"Could not find fine tune: {job_id}",
        code="fine_tune_not_found",
        param="fine_tune_id",
    )


def no_such_model(name: str) -> FtdError:
    return FtdError(
        Kind.NOT_FOUND,
        f"The model `{name}` does not exist or you do not have access to it.",
        code="model_not_found",
        param="model",
    )
