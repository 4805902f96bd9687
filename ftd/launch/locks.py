"""Kernel locks: where a job's and a device's lie, and whether anybody holds one.

A lock lives as long as any process that has its descriptor. Only the daemon looks, and never
while it has the same lock taken for a start; a shim that meets such a look tries again.
"""

import fcntl
import os
import stat
from pathlib import Path
from urllib.parse import quote

from ftd.core.device import CPU, Device

TRAINER = "trainer.lock"  # who trains on a device where others serve holds this one alone
SHARED_DIRECTORY = Path("/run/lock/ftd")
OWN_DIRECTORY = "/tmp/ftd-{uid}"  # noqa: S108 - what lies there is looked at before it is trusted


def job_lock(home: Path, job: str) -> Path:
    return home / "locks" / f"{quote(job, safe='')}.lock"


def device_lock(home: Path, device: Device, gpus: Path | None = None) -> Path:
    """The CPU is divided by its home. A card is one for all homes, and so is the directory of its
    lock: `gpus`, or by default `gpu_directory()`."""
    directory = home / "locks" if device.id == CPU else gpus or gpu_directory()
    return directory / f"{quote(device.id, safe='')}.lock"


def device_locks(
    home: Path, device: Device, *, shared: bool, gpus: Path | None = None
) -> list[tuple[Path, bool]]:
    """What a tenant of the device locks, and whether it does so together with others."""
    path = device_lock(home, device, gpus)
    if shared or not device.shared:
        return [(path, shared)]
    return [(path, True), (path.with_name(f"{path.stem}.{TRAINER}"), False)]


def gpu_directory() -> Path:
    """Where the locks of GPUs lie: /run/lock/ftd where we may write, else /tmp/ftd-<uid>.

    Raises OSError when neither will do.
    """
    try:
        return trusted(SHARED_DIRECTORY)
    except OSError:
        return trusted(Path(OWN_DIRECTORY.format(uid=os.getuid())))


def trusted(directory: Path) -> Path:
    """Make the directory if it is missing, and see that we can write it and no stranger can.

    Raises PermissionError otherwise: anybody may have made that name before us.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    owned = stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.getuid())
    if not owned or status.st_mode & stat.S_IWOTH or not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"{directory} is no directory of ours to keep locks in")
    return directory


def held(path: Path) -> bool:
    """Whether some process holds the lock. A file that nobody holds is removed.

    Who takes a lock must therefore look, once it has it, whether its file is still there.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
