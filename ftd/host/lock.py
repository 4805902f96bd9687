"""One daemon on a home: a lock that the kernel frees when its holder dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLDER_BYTES = 64


class Held(Exception):
    """Another process holds the lock; the message says which."""


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, with our pid as its text. Raises Held at once if another does.

    The file stays when the lock is let go: one that is removed under a waiting process would
    guard nothing. Children do not inherit the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, _HOLDER_BYTES, 0).decode(errors="replace").strip()
            who = f"the process {holder}" if holder else "another process"
            raise Held(f"{path.parent} is in use: {who} holds {path.name}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
