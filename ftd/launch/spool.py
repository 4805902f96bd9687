"""Reads a spool: the facts of a launch, framed by its shim, in the order in which they were said.

A frame is a little-endian u32 length of the line, the u32 crc32 of all that follows, the u64 seq,
and the line without its end. The shim is a program of its own and has its own writer; a test
holds the two together. Nothing is ever found again by searching: a payload could forge a frame.

What is no whole valid frame is a torn tail where nothing comes after it, since the shim appends,
or only the zeros that a power cut leaves behind. Anywhere else it is damage.
"""

import struct
import zlib
from pathlib import Path

from ftd.launch.base import Frame, Spooled

LINE_BYTES = 2**16
_HEAD = struct.Struct("<IIQ")
_GUARDED = struct.Struct("<Q")  # the part of the head that the checksum covers


def frame(seq: int, line: bytes) -> bytes:
    """The bytes of one frame."""
    guarded = _GUARDED.pack(seq) + line
    return _HEAD.pack(len(line), zlib.crc32(guarded), seq) + line


def read(path: Path, offset: int, limit_bytes: int) -> Spooled:
    """The frames of the file from `offset` on: some `limit_bytes` of them, at least one.

    `offset` is 0 or one that an earlier read gave; from 0 the seq must count from 1. A file that
    is not there, or that a power cut has left shorter than `offset`, has no frames.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(max(limit_bytes, _HEAD.size + LINE_BYTES))
            more = bool(file.read(1))
    except FileNotFoundError:
        return Spooled(frames=(), offset=offset)
    return _parse(data, offset, more)


def _parse(data: bytes, start: int, more: bool) -> Spooled:
    """`more` says that the file goes on after `data`."""
    frames: list[Frame] = []
    at = 0

    def spooled(*, torn: bool = False, corrupt: str | None = None) -> Spooled:
        return Spooled(frames=tuple(frames), offset=start + at, torn=torn, corrupt=corrupt)

    while at < len(data):
        if len(data) - at < _HEAD.size:
            return spooled(torn=not more)
        length, checksum, seq = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if length > LINE_BYTES:
            return spooled(corrupt=f"a frame of {length} bytes at {start + at}")
        if end > len(data):
            return spooled(torn=not more)
        line = data[at + _HEAD.size : end]
        if zlib.crc32(_GUARDED.pack(seq) + line) != checksum:
            if not more and not any(data[end:]):
                return spooled(torn=True)
            return spooled(corrupt=f"a wrong checksum at {start + at}")
        due = frames[-1].seq + 1 if frames else 1
        if seq != due and (frames or start == 0):
            return spooled(corrupt=f"the seq {seq} at {start + at} where {due} was due")
        frames.append(Frame(seq=seq, line=line, end=start + end))
        at = end
    return spooled()
