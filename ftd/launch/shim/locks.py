"""The kernel locks of a job and its devices: held as long as any process has their descriptors."""

import contextlib
import fcntl
import os
from typing import Any, NamedTuple


class Lock(NamedTuple):
    """A file to lock, alone or together with others who share it."""

    path: str
    shared: bool


def as_lock(value: Any) -> Lock:
    """Raises ValueError for what is no lock."""
    match value:
        case {"path": str(path), "shared": bool(shared)}:
            return Lock(path, shared)
        case _:
            raise ValueError("no lock")


def take(locks: list[Lock], held: list[int]) -> str | None:
    """Take all locks into `held`, or none and answer the path of one that another holds."""
    for path, shared in locks:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        held.append(descriptor)
        share_as_directory(path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
            # Who finds a lock free may remove its file: then ours guards nothing.
            free = os.path.samestat(os.fstat(descriptor), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            free = False
        if not free:
            while held:
                os.close(held.pop())
            return path
    text = f"{os.path.basename(os.getcwd())} (pid {os.getpid()})\n".encode()
    for descriptor in held:
        with contextlib.suppress(OSError):  # on a full disk the lock holds, only its text is old
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text, 0)
    return None


def share_as_directory(path: str, descriptor: int) -> None:
    """Open a lock file of ours to the group where its directory is: to whoever may make such
    files there, who must be able to see ours held."""
    if os.fstat(descriptor).st_uid == os.getuid():
        os.fchmod(descriptor, os.stat(os.path.dirname(path)).st_mode & 0o660)


def holder(path: str) -> str:
    """Who holds a lock, by what the holder wrote: its run and the pid of its shim."""
    with contextlib.suppress(OSError), open(path, errors="replace") as file:
        return file.read(200).strip() or "somebody"
    return "somebody"
