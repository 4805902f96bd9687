"""Puts a job's inputs into its run directory: linked where the disk can, else copied.

A linked file costs nothing and its bytes outlive a delete of the original.
"""

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

# A link cannot cross file systems, some have none, a file may have too many, and the kernel may
# forbid one to what another user owns.
_COPY_INSTEAD = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})

SPEC = "spec.json"


def place(source: Path, target: Path) -> None:
    """Put the file or directory `source` at `target`, which must not be there yet.

    Raises ValueError for anything else in it: a symbolic link could lead out of it, and a pipe
    or device is no data. Raises OSError as the file system does.
    """
    mode = source.lstat().st_mode
    if stat.S_ISDIR(mode):
        target.mkdir(mode=0o700)
        for entry in source.iterdir():
            place(entry, target / entry.name)
    elif stat.S_ISREG(mode):
        _link(source, target)
    else:
        raise ValueError(f"{source} is neither a file nor a directory")


def lend(source: Path, inside: Path, name: str) -> None:
    """As `place`, at `name` below a run's `inside`, while its worker runs: there whole or not at
    all. What is there already stays."""
    target = inside / name
    if target.exists():
        return
    inside.stat()  # a run that is gone does not come back
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=inside, prefix=".lent-") as directory:
        place(source, Path(directory) / "new")
        try:
            (Path(directory) / "new").rename(target)
        except OSError as error:  # somebody was faster, with the same
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def write(path: Path, data: bytes) -> None:
    """A small file of our own, on the disk before anybody is told of it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def discard(inside: Path) -> None:
    """Remove what `place` put there; the spec stays, for whoever asks what the run was told."""
    for entry in list(inside.iterdir()) if inside.is_dir() else []:
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != SPEC:
            entry.unlink()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _COPY_INSTEAD:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
