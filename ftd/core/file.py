"""A file somebody uploaded, or one that a job wrote."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

FINE_TUNE = "fine-tune"
RESULTS = "fine-tune-results"

# What an upload may be for. Only fine-tune files are read. OpenAI's requests also know "evals", but
# its answers do not: a strict client would refuse the file.
PURPOSES = frozenset({"assistants", "batch", FINE_TUNE, "vision", "user_data"})


class FileStatus(StrEnum):
    UPLOADED = "uploaded"  # its check still runs
    PROCESSED = "processed"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A row of the truth; the bytes lie in home/files/<id>."""

    seq: int
    id: str
    project: str
    purpose: str
    filename: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None = None
    status: FileStatus
    report: Mapping[str, object] | None = None  # ftd.core.dataset.Report as JSON
