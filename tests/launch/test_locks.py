"""Where locks lie, whom their directories are trusted to, and what a look at one does."""

import fcntl
import os
from pathlib import Path

import pytest

from ftd.core.device import Device
from ftd.launch import locks
from ftd.launch.shim import locks as shim
from tests.launch.conformance import CPU

CARD = Device(id="MIG-GPU-1/7/0", kind="cuda", name="card", memory_bytes=1)


def test_a_look_finds_the_holder_and_removes_a_free_file(tmp_path: Path) -> None:
    path = tmp_path / "job.lock"
    assert not locks.held(path)
    assert not path.exists(), "to look at a lock does not make one"
    with path.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_SH)
        assert locks.held(path)
        assert path.exists()
    assert not locks.held(path)
    assert not path.exists()


@pytest.mark.parametrize(("directory", "lock"), [(0o2770, 0o660), (0o700, 0o600)])
def test_a_lock_is_as_open_to_the_group_as_its_directory(
    tmp_path: Path, directory: int, lock: int
) -> None:
    place = tmp_path / "locks"
    place.mkdir()
    place.chmod(directory)
    held: list[int] = []
    assert shim.take([shim.Lock(str(place / "GPU-1.lock"), shared=False)], held) is None
    assert (place / "GPU-1.lock").stat().st_mode & 0o777 == lock
    os.close(held.pop())


def test_a_lock_lives_as_long_as_any_copy_of_its_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "job.lock"
    with path.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        copy = os.dup(holder.fileno())
    assert locks.held(path)
    os.close(copy)
    assert not locks.held(path)


def test_a_device_is_locked_where_all_who_could_use_it_look(tmp_path: Path) -> None:
    home, gpus = tmp_path / "home", tmp_path / "gpus"
    assert locks.device_lock(home, CPU, gpus) == home / "locks" / "cpu.lock"
    assert locks.device_lock(home, CARD, gpus) == gpus / "MIG-GPU-1%2F7%2F0.lock"


def test_a_trainer_shares_the_cpu_with_servers_and_not_with_trainers(tmp_path: Path) -> None:
    cpu, trainer = tmp_path / "locks" / "cpu.lock", tmp_path / "locks" / "cpu.trainer.lock"
    card = tmp_path / "MIG-GPU-1%2F7%2F0.lock"
    assert locks.device_locks(tmp_path, CPU, shared=False) == [(cpu, True), (trainer, False)]
    assert locks.device_locks(tmp_path, CPU, shared=True) == [(cpu, True)]
    assert locks.device_locks(tmp_path, CARD, shared=False, gpus=tmp_path) == [(card, False)]
    assert locks.device_locks(tmp_path, CARD, shared=True, gpus=tmp_path) == [(card, True)]


def test_gpu_locks_lie_in_the_system_directory_or_in_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SHARED_DIRECTORY", tmp_path / "lock" / "ftd")
    monkeypatch.setattr(locks, "OWN_DIRECTORY", str(tmp_path / "ftd-{uid}"))
    own = tmp_path / f"ftd-{os.getuid()}"
    assert locks.gpu_directory() == own, "/run/lock is not there"
    assert own.stat().st_mode & 0o777 == 0o700
    (tmp_path / "lock").mkdir()
    assert locks.gpu_directory() == tmp_path / "lock" / "ftd"
    assert locks.device_lock(tmp_path, CARD).parent == tmp_path / "lock" / "ftd"
    (tmp_path / "lock" / "ftd").chmod(0o777)
    assert locks.gpu_directory() == own, "anybody may remove what lies there"


@pytest.mark.parametrize("planted", ["link", "file", "open"])
def test_a_directory_that_is_not_ours_alone_is_not_trusted(tmp_path: Path, planted: str) -> None:
    path = tmp_path / "ftd-0"
    match planted:
        case "link":
            (tmp_path / "elsewhere").mkdir()
            path.symlink_to(tmp_path / "elsewhere")
        case "file":
            path.write_text("")
        case "open":
            path.mkdir()
            path.chmod(0o777)
    with pytest.raises(OSError, match="ftd-0"):
        locks.trusted(path)
