"""Bytes that no row names: set aside at a start in home/unknown, and removed when they are old.

    right:  an older database was put back, and what came since is found in home/unknown
    wrong:  the start takes what it does not know for rubbish, and the newest uploads are gone

Bytes whose row was lost cannot be told from those whose row was never written: both are kept. How
long they have lain there is in their modification time, which is set when they are moved. What a
removal that was cut short has left counts from then, and goes later.
"""

import logging
import os
import shutil
from collections.abc import Collection
from itertools import count
from pathlib import Path

from ftd.host import blobs
from ftd.host.home import Home

log = logging.getLogger(__name__)


def set_aside(paths: Collection[Path], home: Home, now: int) -> None:
    """Move files and directories of the home into home/unknown, each to the same place below it.

    What was set aside earlier under the same name stays. When this returns, a power cut cannot take
    it back. Blocks, and says what it did; what cannot be moved stays where it is, with a warning.
    """
    moved = [place for path in paths if (place := _move(path, home, now)) is not None]
    if not moved:
        return
    # The new names first: never is there a moment with neither.
    new, old = {place.parent for place in moved}, {path.parent for path in paths}
    for directory in (*new, home.unknown, home.root, *old):
        blobs.sync(directory)
    log.warning(
        "bytes that no row names are set aside",
        extra={"count": len(moved), "place": " ".join(sorted(str(place) for place in new))},
    )


def forget(home: Home, before: float) -> None:
    """Remove what was set aside at `before` or earlier. Follows no link; blocks.

    What cannot be removed stays, with a warning, until the next time.
    """
    for directory in home.unknown.iterdir():
        if directory.is_symlink() or not directory.is_dir():
            continue
        for path in directory.iterdir():
            try:
                if path.lstat().st_mtime <= before:
                    _remove(path)
                    log.info("what no row names is removed", extra={"path": path})
            except OSError as error:
                log.warning("what no row names stays", extra={"path": path, "why": str(error)})


def _move(path: Path, home: Home, now: int) -> Path | None:
    """Where it lies now; None where it could not be moved."""
    place = home.unknown / path.relative_to(home.root)
    try:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        _date(path, now)
        place = _free(place)
        path.rename(place)
    except OSError as error:
        log.warning("what no row names stays", extra={"path": path, "why": str(error)})
        return None
    return place


def _date(path: Path, now: int) -> None:
    """Before the move, and on the disk: what arrives with an old time would be removed at once.

    Raises OSError for a link.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.utime(descriptor, (now, now))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(place: Path) -> Path:
    """This name, or with a number behind it: a rename would replace a file, or an empty directory.

    Only the daemon that holds the home moves anything there.
    """
    if not os.path.lexists(place):
        return place
    numbered = (place.with_name(f"{place.name}.{number}") for number in count(2))
    return next(other for other in numbered if not os.path.lexists(other))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
