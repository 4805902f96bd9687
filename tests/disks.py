"""A disk of a few megabytes that a test can fill: a tmpfs, where this process may mount one."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE_BYTES = 32 * 2**20
BLOCK_BYTES = 2**16


@contextmanager
def mounted(place: Path, size_bytes: int) -> Iterator[Path]:
    """Skips where nothing can be mounted, as in most containers."""
    place.mkdir()
    options = f"size={size_bytes},mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        # Lazily: what a failed test has left open there must not keep it.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", SIZE_BYTES) as disk:
        yield disk


def fill(disk: Path, *, leave: int = 0, name: str = "filler") -> Path:
    """Take all the space but so many bytes; unlink what this returns to give it back."""
    filler = disk / name
    with filler.open("wb", buffering=0) as file:
        left = shutil.disk_usage(disk).free - leave
        try:
            while left > 0:
                left -= file.write(bytes(min(left, BLOCK_BYTES)))
        except OSError:
            assert not leave, "somebody else writes there"
    return filler
