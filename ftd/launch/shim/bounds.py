"""How much memory and how many processes a worker may take, with all that it starts.

Where the daemon's control group was delegated to it, and it stands in a subgroup of that, each
worker has a group of its own beside and the kernel keeps the bounds (cgroup v2: Delegate=yes and
DelegateSubgroup=). Elsewhere the shim looks every LOOK_S and kills what is over: a worker that
takes memory faster than that meets the kernel, to which it is offered first, and a file in memory
that nobody has mapped is not seen.

The daemon makes no subgroup itself where systemd is older than 254 and does not. A group whose
children have bounds takes no process: the next start, for which systemd puts one there, would fail
as long as a job runs.
"""

import contextlib
import os
from typing import NamedTuple

from . import memory
from .processes import children

LOOK_S = 1.0
_TAKEN = ("RssAnon:", "RssShmem:")


class Bounds(NamedTuple):
    memory_bytes: int = 0  # 0: any
    processes: int = 0


def enclose(
    name: str, bounds: Bounds, groups: str = memory.GROUPS, tree: str = memory.TREE
) -> str | None:
    """Make a control group with these bounds; None where that is not ours to do."""
    try:
        above = os.path.dirname(_own(groups, tree))
        if os.getxattr(above, "user.delegate") != b"1":
            return None
        _write(f"{above}/cgroup.subtree_control", "+memory +pids")
        group = f"{above}/{name}"
        os.mkdir(group)
    except OSError:
        return None
    try:
        if bounds.memory_bytes:
            _write(f"{group}/memory.max", str(bounds.memory_bytes))
            _write(f"{group}/memory.oom.group", "1")  # a helper's end would leave half a worker
        if bounds.processes:
            _write(f"{group}/pids.max", str(bounds.processes))
    except OSError:
        leave(group)
        return None
    return group


def enter(group: str) -> None:
    """Move this process into a group. Raises OSError."""
    _write(f"{group}/cgroup.procs", "0")


def leave(group: str) -> None:
    """Remove a group that nobody is in any more."""
    with contextlib.suppress(OSError):
        os.rmdir(group)


def excess(bounds: Bounds, pids: list[int]) -> str | None:
    """Which bound these processes are over, in words; None if none is."""
    if bounds.processes and len(pids) > bounds.processes:
        return f"{len(pids)} processes of {bounds.processes}"
    taken = sum(map(_taken_bytes, pids))
    if bounds.memory_bytes and taken > bounds.memory_bytes:
        return f"{taken} bytes of memory of {bounds.memory_bytes}"
    return None


def descendants() -> list[int]:
    """The processes below this one: orphans too, for it is their parent then."""
    below = children()
    found = list(below.get(os.getpid(), []))
    for pid in found:  # it grows meanwhile
        found += below.get(pid, [])
    return found


def _taken_bytes(pid: int) -> int:
    """Its own memory and what it shares, which counts for each who does: not files on a disk that
    it has mapped, which cost nothing."""
    try:
        with open(f"/proc/{pid}/status") as file:
            lines = [line.split() for line in file if line.startswith(_TAKEN)]
    except OSError:
        return 0
    return sum(int(kilobytes) * 1024 for _, kilobytes, *_ in lines)


def _own(groups: str, tree: str) -> str:
    """The directory of our control group. Raises FileNotFoundError where there is no version 2."""
    with open(groups) as file:
        for line in file:
            if line.startswith("0::/"):
                return os.path.join(tree, line.rstrip("\n")[4:])
    raise FileNotFoundError(groups)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
