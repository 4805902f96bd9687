"""Where the socket lies: nobody else may have put anything in its place."""

import os
import stat
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.host import sockets

HOME = Path("/home/somebody/with/a/long/name/" + "x" * 200)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as /tmp is, and no other."""
    for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sockets, "OWN_DIRECTORY", str(tmp_path / "ftd-{uid}"))
    return tmp_path / f"ftd-{os.getuid()}"


def test_each_home_has_one_of_its_own_for_its_owners_eyes(elsewhere: Path) -> None:
    path = sockets.path(HOME)
    assert path == sockets.path(HOME) != sockets.path(HOME / "other")
    for directory in (path.parent, elsewhere):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_one_that_is_left_leaves_nothing_but_what_is_not_ours(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = sockets.path(HOME), sockets.path(HOME / "other")
    path.touch()
    for socket in (path, other):
        sockets.leave(socket)
    assert (path.exists(), other.parent.exists()) == (True, False)
    path.unlink()
    sockets.leave(path)
    assert list(elsewhere.iterdir()) == []
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    sockets.leave(sockets.path(HOME))
    assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("mode", [0o777, 0o722, 0o770])
def test_a_directory_that_others_can_write_is_not_used(elsewhere: Path, mode: int) -> None:
    elsewhere.mkdir()
    elsewhere.chmod(mode)
    with pytest.raises(FtdError, match="others"):
        sockets.path(HOME)
    elsewhere.chmod(0o755)
    inner = sockets.path(HOME).parent
    inner.chmod(mode)
    with pytest.raises(FtdError, match="others"):
        sockets.path(HOME)


def test_a_link_to_a_directory_is_not_used(elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    elsewhere.symlink_to(tmp_path / "theirs")
    with pytest.raises(FtdError, match="no directory"):
        sockets.path(HOME)
    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_file_in_the_way_is_explained(elsewhere: Path) -> None:
    elsewhere.touch()
    with pytest.raises(FtdError, match="no directory"):
        sockets.path(HOME)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_not_used(elsewhere: Path) -> None:
    elsewhere.mkdir(mode=0o700)
    os.chown(elsewhere, 12345, 12345)
    with pytest.raises(FtdError, match="somebody else"):
        sockets.path(HOME)
    assert list(elsewhere.iterdir()) == []


def test_systemds_directory_and_the_sessions_go_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, service = tmp_path / "session", tmp_path / "service"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    session.mkdir(mode=0o700)
    assert sockets.path(HOME).parent.parent == session
    service.mkdir(mode=0o750)
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{service}:/run/other")
    assert sockets.path(HOME) == service / "ftd.sock"
