"""The end of a daemon is quick, whatever its threads do; a start that cannot be says why."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.disks import fill, small_disk
from tests.running import until

__all__ = ["small_disk"]

# A daemon that copies something large in a thread, as when inputs lie on another file system.
BUSY = """
import asyncio, sys, time
from pathlib import Path
import ftd.daemon
from ftd.config import load

async def copy(metrics):
    await asyncio.to_thread(time.sleep, 60)

ftd.daemon._feel_lag = copy
ftd.daemon.serve(load(home=Path(sys.argv[1]), rest="127.0.0.1:0"))
"""


def serve(home: Path) -> list[str]:
    return [sys.executable, "-m", "ftd", "serve", "--home", str(home), "--rest", "127.0.0.1:0"]


def refusal(home: Path) -> subprocess.CompletedProcess[str]:
    """How a daemon ends that cannot start."""
    return subprocess.run(serve(home), capture_output=True, text=True, timeout=30, check=False)


def test_a_new_home_is_its_owners_alone(tmp_path: Path) -> None:
    """Though whoever starts the daemon lets others read what he makes."""
    home = tmp_path / "home"
    with subprocess.Popen(serve(home), umask=0o022) as daemon:
        until((home / "endpoint.json").exists, 30)
        open_to_others = [
            path for path in (home, *home.rglob("*"))
            if not path.is_symlink() and path.lstat().st_mode & 0o077
        ]  # fmt: skip
        daemon.kill()
    assert open_to_others == []


def test_sigterm_does_not_wait_for_a_thread_that_copies(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with subprocess.Popen([sys.executable, "-c", BUSY, str(home)]) as daemon:
        until((home / "endpoint.json").exists, 30)
        started = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0
        assert time.monotonic() - started < 5
    assert not (home / "endpoint.json").exists()


def test_a_start_on_a_full_disk_says_so(small_disk: Path) -> None:
    """No traceback: whoever starts it again, as systemd does, has it serve when there is space."""
    home = small_disk / "home"
    with subprocess.Popen(serve(home)) as first:
        until((home / "endpoint.json").exists, 30)
        first.kill()
    (home / "endpoint.json").unlink()
    filler = fill(small_disk)
    refused = refusal(home)
    assert refused.returncode == 74
    assert refused.stderr.splitlines()[-1] == f"ftd: the disk of {home} is full"
    filler.unlink()
    with subprocess.Popen(serve(home)) as again:
        until((home / "endpoint.json").exists, 30)
        again.kill()


def test_a_first_start_on_a_full_disk_says_so(small_disk: Path) -> None:
    home = small_disk / "home"
    inodes = "remount,nr_inodes=3"  # the disk, the home, one directory
    subprocess.run(["mount", "-o", inodes, str(small_disk)], check=True)
    refused = refusal(home)
    assert refused.returncode == 74
    assert refused.stderr == f"ftd: the disk of {home} is full\n"


def test_where_no_home_can_be_nothing_is_served(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = refusal(tmp_path / "file" / "home")
    assert refused.returncode == 1
    assert refused.stderr.startswith("ftd: there cannot be a home: ")
    assert refused.stderr.endswith(f"Not a directory: '{tmp_path}/file/home'\n")
