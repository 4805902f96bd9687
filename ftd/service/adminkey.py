"""The home's own key, in home/admin.key: made at the first start, for its owner's eyes only."""

import os
from pathlib import Path

from ftd.core import keys
from ftd.core.errors import FtdError, Kind
from ftd.core.ids import ALPHABET, Choice
from ftd.host import blobs

LEAST = 16  # characters


def read_or_make(path: Path, choice: Choice) -> str:
    """The key. Raises FtdError for a file that others can read, or that holds no key; OSError on a
    full disk, and nothing is left then."""
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)  # of a start that was killed
    try:
        status = path.stat()
    except FileNotFoundError:
        return _make(path, draft, choice)
    if status.st_mode & 0o077:
        raise FtdError(Kind.FORBIDDEN, f"{path} can be read by others: chmod 600 {path}")
    kept = path.read_text().strip()
    if not kept:  # never a key: what is left where one was made in place, and the disk was full
        path.unlink()
        return _make(path, draft, choice)
    if len(kept) < LEAST:
        raise FtdError(
            Kind.INVALID, f"{path} holds no key of {LEAST} characters or more; delete it"
        )
    return kept


def _make(path: Path, draft: Path, choice: Choice) -> str:
    """Write aside, sync, and give it its name: there is a whole key under it, or none at all."""
    admin = keys.mint(choice, ALPHABET)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(admin + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)  # in contrast to a rename it replaces nothing
    finally:
        draft.unlink(missing_ok=True)
    blobs.sync(path.parent)
    return admin
