"""What a client asked for and what it was told, on the disk before it does anything else.

An answer makes a fact that must hold from then on. A request without an answer is in doubt: what it
asked for is there, whole, or it is not there at all. When an older database is put back, the ledger
goes back with it: what was told before that copy was made must hold, and of what came later nothing
is known any more.
"""

import json
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Upload:
    sha256: str
    lines: list[bytes]
    id: str | None = None  # None: in doubt
    deleting: bool = False  # asked for, answered or not
    deleted: bool = False  # answered
    gone: bool = False  # its delete is forgotten, and its bytes may have gone by then


@dataclass(slots=True)
class Submission:
    nonce: str
    training_file: str
    flood: bool
    id: str | None = None
    states: list[str] = field(default_factory=list)  # as seen, each once in a row
    events: list[tuple[str, Any]] = field(default_factory=list)  # id and all the rest, oldest first
    wish: str = "run"  # the last one that was answered
    wishes: int = 0  # how many were
    wish_in_doubt: bool = False  # another was not answered, and may be obeyed at any time

    def grant(self, wish: str) -> None:
        self.wish, self.wishes = wish, self.wishes + 1


@dataclass(frozen=True, slots=True)
class Memory:
    """A ledger as it was at one moment: each entry beside what it was then."""

    uploads: list[tuple[Upload, Upload]]
    submissions: list[tuple[Submission, Submission]]


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

    def recall(self) -> Memory:
        return Memory(
            uploads=[(upload, replace(upload)) for upload in self.uploads],
            submissions=[
                (made, replace(made, states=list(made.states), events=list(made.events)))
                for made in self.submissions
            ],
        )

    def go_back(self, memory: Memory) -> list[Upload]:
        """Know no more than then; returns the uploads that are not known any more."""
        then = {id(upload) for upload, _ in memory.uploads}
        lost = [upload for upload in self.uploads if id(upload) not in then and upload.id]
        for upload, was in memory.uploads:
            gone = upload.gone or upload.deleting  # a job that held its bytes may have ended
            _become(upload, replace(was, gone=gone))
        for submission, did in memory.submissions:
            later = submission.wishes > did.wishes  # no row knows of them, but a run may
            _become(submission, replace(did, wish_in_doubt=did.wish_in_doubt or later))
        self.uploads = [upload for upload, _ in memory.uploads]
        self.submissions = [submission for submission, _ in memory.submissions]
        self.note("went back", uploads=len(self.uploads), submissions=len(self.submissions))
        return lost

    @property
    def files(self) -> list[Upload]:
        """Acknowledged, and nobody asked to delete them."""
        known = (upload for upload in self.uploads if upload.id and not upload.deleting)
        return [upload for upload in known if not upload.gone]

    @property
    def jobs(self) -> list[Submission]:
        return [submission for submission in self.submissions if submission.id]

    def by_file(self, file_id: str) -> Upload:
        return next(upload for upload in self.uploads if upload.id == file_id)


def _become(entry: Upload | Submission, was: Upload | Submission) -> None:
    for of in fields(entry):
        setattr(entry, of.name, getattr(was, of.name))
