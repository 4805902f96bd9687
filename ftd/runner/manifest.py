"""The manifest of a checkpoint, and whether the model in it is what the manifest says.

A trainer wrote both, and a disk kept them: neither is believed. The optimizer's state is not looked
at here; whoever goes on from it hashes that too.
"""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ftd.host import blobs
from ftd.runner.rests import wants

MANIFEST = "MANIFEST.json"
MANIFEST_BYTES = 2**20  # thousands of files
FORMS = ("adapter", "model")  # the directories that hold a model: an adapter, or every weight


class Damaged(Exception):
    """A checkpoint that is not as it was published: another attempt makes a good one."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A checkpoint's model as the manifest has it: in the directory `form`, with this hash (as
    blobs.tree_sha256 makes it)."""

    form: str
    sha256: str


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class _File(_Record):
    name: str
    sha256: str


class _Manifest(_Record):
    files: tuple[_File, ...]


def manifest_sha256(checkpoint: Path) -> str | None:
    """The hash of a checkpoint's manifest, or None where there is none."""
    data = _read(checkpoint)
    return None if data is None else hashlib.sha256(data).hexdigest()


def listed(checkpoint: Path, sha256: str) -> Listed:
    """What the manifest of this hash says of the model.

    Raises Damaged where it is not that manifest, ValueError where it tells of no model.
    """
    data = _read(checkpoint)
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        raise Damaged("its manifest is missing or is not the one that was published")
    try:
        files = _Manifest.model_validate_json(data).files
    except ValidationError as error:
        raise ValueError("its manifest makes no sense") from error
    for form in FORMS:
        hashes = {
            file.name.removeprefix(f"{form}/"): file.sha256
            for file in files
            if file.name.startswith(f"{form}/")
        }
        if hashes:
            return Listed(form, blobs.listed_sha256(hashes))
    raise ValueError("its manifest names no file of a model")


def verify(model: Path, listed: Listed) -> None:
    """Hash the files of a model, gigabytes perhaps. Raises Damaged where they are not those listed
    or the disk has lost them, ValueError for links, pipes and devices."""
    if model.is_symlink():
        raise ValueError(f"{model} is a symbolic link")
    try:
        found = blobs.tree_sha256(model)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Damaged("its model cannot be read any more") from error
    if found != listed.sha256:
        raise Damaged("its model is not what its manifest says")


def _read(checkpoint: Path) -> bytes | None:
    """What is a link, a pipe, a device or too long is no manifest. Raises OSError for want of
    descriptors or memory: that says nothing of it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(checkpoint / MANIFEST, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            data = file.read(MANIFEST_BYTES + 1)
    except OSError as error:
        if wants(error):
            raise
        return None
    return data if len(data) <= MANIFEST_BYTES else None
