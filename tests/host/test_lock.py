"""The lock on a home: one holder, known by name, gone with its process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftd.host import lock

HOLDER = """
import os, sys
from pathlib import Path
from ftd.host import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_holder_learns_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "daemon.lock"
    with holder(path) as first:
        expected = f"{tmp_path} is in use: the process {first.pid} holds daemon.lock"
        with pytest.raises(lock.Held, match=f"^{expected}$"), lock.hold(path):
            pass
        assert path.read_text() == f"{first.pid}\n", "asking changes nothing"
        first.kill()
        first.wait()
        with lock.hold(path):
            assert path.read_text() == f"{os.getpid()}\n"


def test_a_lock_is_free_after_its_block(tmp_path: Path) -> None:
    path = tmp_path / "daemon.lock"
    with pytest.raises(ZeroDivisionError), lock.hold(path):
        raise ZeroDivisionError
    with lock.hold(path), pytest.raises(lock.Held), lock.hold(path):
        pass
    assert path.read_text() == ""


def test_children_do_not_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "daemon.lock"
    with lock.hold(path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with lock.hold(path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "daemon.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), lock.hold(tmp_path / "daemon.lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_of_any_content_names_somebody(tmp_path: Path) -> None:
    path = tmp_path / "daemon.lock"
    path.write_bytes(b"\xff" * 500)
    with lock.hold(path):
        os.truncate(path, 0)
        with pytest.raises(lock.Held, match="another process holds"), lock.hold(path):
            pass
