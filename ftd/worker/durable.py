"""Files and directories that are still there after a power cut, and disks that have no room."""

import os
from pathlib import Path

from ftd.core.errors import FULL_DISK


def fsync(path: Path) -> None:
    """Have the disk hold what this file, or this directory's list of names, is now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lacks_space(error: BaseException) -> bool:
    """Whether this was for want of space. safetensors and tokenizers, which are written in Rust,
    say so in words alone: "No space left on device (os error 28)"."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK
    return any(f"(os error {number})" in str(error) for number in FULL_DISK)
