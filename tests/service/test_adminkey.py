"""The key file: whole or not there, whatever happens while it is made."""

import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.service import adminkey
from ftd.service.adminkey import read_or_make

CHOICE = random.Random(1).choice

# A start that finds what one before it left, and is killed at its nth call of a kind.
KILLED = """
import os, random, signal, sys
from pathlib import Path
from ftd.service import adminkey

name, nth, path = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
path.with_name(".admin.key").touch()
made, real = [], getattr(os, name)

def call(*args, **more):
    made.append(args)
    if len(made) == nth:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **more)

setattr(os, name, call)
adminkey.read_or_make(path, random.choice)
"""


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    made = read_or_make(path, CHOICE)
    assert path.read_text() == made + "\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_or_make(path, CHOICE) == made
    assert [one.name for one in tmp_path.iterdir()] == ["admin.key"]


def test_a_full_disk_leaves_nothing_and_the_next_start_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            read_or_make(path, CHOICE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []
    assert read_or_make(path, CHOICE)


@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("unlink", 1), ("open", 1), ("fdopen", 1), ("fsync", 1),  # nothing has its name yet
        ("link", 1), ("unlink", 2), ("open", 2), ("fsync", 2),  # of the directory
    ],
)  # fmt: skip
def test_a_kill_at_any_call_leaves_a_whole_key_or_none(tmp_path: Path, call: str, nth: int) -> None:
    path = tmp_path / "admin.key"
    killed = subprocess.run([sys.executable, "-c", KILLED, call, str(nth), str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists() or len(path.read_text().strip()) >= adminkey.LEAST
    made = read_or_make(path, CHOICE)
    assert path.read_text() == made + "\n"
    assert [one.name for one in tmp_path.iterdir()] == ["admin.key"]


def test_an_empty_file_never_was_a_key(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.touch(0o600)
    made = read_or_make(path, CHOICE)
    assert path.read_text() == made + "\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    read_or_make(path, CHOICE)
    path.chmod(0o644)
    with pytest.raises(FtdError, match="chmod 600"):
        read_or_make(path, CHOICE)


def test_a_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(FtdError, match="16 characters"):
        read_or_make(path, CHOICE)
    assert path.read_text() == "short\n"
