"""The kernel's count of kills for want of memory, read from directories that look like its own."""

from pathlib import Path

import pytest

from ftd.launch.shim import memory

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
V2 = "low 0\nhigh 12\nmax 8\noom 2\noom_kill 2\noom_group_kill 0\n"


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def kills(tmp_path: Path, groups: str) -> int | None:
    put(tmp_path / "cgroup", groups)
    return memory.kills(str(tmp_path / "cgroup"), str(tmp_path / "tree"))


def test_version_2(tmp_path: Path) -> None:
    put(tmp_path / "tree/system.slice/ftd.service/memory.events", V2)
    assert kills(tmp_path, "0::/system.slice/ftd.service\n") == 2


def test_version_1_beside_a_version_2_without_memory(tmp_path: Path) -> None:
    put(tmp_path / "tree/memory/user/one:two/memory.oom_control", V1)
    groups = "9:name=systemd:/\n4:cpuset,memory:/user/one:two\n0::/\n"
    assert kills(tmp_path, groups) == 3


@pytest.mark.parametrize(("events", "own"), [(V2, True), (V2.replace("oom 2", "oom 0"), False)])
def test_whose_limit_it_was(tmp_path: Path, events: str, own: bool) -> None:
    """The second is what a group sees whose worker was ended for want of the host's memory."""
    put(tmp_path / "run-1/memory.events", events)
    assert memory.at_limit(str(tmp_path / "run-1")) is own
    assert not memory.at_limit(None)


@pytest.mark.parametrize(
    "events", [None, "", "oom 2\n", "oom_kill\n", "oom_kill many\n", "oom_kill 1 2\n"]
)
def test_where_it_is_not_told_nothing_is_known(tmp_path: Path, events: str | None) -> None:
    if events is not None:
        put(tmp_path / "tree/a/memory.events", events)
    assert kills(tmp_path, "0::/a\n") is None


@pytest.mark.parametrize("groups", ["", "nonsense\n", "0:\n", "1:name=systemd:/a\n"])
def test_no_group_of_memory(tmp_path: Path, groups: str) -> None:
    put(tmp_path / "tree/a/memory.events", V2)
    assert kills(tmp_path, groups) is None


def test_no_proc(tmp_path: Path) -> None:
    assert memory.kills(str(tmp_path / "none"), str(tmp_path)) is None
