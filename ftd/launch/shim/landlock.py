"""Landlock (linux/landlock.h): what files a process may reach, said once, never to be widened.

Each version of its interface (ABI) knows more rights. What the kernel at hand does not know is left
out of the rules, and `lacks` says what then stays open. Nobody can look into another process, by
/proc or ptrace, unless that is confined as it is itself.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Mapping

# The numbers are the same on every processor.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # flag of landlock_create_ruleset: answer the ABI
_PATH_BENEATH = 1
_PATH = struct.Struct("=Qi")  # allowed_access, parent_fd; packed

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR = 1 << 4, 1 << 5, 1 << 6, 1 << 7
MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK = 1 << 8, 1 << 9, 1 << 10, 1 << 11
MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = 1 << 12, 1 << 13, 1 << 14, 1 << 15
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # of what is no directory
_CHANGES = REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | REFER | TRUNCATE

# What may be done with a path and all below it.
RIGHTS = {
    "list": READ_DIR,
    "read": READ_DIR | READ_FILE,
    "run": READ_DIR | READ_FILE | EXECUTE,
    "use": READ_DIR | READ_FILE | WRITE_FILE | IOCTL_DEV,
    # No link that others may follow, no pipe that they may wait at, no device.
    "write": READ_DIR | READ_FILE | WRITE_FILE | _CHANGES,
    "link": READ_DIR | READ_FILE | WRITE_FILE | _CHANGES | MAKE_SYM,
}
_SINCE = {REFER: 2, TRUNCATE: 3, IOCTL_DEV: 5}  # all others: 1
_ALL = 2**16 - 1
_NET = 0b11  # to bind and to connect TCP sockets
_SCOPES = 0b11  # abstract unix sockets and signals
NET_SINCE, SCOPES_SINCE = 4, 6

_LACKS = {
    3: "files that may only be read can be cut short",
    SCOPES_SINCE: "signals reach other processes of the same user",
}

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """The kernel's version of Landlock; 0 where there is none, or it is switched off."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION)))


def lacks(version: int) -> list[str]:
    """What stays open with this version, in words for people."""
    if version == 0:
        return ["no Landlock (Linux 5.13): files are not guarded"]
    missing = [(since, what) for since, what in _LACKS.items() if version < since]
    return [f"Landlock {version} < {since}: {what}" for since, what in missing]


def handled(version: int) -> int:
    """The rights on files that this version knows; all that is not granted is denied."""
    return _ALL & ~sum(right for right, since in _SINCE.items() if version < since)


def restrict(grants: Mapping[str, Iterable[str]], version: int, *, net: bool) -> None:
    """Confine this thread, and all that it will start, to the paths granted under RIGHTS' names.

    A path that is not there is skipped. TCP is denied unless `net`. Raises OSError.
    """
    files = handled(version)
    attributes = struct.pack("=Q", files)
    if version >= NET_SINCE:
        attributes += struct.pack("=Q", 0 if net else _NET)
    if version >= SCOPES_SINCE:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for name, paths in grants.items():
            for path in paths:
                _grant(ruleset, path, RIGHTS[name] & files)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _grant(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, _PATH.pack(rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes) -> int:
    """Arguments at the width of a register: a variadic call would pass an int as 32 bits."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    answer = int(_libc.syscall(ctypes.c_long(number), *wide))
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return answer
