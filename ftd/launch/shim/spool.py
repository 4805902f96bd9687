"""The worker's facts on the disk, in the order in which it said them.

A frame of RUN/spool is a little-endian u32 length of the line, the u32 crc32 of what follows, the
u64 seq that counts from 1, and the worker's line without its end. launch/spool.py reads it.
"""

import json
import os
import struct
import zlib

SAMPLED = frozenset({"step", "phase"})  # kinds of facts that may wait SYNC_S for the disk
LINE_BYTES = 4096  # of a fact, its end included
SYNC_S = 1.0
TAIL_BYTES = 2**20  # of sampled facts that are synced at once


class Lines:
    """Cuts a stream into lines; one that is too long becomes a fact that says so.

    What is without an end when the stream ends was never said: a worker writes a line at once.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipped = 0  # bytes of an oversized line that are gone already

    def feed(self, data: bytes) -> list[bytes]:
        *lines, rest = (self._rest + data).split(b"\n")
        if lines:
            lines[0] = self._whole(lines[0], self._skipped)
            lines[1:] = [self._whole(line, 0) for line in lines[1:]]
            self._skipped = 0
        if len(rest) >= LINE_BYTES:
            self._skipped += len(rest)
            rest = b""
        self._rest = rest
        return lines

    @staticmethod
    def _whole(line: bytes, skipped: int) -> bytes:
        length = skipped + len(line) + 1
        return line if length <= LINE_BYTES else b'{"kind":"oversized","bytes":%d}' % length


class Spool:
    """Appends facts to a file. What is not surely on the disk is kept, to be written again."""

    def __init__(self) -> None:
        self.seq = 0
        self.due: float | None = None  # when the tail must be on the disk
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open("spool", flags, 0o600)
        self._synced = 0  # bytes of the file
        self._tail = bytearray()  # what comes after them
        self._written = 0  # bytes of the tail

    def append(self, line: bytes, now: float) -> None:
        self.seq += 1
        body = struct.pack("<Q", self.seq) + line
        self._tail += struct.pack("<II", len(line), zlib.crc32(body)) + body
        due = now + SYNC_S if sampled(line) and len(self._tail) < TAIL_BYTES else now
        self.due = due if self.due is None else min(due, self.due)

    def flush(self, now: float) -> None:
        """Write everything, and sync if that is due. Raises OSError; then flush again later."""
        try:
            while self._written < len(self._tail):
                rest = self._tail[self._written :]
                self._written += os.pwrite(self._descriptor, rest, self._synced + self._written)
            if self.due is not None and self.due <= now:
                os.fdatasync(self._descriptor)
                self._synced += len(self._tail)
                self._tail.clear()
                self._written = 0
                self.due = None
        except OSError:
            # A failed sync may have dropped pages that the next would not miss: write all anew.
            self._written = 0
            raise


def sampled(line: bytes) -> bool:
    """Whether this fact may be lost with the last second before a power cut."""
    try:
        fact = json.loads(line)
        return isinstance(fact, dict) and fact.get("kind") in SAMPLED
    except (ValueError, TypeError, RecursionError):
        return False
