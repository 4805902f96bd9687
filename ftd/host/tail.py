"""Reads a log that still grows, in order and once, over its rotations."""

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


class Tail:
    """A log from its beginning on. A rotation renames the file away and puts a new one there:
    the old one is read to its end first. (Of two rotations between two reads, the part in the
    middle is missed.)
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, limit_bytes: int) -> bytes:
        """The next bytes, at most `limit_bytes`; none when there are none for now."""
        if self._file is None and not self._open():
            return b""
        assert self._file is not None
        if data := self._file.read(limit_bytes):
            return data
        if not self._rotated():
            return b""
        # What was written between our last read and the rotation.
        rest = self._file.read(limit_bytes)
        if not rest:
            self._file.close()
            self._file = None
            return self.read(limit_bytes)
        return rest

    def _open(self) -> bool:
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError:
            return False
        return True

    def _rotated(self) -> bool:
        assert self._file is not None
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False  # between the two renames, or the run is gone
