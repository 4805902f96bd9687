"""The columns of a token directory (ftd.core.tokens), as they are written, sealed and found."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ftd.core.tokens import (
    COLUMNS,
    MANIFEST,
    MANIFEST_BYTES,
    Counts,
    Hashes,
    Identity,
    Manifest,
    file_of,
)
from ftd.worker.durable import fsync

_READ_BYTES = 2**20


@dataclass(slots=True, kw_only=True)
class Part:
    """The examples of one part of a file, ready to be appended; cheap to send to a process.

    `lengths` has the tokens of each row, `widths` the rows of each example. `lines` are all that
    were read, `read` those that held an example; `refusal` is the first one's line, counted from
    1 in this part, and its reason.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float16]
    lengths: NDArray[np.int64]
    widths: NDArray[np.int64]
    lines: int = 0
    read: int = 0
    truncated: int = 0
    untrained: int = 0
    refused: int = 0
    refusal: tuple[int, str] | None = None
    codes: dict[str, int] = field(default_factory=dict)


class Writer:
    """Appends parts to the columns; they are on the disk, not yet sealed, when it closes without
    a fault."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        self._files = {name: (out / file_of(name)).open("wb") for name in COLUMNS}
        self._hashes = {name: hashlib.sha256() for name in COLUMNS}
        self._tokens = 0
        self._rows = 0
        self._append("rows", np.zeros(1, np.int64))
        self._append("examples", np.zeros(1, np.int64))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for file in self._files.values():
            with file:
                if kind is None:
                    file.flush()
                    os.fsync(file.fileno())

    def add(self, part: Part) -> None:
        self._append("ids", part.ids)
        self._append("weights", part.weights)
        self._append("rows", self._tokens + np.cumsum(part.lengths))
        self._append("examples", self._rows + np.cumsum(part.widths))
        self._tokens += len(part.ids)
        self._rows += len(part.lengths)

    @property
    def hashes(self) -> Hashes:
        return Hashes(**{name: hash_.hexdigest() for name, hash_ in self._hashes.items()})

    def _append(self, name: str, values: NDArray[np.generic]) -> None:
        data = values.tobytes()
        self._files[name].write(data)
        self._hashes[name].update(data)


def seal(out: Path, manifest: Manifest) -> None:
    """Say, durably, that everything else is durable."""
    draft = out / f"{MANIFEST}.draft"
    draft.write_bytes(manifest.model_dump_json().encode())
    fsync(draft)
    draft.replace(out / MANIFEST)
    fsync(out)


def sealed(directory: Path, identity: Identity, pulse: Callable[[], None]) -> Counts | None:
    """What was counted there, if it was this very file, and every byte is as it was written."""
    try:
        with (directory / MANIFEST).open("rb") as file:
            manifest = Manifest.read(file.read(MANIFEST_BYTES + 1))
        if manifest.identity != identity:
            return None
        sizes, hashes = manifest.counts.sizes(), manifest.sha256.model_dump()
        paths = {name: directory / file_of(name) for name in COLUMNS}
        if any(path.stat().st_size != sizes[name] for name, path in paths.items()):
            return None
        whole = all(sha256(path, pulse) == hashes[name] for name, path in paths.items())
    except (FileNotFoundError, ValueError):
        return None
    return manifest.counts if whole else None


def sha256(path: Path, pulse: Callable[[], None]) -> str:
    """The hash of a file of any size; `pulse` is called all along."""
    hash_ = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            hash_.update(data)
            pulse()
    return hash_.hexdigest()
