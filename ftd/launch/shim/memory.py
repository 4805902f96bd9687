"""How often the kernel has killed for want of memory in the control group that we live in.

A worker that ends by SIGKILL while this number grows was killed by the kernel, and not by somebody:
the number counts the kills for a limit of the group or of one above it, and those for want of
memory in the whole host. A neighbour in the same group that is killed counts too, so of two
coincident deaths the reason of one may be told wrongly.

    version 2   0::/PATH         /sys/fs/cgroup/PATH/memory.events              oom_kill N
    version 1   N:memory:/PATH   /sys/fs/cgroup/memory/PATH/memory.oom_control  oom_kill N
"""

import os

GROUPS = "/proc/self/cgroup"
TREE = "/sys/fs/cgroup"


def at_limit(group: str | None) -> bool:
    """Whether a group of ours has met its own limit, and not only that of all."""
    return group is not None and (_count("oom", f"{group}/memory.events") or 0) > 0


def kills(groups: str = GROUPS, tree: str = TREE, *, group: str | None = None) -> int | None:
    """The number, of another group if one is given; None where the kernel does not tell it:
    without a group of our own, or without a controller of memory in it."""
    for path in [f"{group}/memory.events"] if group else _files(groups, tree):
        if (number := _count("oom_kill", path)) is not None:
            return number
    return None


def _count(name: str, path: str) -> int | None:
    try:
        with open(path) as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    for words in lines:
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def _files(groups: str, tree: str) -> list[str]:
    try:
        with open(groups) as file:
            entries = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    found = []
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        inside = path.lstrip("/")
        if "memory" in controllers.split(","):
            found.append(os.path.join(tree, "memory", inside, "memory.oom_control"))
        elif not controllers:
            found.append(os.path.join(tree, inside, "memory.events"))
    return found
