"""A model's directory on disk: opened with care, copied, hashed, and published by one rename."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ftd.worker.durable import fsync
from ftd.worker.models.refusal import shown, unsafe

_CHUNK_BYTES = 2**30  # one call moves at most 2 GiB
# What copy_file_range says where it cannot serve two files; sendfile always can.
_CANNOT = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


def opened(path: Path) -> BinaryIO:
    """A file of a directory that others may change meanwhile, opened for reading.

    Its name may be a link to a place below its own directory; every step there is taken without
    following another, and what is no file any more is not waited for. Raises FtdError, or OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with _below(path) as (directory, name):
            file = os.fdopen(os.open(name, flags, dir_fd=directory), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise unsafe(f"{shown(path.name)} became a link or a pipe meanwhile.") from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise unsafe(f"{shown(path.name)} is no file, or is none any more.")
    return file


def steps_of(link: str) -> tuple[str, ...] | None:
    """The steps from a link's own directory to what it stands for; None where that is not below."""
    parts = PurePosixPath(link).parts
    return None if not parts or link.startswith("/") or ".." in parts else parts


def copy(source: Path, target: Path) -> None:
    """Copy one file's bytes: as shared extents where the file system can, inside the kernel else.

    As many as there are when it is opened, whoever goes on writing; `target` must not exist. What
    is no file, or leads elsewhere, raises FtdError.
    """
    with opened(source) as reader, target.open("xb") as writer:
        _copy_all(reader.fileno(), writer.fileno(), os.fstat(reader.fileno()).st_size)


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


@contextmanager
def _below(path: Path) -> Iterator[tuple[int, str]]:
    """The directory that a path's last name leads to, open, and the name in it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    directory = os.open(path.parent, flags)
    try:
        steps = _steps(directory, path.name)
        for step in steps[:-1]:
            below = os.open(step, flags | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
        yield directory, steps[-1]
    finally:
        os.close(directory)


def _steps(directory: int, name: str) -> tuple[str, ...]:
    try:
        link = os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EINVAL:  # it is no link
            raise
        return (name,)
    steps = steps_of(link)
    if steps is None:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return steps


def _copy_all(reader: int, writer: int, size: int) -> None:
    left = size
    try:
        while left and (moved := os.copy_file_range(reader, writer, min(left, _CHUNK_BYTES))):
            left -= moved
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    while left and (moved := os.sendfile(writer, reader, None, min(left, _CHUNK_BYTES))):
        left -= moved
