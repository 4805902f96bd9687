"""Bytes on disk that outlive a power cut: linked or copied, hashed, and published by one rename."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

_CHUNK_BYTES = 2**30  # one call moves at most 2 GiB
# What link and copy_file_range say where they cannot serve two files; the next way down can.
_CANNOT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP})
_CANNOT_SHARE = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


def link_or_copy(source: Path, target: Path) -> None:
    """Give the bytes of a file, or of every file of a directory, a second name.

    Hard links where the file system allows, copies where it does not (another file system, too
    many links). `target` must not exist and its parent must. Raises ValueError for a symbolic
    link, a pipe or a device: a trainer wrote the tree, and a link could name any secret of ours.
    Nothing is synced: publish does that.
    """
    if not source.is_dir():
        _link_or_copy_file(source, target)
        return
    target.mkdir()
    for file in _files(source):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy_file(file, place)


def copy_file(source: Path, target: Path) -> None:
    """Copy one file's bytes: as shared extents where the file system can, inside the kernel else.

    `target` must not exist; it is a plain new file, whatever mode and owner the source had.
    """
    with source.open("rb") as reader, target.open("xb") as writer:
        _copy(reader.fileno(), writer.fileno())


def publish(temporary: Path, final: Path) -> None:
    """Make a finished file or directory appear under its final name, whole or not at all.

    Both names are on one file system. Everything is synced before the rename and the parent
    directory after it: when this returns, a power cut cannot take it back. An existing file is
    replaced; an existing directory that is not empty raises OSError and nothing has changed.
    """
    sync_tree(temporary)
    temporary.rename(final)
    sync(final.parent)


def sync_tree(path: Path) -> None:
    """Have the disk hold the file, or the directory and all that is below it."""
    for directory, _, names in os.walk(path):
        for name in names:
            sync(Path(directory, name))
        if Path(directory) != path:
            sync(Path(directory))
    sync(path)


def sync(path: Path) -> None:
    """Have the disk hold what this file, or this directory's list of names, is now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tree_sha256(directory: Path) -> str:
    """One hash over the relative names and contents of all files of a directory.

    It is the sha256 of the listing that `sha256sum` prints for the files in byte order:
    `find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum`.
    """
    return listed_sha256(
        {str(file.relative_to(directory)): file_sha256(file) for file in _files(directory)}
    )


def listed_sha256(hashes: Mapping[str, str]) -> str:
    """The same from the sha256 of each file, by its name relative to the directory."""
    listing = hashlib.sha256()
    for name, sha256 in sorted((os.fsencode(name), sha256) for name, sha256 in hashes.items()):
        listing.update(sha256.encode() + b"  " + name + b"\n")
    return listing.hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path) -> Iterator[Path]:
    """Every regular file below; raises ValueError for what is neither that nor a directory."""
    for parent, directories, names in os.walk(directory):
        for name in directories:
            if Path(parent, name).is_symlink():
                raise ValueError(f"{Path(parent, name)} is a symbolic link")
        for name in names:
            yield _regular(Path(parent, name))


def _regular(path: Path) -> Path:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path} is not a regular file")
    return path


def _link_or_copy_file(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(_regular(source))
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        copy_file(source, target)


def _copy(reader: int, writer: int) -> None:
    try:
        while os.copy_file_range(reader, writer, _CHUNK_BYTES):
            pass
    except OSError as error:
        if error.errno not in _CANNOT_SHARE:
            raise
    while os.sendfile(writer, reader, None, _CHUNK_BYTES):
        pass
