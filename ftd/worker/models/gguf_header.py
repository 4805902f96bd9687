"""Reads a GGUF file's header with the standard library, believing nothing that it says.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): the magic word, a version,
how many tensors and keys; the keys with their values; each tensor's name, shape, type and place;
the data. Libraries allocate what a length claims, so every length is held against the file's own.
"""

import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ftd.worker.models import tree
from ftd.worker.models.refusal import broken, shown, unsafe, unsupported

MAX_TENSORS = 200_000
MAX_KEYS = 10_000
MAX_NAME_BYTES = 1000
MAX_TEXT_BYTES = 16 * 2**20
MAX_ITEMS = 2**23
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 2**16

_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf\Z")
_TEXT, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"} | {
    12: "d"
}
# What a model is built from before a weight is read: as ftd.worker.models.configs has it.
_BOUNDS = (
    (re.compile(r".*\.(context_length|vocab_size|sliding_window)\Z"), 2**27),
    (re.compile(r".*\.(embedding|feed_forward|key|value)_length.*|.*\.dimension_count\Z"), 2**22),
    (re.compile(r".*\.(block_count|leading_dense_block_count)\Z"), 2**10),
    (re.compile(r".*_count.*"), 2**17),
)


def check_header(path: Path, sizes: Mapping[int, tuple[int, int]]) -> None:
    """Refuse what is no GGUF file of version 2 or 3, whole and true to itself. Raises FtdError.

    `sizes` has for each type of tensor how many elements are a block, and a block's bytes.
    """
    if _SPLIT.search(path.name):
        raise unsupported(f"{shown(path.name)} is one part of a split GGUF file. Merge it first.")
    with tree.opened(path) as file:
        reader = _Reader(file, path.name)
        if reader.file_bytes < 24 or reader.take(4) != b"GGUF":
            raise broken(f"{shown(path.name)} is no GGUF file.")
        version, tensors, keys = reader.number("I"), reader.number("Q"), reader.number("Q")
        if version not in (2, 3):
            raise unsupported(f"{shown(path.name)} has GGUF version {version}; 2 and 3 are read.")
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise broken(f"{shown(path.name)} claims {tensors:,} tensors and {keys:,} keys.")
        alignment = _read_keys(reader, keys)
        spans = [_read_tensor(reader, sizes) for _ in range(tensors)]
        begin = -(-reader.at // alignment) * alignment
        _check_spans(spans, reader.file_bytes - begin, path.name)


class _Reader:
    """A file read from its start, never beyond its end."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file_bytes = os.fstat(file.fileno()).st_size
        self.at = 0
        self.items = 0  # of lists, which are looked at one by one
        self._file = file
        self.name = shown(name)

    def take(self, count: int) -> bytes:
        self.skip(count, seek=False)
        return self._file.read(count)

    def skip(self, count: int, *, seek: bool = True) -> None:
        self.at += count
        if self.at > self.file_bytes:
            raise broken(f"{self.name} is cut off: its header goes on for {count:,} bytes.")
        if seek:
            self._file.seek(count, os.SEEK_CUR)

    def number(self, kind: str) -> int:
        value: int
        (value,) = struct.unpack("<" + kind, self.take(struct.calcsize(kind)))
        return value

    def length(self, limit: int) -> int:
        length = self.number("Q")
        if length > limit:
            raise broken(f"{self.name} has a length of {length:,}; at most {limit:,} are allowed.")
        return length


def _read_keys(reader: _Reader, count: int) -> int:
    """Look at every key and value; returns the alignment of the data."""
    seen = set()
    alignment = 32
    for _ in range(count):
        key = reader.take(reader.length(MAX_NAME_BYTES)).decode("utf-8", "replace")
        if key in seen:
            raise broken(f"{reader.name} has the key {shown(key)} twice.")
        seen.add(key)
        for value in _values(reader, reader.number("I")):
            _check_bound(key, value, reader.name)
            if key == "general.alignment":
                if not 1 <= value <= MAX_ALIGNMENT:  # nor NaN, nor infinite
                    raise broken(f"{reader.name} has no sane alignment.")
                alignment = int(value)
    return alignment


def _values(reader: _Reader, kind: int, *, nested: bool = False) -> Iterator[float]:
    """The numbers of a value; texts and long lists are only passed by."""
    if kind in _NUMBERS:
        yield reader.number(_NUMBERS[kind])
    elif kind == _TEXT:
        reader.skip(reader.length(MAX_TEXT_BYTES))
    elif kind == _ARRAY and not nested:
        inner, count = reader.number("I"), reader.length(MAX_ITEMS)
        if inner in _NUMBERS and count > MAX_NAME_BYTES:
            reader.skip(count * struct.calcsize(_NUMBERS[inner]))
            return
        reader.items += count
        if reader.items > MAX_ITEMS:
            raise broken(f"{reader.name} has lists of more than {MAX_ITEMS:,} parts.")
        for _ in range(count):
            yield from _values(reader, inner, nested=True)
    else:
        raise broken(f"{reader.name} has a value of the unknown type {kind}.")


def _check_bound(key: str, value: float, name: str) -> None:
    limit = next((limit for pattern, limit in _BOUNDS if pattern.match(key)), None)
    if limit is not None and not -1 <= value <= limit:
        raise broken(f"{name}: {shown(key)} is {value}; at most {limit:,} is allowed.")


def _read_tensor(reader: _Reader, sizes: Mapping[int, tuple[int, int]]) -> tuple[int, int]:
    """Where a tensor begins and ends in the data."""
    name = shown(reader.take(reader.length(MAX_NAME_BYTES)).decode("utf-8", "replace"))
    dimensions = reader.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise broken(f"{reader.name}: tensor {name} has {dimensions:,} dimensions.")
    elements = math.prod(reader.number("Q") for _ in range(dimensions))
    kind, begin = reader.number("I"), reader.number("Q")
    if kind not in sizes:
        raise unsupported(f"{reader.name}: tensor {name} has the unknown type {kind}.")
    block, block_bytes = sizes[kind]
    return begin, begin + -(-elements // block) * block_bytes


def _check_spans(spans: list[tuple[int, int]], data_bytes: int, name: str) -> None:
    at = 0
    for begin, end in sorted(spans):
        if begin < at:
            raise unsafe(f"{shown(name)}: two tensors are made of the same bytes.")
        at = end
    if at > data_bytes:
        raise broken(
            f"{shown(name)} is cut off: its tensors need {at:,} bytes, {data_bytes:,} are there."
        )
