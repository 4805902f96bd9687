"""The lines of a file that may be larger than memory, in order and again by offset."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from ftd.core.inspection import Line

STREAM_BYTES = 2**20  # one read of the file in order
PAGE_BYTES = 2**12  # one read somewhere in it
HEAD_BYTES = 256  # kept of a line that is too long, to hint at it


class Lines:
    """A file's lines; no more than `line_bytes` of one is ever held. Use it by `with`.

    Raises OSError when it cannot be read, or is a pipe or a device, which could go on for ever.
    """

    def __init__(self, path: Path, line_bytes: int) -> None:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(f"{path} is not a regular file")
        self._line_bytes = line_bytes
        self._stream = path.open("rb", buffering=STREAM_BYTES)
        # Reads in order and reads here and there would throw away each other's buffer.
        self._pages = path.open("rb", buffering=PAGE_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._pages.close()

    def __iter__(self) -> Iterator[Line]:
        """Every line, once."""
        number = offset = 0
        while data := self._stream.readline(self._line_bytes + 1):
            number += 1
            length = len(data)
            if length > self._line_bytes and not data.endswith(b"\n"):
                data = data[: min(HEAD_BYTES, self._line_bytes)]
                length += self._skip()
            yield Line(number, offset, length, data)
            offset += length

    def at(self, offset: int) -> bytes:
        """The line that begins there."""
        self._pages.seek(offset)
        return self._pages.readline(self._line_bytes + 1)

    def _skip(self) -> int:
        """Move behind the next newline; how many bytes that was."""
        skipped = 0
        while part := self._stream.readline(STREAM_BYTES):
            skipped += len(part)
            if part.endswith(b"\n"):
                break
        return skipped
