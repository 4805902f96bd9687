"""Who started whom, as the kernel tells it."""

import contextlib
import os


def children() -> dict[int, list[int]]:
    """The processes that there are, by their parent. An orphan's is the nearest subreaper."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                # pid (name) state parent ...; the name may hold anything.
                parent = int(file.read().rpartition(b")")[2].split()[1])
                found.setdefault(parent, []).append(int(entry))
    return found
