"""A model's directory on disk: copied, hashed, and published by one rename."""

import errno
import hashlib
import os
from pathlib import Path

from ftd.worker.durable import fsync

_CHUNK_BYTES = 2**30  # one call moves at most 2 GiB
# What copy_file_range says where it cannot serve two files; sendfile always can.
_CANNOT = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


def copy(source: Path, target: Path) -> None:
    """Copy one file's bytes: as shared extents where the file system can, inside the kernel else.

    A link is refused with OSError (ELOOP), `target` must not exist.
    """
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with target.open("xb") as file:
            _copy_all(reader, file.fileno())
    finally:
        os.close(reader)


def sha256(directory: Path) -> str:
    """One hash over the names and contents of a flat directory's files.

    It is the sha256 of what `LC_ALL=C sha256sum *` prints in that directory.
    """
    listing = hashlib.sha256()
    for file in sorted(directory.iterdir()):
        listing.update(f"{file_sha256(file)}  {file.name}\n".encode())
    return listing.hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(temporary: Path, final: Path) -> None:
    """Make a flat directory appear under its final name, whole or not at all, for good."""
    for file in temporary.iterdir():
        fsync(file)
    fsync(temporary)
    temporary.rename(final)
    fsync(final.parent)


def _copy_all(reader: int, writer: int) -> None:
    try:
        while os.copy_file_range(reader, writer, _CHUNK_BYTES):
            pass
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    while os.sendfile(writer, reader, None, _CHUNK_BYTES):
        pass
