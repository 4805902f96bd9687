"""Files and directories that are still there after a power cut."""

import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Have the disk hold what this file, or this directory's list of names, is now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
