"""Control groups of workers on a tree of files: what is written where the kernel would read it."""

import os
from pathlib import Path

import pytest

from ftd.launch.shim import bounds, memory
from ftd.launch.shim.bounds import Bounds


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A group of ftd's as systemd delegates it, with the daemon in a subgroup."""
    service = tmp_path / "tree" / "system.slice" / "ftd.service"
    (service / "daemon").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/system.slice/ftd.service/daemon\n")
    try:
        os.setxattr(service, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"no attributes on this disk: {error}")
    return service


def enclose(service: Path, limits: Bounds) -> str | None:
    place = service.parents[2]
    return bounds.enclose("run-1", limits, str(place / "cgroup"), str(place / "tree"))


def test_a_worker_has_a_group_of_its_own_beside_the_daemon(service: Path) -> None:
    group = enclose(service, Bounds(2**30, 512))
    assert group == str(service / "run-1")
    assert (service / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert {file.name: file.read_text() for file in (service / "run-1").iterdir()} == {
        "memory.max": "1073741824", "memory.oom.group": "1", "pids.max": "512",
    }  # fmt: skip
    bounds.enter(group)
    assert (service / "run-1" / "cgroup.procs").read_text() == "0"
    (service / "run-1" / "memory.events").write_text("oom 3\noom_kill 2\n")
    assert memory.kills(group=group) == 2


def test_what_is_not_delegated_is_left_alone(service: Path) -> None:
    os.removexattr(service, "user.delegate")
    assert enclose(service, Bounds(2**30, 512)) is None
    assert [path.name for path in service.iterdir()] == ["daemon"]


def test_a_daemon_that_stands_in_the_delegated_group_itself_makes_none(service: Path) -> None:
    """A group with processes cannot be divided."""
    (service.parents[2] / "cgroup").write_text("0::/system.slice/ftd.service\n")
    assert enclose(service, Bounds(2**30, 512)) is None


def test_without_version_2_there_is_none(service: Path) -> None:
    (service.parents[2] / "cgroup").write_text("4:memory:/a\n")
    assert enclose(service, Bounds(2**30, 512)) is None


def test_nobody_is_over_no_bounds() -> None:
    assert bounds.excess(Bounds(), [os.getpid()]) is None
    assert bounds.excess(Bounds(2**50, 2**20), [os.getpid()]) is None
