"""The ballast: a file of the home that only takes space, to be given up when the disk is full.

A daemon that cannot write cannot even keep what is true: that a job was cancelled, why it waits.
At the first sign of a full disk the ballast goes, and what is known already can be kept again; new
work is refused until there is room for the ballast once more, and for as much beside it.
"""

import os
import shutil
import threading
from pathlib import Path

from ftd.core.errors import FULL_DISK

NEAR = 8  # the disk counts as full when a ballast's eighth is left
ROOM = 2  # and as roomy when so many ballasts would fit,
LEAST = 2**20  # or, where there is none, so many bytes


class Space:
    """The space of the home's disk, for any thread. `full` says that new work has to wait."""

    def __init__(self, home: Path, ballast_bytes: int) -> None:
        """Without a ballast (0 bytes) there is nothing to give up."""
        self.full = False
        self._ballast = home / "ballast"
        self._bytes = ballast_bytes
        self._lock = threading.Lock()

    def relieve(self) -> bool:
        """Somebody found the disk full. True: there is some space now, try again."""
        with self._lock:
            self.full = True
            if not self._ballast.exists():
                return False
            self._ballast.unlink()
            return True

    def look(self) -> None:
        """Take the ballast up again, or give it up, as the disk is now. Blocks for milliseconds;
        to be called about once a second. Raises OSError, but not for want of space."""
        with self._lock:
            free = shutil.disk_usage(self._ballast.parent).free
            if self._ballast.exists():
                self.full = free < self._bytes // NEAR
                if self.full:
                    self._ballast.unlink()
            elif free >= max(ROOM * self._bytes, LEAST):
                self.full = not self._take()
            else:
                self.full = True

    def _take(self) -> bool:
        """Make the ballast; False when the disk was filled meanwhile."""
        if not self._bytes:
            return True
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._bytes)
        except OSError as error:
            self._ballast.unlink()
            if error.errno not in FULL_DISK:
                raise
            return False
        finally:
            os.close(descriptor)
        return True
