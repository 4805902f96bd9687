"""Files of the run directory that are whole or not there, and the wait for a disk to have space."""

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable
from typing import Any

NOTE_CHARACTERS = 500
NOTES_BYTES = 2**20
RETRY_S = 0.5  # between looks at a full disk
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # heals by itself


def publish(name: str, record: dict[str, Any]) -> None:
    """Write a file of the run directory, whole and on the disk. Raises OSError."""
    with open(f"{name}.tmp", "w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{name}.tmp", name)
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def insist(write: Callable[[], None]) -> None:
    """Write as soon as there is space. Raises OSError when it is not space that is missing."""
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in _FULL:
                raise
        time.sleep(RETRY_S)


def note(text: str) -> None:
    """A line for RUN/shim.log, cut where it quotes too much; none once that has NOTES_BYTES."""
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text[:NOTE_CHARACTERS]}\n"
    with contextlib.suppress(OSError):
        if os.fstat(2).st_size < NOTES_BYTES:
            os.write(2, line.encode(errors="replace"))
