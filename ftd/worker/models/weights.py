"""Reads safetensors headers with the standard library, believing nothing that they say.

The format (https://github.com/huggingface/safetensors): eight bytes, the length of the header as a
little-endian integer; the header, a JSON object of names to dtype, shape and offsets; the data,
every byte of it belonging to exactly one tensor.
"""

import math
import os
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftd.worker.models import tree
from ftd.worker.models.configs import parse_json, read_json
from ftd.worker.models.refusal import broken, shown, unsafe, unsupported

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's own limit
MAX_INDEX_BYTES = 64 * 2**20
MAX_TENSORS = 200_000
MAX_SHARDS = 1000
MAX_DIMENSIONS = 16

# Bits of one element. Types narrower than a byte are packed.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
_TRAINABLE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor as its header describes it; `elements` is the product of its shape."""

    dtype: str
    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a model's weight files hold. `dtype` is torch's name for that of most parameters."""

    files: tuple[str, ...]  # by name, the index included
    parameters: int
    dtype: str


def read_weights(directory: Path, names: frozenset[str]) -> Weights:
    """Check every weight file among `names` and count what is inside.

    One file wins over an index, as it does when transformers loads. Raises FtdError.
    """
    if SINGLE in names:
        return _weights((SINGLE,), read_header(directory / SINGLE))
    shards = _read_index(directory / INDEX, names)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(shards.values())):
        header = read_header(directory / shard)
        if twice := header.keys() & tensors.keys():
            raise broken(f"tensor {shown(min(twice))} is in {shard} and in another shard.")
        tensors |= header
        expected = {name for name, place in shards.items() if place == shard}
        if lost := expected - header.keys():
            raise broken(f"{INDEX} promises tensor {shown(min(lost))} in {shard}; it is not there.")
    return _weights((INDEX, *sorted(set(shards.values()))), tensors)


def read_header(path: Path) -> Mapping[str, Tensor]:
    """The tensors of one safetensors file. Raises FtdError for anything that is not exactly so."""
    with tree.opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise broken(f"{path.name} is too short for a safetensors file.")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise broken(
                f"{path.name}: its header claims {length:,} bytes; at most {MAX_HEADER_BYTES:,} "
                "are allowed. Is this a safetensors file?"
            )
        if 8 + length > size:
            raise broken(f"{path.name} is cut off: it ends before its header does.")
        header = parse_json(file.read(length), path.name)
    header.pop("__metadata__", None)
    if not header:
        raise broken(f"{path.name} holds no tensors.")
    if len(header) > MAX_TENSORS:
        raise broken(
            f"{path.name} has {len(header):,} tensors; at most {MAX_TENSORS:,} are allowed."
        )
    return _tensors(header, data_bytes=size - 8 - length, file=path.name)


def _tensors(header: Mapping[str, Any], *, data_bytes: int, file: str) -> Mapping[str, Tensor]:
    tensors = {}
    spans = []
    for name, entry in header.items():
        where = f"{file}: tensor {shown(name)}"
        tensor, begin, end = _tensor(entry, where)
        tensors[name] = tensor
        spans.append((begin, end, where))
    at = 0
    for begin, end, where in sorted(spans):
        if begin != at:
            raise broken(
                f"{where} {'overlaps another' if begin < at else 'leaves a gap before it'}."
            )
        at = end
    if at != data_bytes:
        short = "is cut off" if at > data_bytes else "has bytes that belong to no tensor"
        raise broken(f"{file} {short}: its tensors need {at:,} bytes, {data_bytes:,} are there.")
    return tensors


def _tensor(entry: object, where: str) -> tuple[Tensor, int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            pass
        case _:
            raise broken(f"{where} has no dtype, shape and two data_offsets.")
    if dtype not in _BITS:
        raise broken(f"{where} has the unknown dtype {shown(dtype)}.")
    if len(shape) > MAX_DIMENSIONS or not all(_is_count(number) for number in shape):
        raise broken(f"{where} has no sane shape.")
    if not (_is_count(begin) and _is_count(end) and begin <= end):
        raise broken(f"{where} has no sane data_offsets.")
    elements = math.prod(shape)
    if elements * _BITS[dtype] != 8 * (end - begin):
        raise broken(f"{where} has {end - begin:,} bytes, which its shape and dtype contradict.")
    return Tensor(dtype=dtype, elements=elements), begin, end


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _read_index(path: Path, names: frozenset[str]) -> Mapping[str, str]:
    document = read_json(path, limit_bytes=MAX_INDEX_BYTES)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or len(weight_map) > MAX_TENSORS:
        raise broken(f"{INDEX} has no weight_map of 1 to {MAX_TENSORS:,} tensors.")
    if not isinstance(document.get("metadata"), dict):
        raise broken(f"{INDEX} has no metadata, which transformers asks for; an empty one will do.")
    shards = set()
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _SHARD.match(shard):
            raise unsafe(
                f"{INDEX} names {shown(shard)}, which is no plain *.safetensors file name."
            )
        shards.add(shard)
    if len(shards) > MAX_SHARDS:
        raise broken(f"{INDEX} names {len(shards):,} files; at most {MAX_SHARDS:,} are allowed.")
    if lost := shards - names:
        raise broken(f"{INDEX} names {min(lost)}, and there is no such file.")
    return weight_map


def _weights(files: tuple[str, ...], tensors: Mapping[str, Tensor]) -> Weights:
    by_dtype: Counter[str] = Counter()
    for tensor in tensors.values():
        by_dtype[tensor.dtype] += tensor.elements
    (dtype, _), *_ = by_dtype.most_common(1)
    if dtype not in _TRAINABLE:
        raise unsupported(
            f"most of the weights are {dtype}. Quantised weights cannot be trained; take the "
            "model's float32, float16 or bfloat16 release, or its .gguf file."
        )
    parameters = sum(count for kind, count in by_dtype.items() if kind in _TRAINABLE)
    return Weights(files=files, parameters=parameters, dtype=_TRAINABLE[dtype])
