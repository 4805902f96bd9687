"""Control groups of memory, for tests that run out of it: made where root may, else skipped."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def limited(limit_bytes: int) -> Iterator[Path]:
    """Put this process, and what it starts, into a group with so much memory.

    What it has already counts for its old group. Skips where no such group can be made. Whoever is
    to be ended for want of memory offers itself: this process must not be found first.
    """
    parent, limit = _place()
    group = parent / f"ftd-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(limit_bytes))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no control group of memory can be made here: {error}")
    offered = Path("/proc/self/oom_score_adj")
    before = offered.read_text()
    offered.write_text("0")
    try:
        yield group
    finally:
        offered.write_text(before)
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                (parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def _place() -> tuple[Path, str]:
    """Our own group and the name of its limit, of version 1 or 2 of control groups."""
    tree = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return tree / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
        if not controllers and (tree / "cgroup.controllers").exists():
            return tree / path.lstrip("/"), "memory.max"
    pytest.skip("there are no control groups here")
