"""Records of 64-bit numbers in bounded memory, given back in groups by their hash.

Records pile up in compact arrays, one per group, up to MEMORY_BYTES; then they all move on to a
temporary file. A group holds the records of a 256th of all hashes, whatever their number, so who
asks "which hashes occur twice?" needs a dict of a 256th of them at a time: 250 million examples
are 6 GB of temporary file and about a million dict entries.
"""

import os
import tempfile
from array import array
from collections.abc import Iterator
from typing import IO, Self

MEMORY_BYTES = 32 * 2**20
GROUPS = 256
_GROUP_SHIFT = 56  # a group is the highest byte of a hash
_ITEM_BYTES = 8


class Ledger:
    """Records of `width` numbers below 2**64, the first of which is a hash.

    Leaving its `with` removes the temporary file.
    """

    def __init__(self, width: int, memory_bytes: int = MEMORY_BYTES) -> None:
        self._width = width
        self._room = max(width, memory_bytes // _ITEM_BYTES)
        self._held = 0
        self._groups = [array("Q") for _ in range(GROUPS)]
        self._spilled: list[list[tuple[int, int]]] = [[] for _ in range(GROUPS)]  # offset, items
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, *record: int) -> None:
        """Raises OSError when the temporary file cannot take more."""
        self._groups[record[0] >> _GROUP_SHIFT].extend(record)
        self._held += self._width
        if self._held >= self._room:
            self._spill()

    def blocks(self, group: int) -> Iterator["array[int]"]:
        """A group's records, number after number, in the order of adding; read only."""
        for offset, items in self._spilled[group]:
            assert self._file is not None
            self._file.seek(offset)
            block = array("Q")
            block.fromfile(self._file, items)
            yield block
        yield self._groups[group]

    def records(self, group: int) -> Iterator[tuple[int, ...]]:
        """A group's records one by one."""
        for block in self.blocks(group):
            columns = [block[column :: self._width] for column in range(self._width)]
            yield from zip(*columns, strict=True)

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - __exit__ closes it
        self._file.seek(0, os.SEEK_END)
        for held, spilled in zip(self._groups, self._spilled, strict=True):
            if held:
                spilled.append((self._file.tell(), len(held)))
                held.tofile(self._file)
                del held[:]
        self._held = 0
