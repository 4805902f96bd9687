"""The end of a daemon: whatever its threads do, it is quick."""

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
    serve = [sys.executable, "-m", "ftd", "serve", "--home", str(home), "--rest", "127.0.0.1:0"]
    with subprocess.Popen(serve) as first:
        until((home / "endpoint.json").exists, 30)
        first.kill()
    (home / "endpoint.json").unlink()
    filler = fill(small_disk)
    refused = subprocess.run(serve, capture_output=True, text=True, timeout=30)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == f"ftd: the disk of {home} is full"
    filler.unlink()
    with subprocess.Popen(serve) as again:
        until((home / "endpoint.json").exists, 30)
        again.kill()
