"""What a client asked for and what it was told, on the disk before it does anything else.

An answer makes a fact that must hold from then on. A request without an answer is in doubt: what it
asked for is there, whole, or it is not there at all.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Upload:
    sha256: str
    lines: list[bytes]
    id: str | None = None  # None: in doubt
    deleting: bool = False  # asked for, answered or not
    deleted: bool = False  # answered


@dataclass(slots=True)
class Submission:
    nonce: str
    training_file: str
    flood: bool
    id: str | None = None
    states: list[str] = field(default_factory=list)  # as seen, each once in a row
    events: list[tuple[str, Any]] = field(default_factory=list)  # id and all the rest, oldest first
    wish: str = "run"  # the last one that was answered
    wish_in_doubt: bool = False  # another was not answered, and may be obeyed at any time


class Ledger:
    """Uploads and submissions of one home, and the file that a crash of ours would leave."""

    def __init__(self, path: Path) -> None:
        self.uploads: list[Upload] = []
        self.submissions: list[Submission] = []
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, **told: Any) -> None:
        line = json.dumps({"what": what} | told).encode() + b"\n"
        os.write(self._descriptor, line)
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    @property
    def files(self) -> list[Upload]:
        """Acknowledged, and nobody asked to delete them."""
        return [upload for upload in self.uploads if upload.id and not upload.deleting]

    @property
    def jobs(self) -> list[Submission]:
        return [submission for submission in self.submissions if submission.id]

    def by_file(self, file_id: str) -> Upload:
        return next(upload for upload in self.uploads if upload.id == file_id)
