"""Control groups of memory, for tests that run out of it: made where root may, else skipped."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def limited(limit_bytes: int) -> Iterator[Path]:
    """Have every Python that is started give itself into a group with so much memory.

    This process stays outside: a kernel that looks for somebody to end takes who has most, whatever
    group that was counted for. Skips where no such group can be made.
    """
    parent, limit = _place()
    group = parent / f"ftd-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(limit_bytes))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no control group of memory can be made here: {error}")
    python = sys.executable
    with tempfile.TemporaryDirectory() as scratch:
        joining = Path(scratch) / "python"
        joining.write_text(
            f'#!/bin/sh\necho $$ > "{group}/cgroup.procs" || exit\nexec "{python}" "$@"\n'
        )
        joining.chmod(0o700)
        sys.executable = str(joining)
        try:
            yield group
        finally:
            sys.executable = python
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
