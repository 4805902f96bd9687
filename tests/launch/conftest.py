"""A launcher in a home of its own, whose processes end with the test."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from ftd.launch.base import Role
from ftd.launch.local import LocalLauncher
from ftd.launch.sandbox import Sandbox

FAKEWORKER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fakeworker.py")))
PROGRAMS = dict.fromkeys(Role, FAKEWORKER)
SANDBOX = Sandbox(read=(Path(__file__).parents[1],))  # where the fake workers lie


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[LocalLauncher]:
    home = tmp_path / "home"
    gpus = tmp_path / "gpus"
    gpus.mkdir()
    launcher = LocalLauncher(
        home, log_bytes=2**16, programs=PROGRAMS, gpu_locks=gpus, sandbox=SANDBOX
    )
    yield launcher
    await launcher.close()
    end(home)


def end(home: Path) -> None:
    """Kill every process that stands in a run of this home, and reap those that are ours."""
    killed = processes(home)
    for process in killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + 10
    while any(alive(process.pid) for process in killed) and time.monotonic() < deadline:
        time.sleep(0.005)
    for child in psutil.Process().children():
        try:
            child.cwd()
        except psutil.Error:  # it is about to end, or has ended
            child.wait()


def processes(home: Path) -> list[psutil.Process]:
    """Shims and workers, zombies not among them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(f"{home}/runs/"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
