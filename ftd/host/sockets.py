"""Where the daemon's socket lies, and that nobody else can put one of his own in its place.

Whoever could would be told the key of each client that calls.
"""

import contextlib
import os
import stat
from hashlib import sha256
from pathlib import Path

from ftd.core.errors import FtdError, Kind

NAME = "ftd.sock"
OWN_DIRECTORY = "/tmp/ftd-{uid}"  # noqa: S108 - what lies there is looked at before it is trusted


def path(home: Path) -> Path:
    """The path of the home's socket: a short one, whatever the home's is. Makes its directory.

    Raises FORBIDDEN where that is not ours alone to write.
    """
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if runtime:
        return _ours(Path(runtime)) / NAME
    session = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(session) if session else _ours(Path(OWN_DIRECTORY.format(uid=os.getuid())))
    return _ours(base / f"ftd-{sha256(os.fsencode(home)).hexdigest()[:16]}") / NAME


def leave(socket: Path) -> None:
    """Remove the directory of a socket that is gone, if that is of our making and empty."""
    if "RUNTIME_DIRECTORY" not in os.environ:
        with contextlib.suppress(OSError):
            socket.parent.rmdir()


def _ours(directory: Path) -> Path:
    """Anybody may have made that name before us: in /tmp, say."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        raise FtdError(
            Kind.FORBIDDEN, f"{directory} is no directory for a socket: {error.strerror}"
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        why = "is no directory"
    elif status.st_uid != os.getuid():
        why = "is somebody else's"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        why = "can be written by others"
    else:
        return directory
    raise FtdError(
        Kind.FORBIDDEN,
        f"{directory} {why}, who could take the place of ftd's socket. Remove it, or set "
        "XDG_RUNTIME_DIR to a directory of your own.",
    )
