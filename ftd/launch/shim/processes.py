"""Who started whom, as the kernel tells it."""

import contextlib
import os

_PARENT, _GROUP = 1, 2  # of the fields of /proc/PID/stat behind the name


def children() -> dict[int, list[int]]:
    """The processes that there are, by their parent. An orphan's is the nearest subreaper."""
    return _by(_PARENT)


def members(group: int) -> list[int]:
    """The processes of a process group."""
    return _by(_GROUP).get(group, [])


def _by(field: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                # pid (name) state parent group ...; the name may hold anything.
                value = int(file.read().rpartition(b")")[2].split()[field])
                found.setdefault(value, []).append(int(entry))
    return found


def own_children() -> list[int]:
    """Those of this process, orphans that were left to it included."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return children().get(os.getpid(), [])
