"""Reads a log that still grows, in order and once, over its rotations."""

import contextlib
import os
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


class Tail:
    """A log from its beginning on: the parts that were renamed away (.0, the first, and .1, the
    one before the last) and then the file itself. A rotation renames that and puts a new one
    there: the old one is read to its end first. (Of two rotations between two reads, the part in
    the middle is missed.)
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: deque[BinaryIO] = deque()  # the first is being read
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()

    def read(self, limit_bytes: int) -> bytes:
        """The next bytes, at most `limit_bytes`; none when there are none for now."""
        if not self._files:
            self._open()
        if not self._files:
            return b""
        if data := self._files[0].read(limit_bytes):
            return data
        if len(self._files) == 1:
            if not self._rotated():
                return b""
            # What was written between our last read and the rotation.
            if rest := self._files[0].read(limit_bytes):
                return rest
        self._files.popleft().close()
        return self.read(limit_bytes)

    def _open(self) -> None:
        """The file; at the beginning, with the parts before it."""
        before = () if self._begun else (".0", ".1")
        paths = [self._path.with_name(self._path.name + part) for part in before]
        for path in [*paths, self._path]:
            with contextlib.suppress(FileNotFoundError):
                self._files.append(path.open("rb"))
        self._begun |= bool(self._files)

    def _rotated(self) -> bool:
        try:
            return not os.path.samestat(os.fstat(self._files[0].fileno()), self._path.stat())
        except FileNotFoundError:
            return False  # between the two renames, or the run is gone
