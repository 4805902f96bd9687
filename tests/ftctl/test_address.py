"""Where ftctl looks for the daemon and the key, in order."""

import os
import socket
from pathlib import Path

import pytest

from ftctl import address, starting
from ftctl.failure import Failure, Status


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(starting, "START_S", 0.0)  # other tests start daemons beside us
    for variable in ("FTD_ADDR", "FTD_API_KEY", "FTD_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(address, "SYSTEM_SOCKET", tmp_path / "run" / "ftd.sock")
    found = tmp_path / ".local" / "share" / "ftd"
    found.mkdir(parents=True)
    return found


def bind(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    return path


def test_the_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTD_ADDR", "127.0.0.1:1")
    assert address.target("127.0.0.1:2") == "127.0.0.1:2"
    assert address.target(None) == "127.0.0.1:1"


def test_the_homes_socket_goes_before_the_systems(home: Path, tmp_path: Path) -> None:
    system = bind(tmp_path / "run" / "ftd.sock")
    assert address.target(None) == f"unix:{system}"
    (home / "ftd.sock").symlink_to(tmp_path / "nowhere")
    assert address.target(None) == f"unix:{system}"
    (home / "ftd.sock").unlink()
    bind(home / "ftd.sock")
    assert address.target(None) == f"unix:{home / 'ftd.sock'}"


def test_a_socket_that_a_killed_daemon_left_goes_after_one_that_answers(
    home: Path, tmp_path: Path
) -> None:
    bind(home / "ftd.sock")
    system = tmp_path / "run" / "ftd.sock"
    system.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(system))
        listening.listen()
        assert address.target(None) == f"unix:{system}"
    assert address.target(None) == f"unix:{home / 'ftd.sock'}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a socket away")
def test_a_link_to_a_socket_of_somebody_else_is_not_followed(home: Path, tmp_path: Path) -> None:
    """A daemon was killed, /tmp was emptied, and another user has made its directory anew."""
    theirs = bind(tmp_path / "theirs" / "ftd.sock")
    (home / "ftd.sock").symlink_to(theirs)
    assert address.target(None) == f"unix:{theirs}"
    os.chown(theirs, 12345, 12345)
    with pytest.raises(Failure, match="of somebody else") as caught:
        address.target(None)
    assert caught.value.status is Status.NOT_ALLOWED


def test_a_home_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTD_HOME", str(tmp_path / "other"))
    bind(tmp_path / "other" / "ftd.sock")
    assert address.target(None) == f"unix:{tmp_path / 'other' / 'ftd.sock'}"


def test_nothing_there_is_unreachable() -> None:
    with pytest.raises(Failure, match="no daemon is running") as caught:
        address.target(None)
    assert caught.value.status is Status.UNREACHABLE


def test_a_socket_behind_a_closed_door_is_not_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", closed)  # root, as whom tests may run, sees everything
    with pytest.raises(Failure, match="no daemon is running"):
        address.target(None)


def test_a_link_is_followed_so_that_a_home_may_lie_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    (deep / "ftd.sock").symlink_to(bind(tmp_path / "s"))
    monkeypatch.setenv("FTD_HOME", str(deep))
    assert address.target(None) == f"unix:{tmp_path / 's'}"


def test_a_path_that_no_socket_can_have_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="107 bytes") as caught:
        address.target(str(tmp_path / ("d" * 100)))
    assert caught.value.status is Status.USAGE


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("unix:/run/s", "unix:/run/s"),
        ("unix:///run/s", "unix:/run/s"),
        ("/run/s", "unix:/run/s"),
        ("localhost:50051", "localhost:50051"),
        ("127.8.8.8:1", "127.8.8.8:1"),
        ("[::1]:50051", "[::1]:50051"),
    ],
)
def test_addresses(given: str, target: str) -> None:
    assert address.target(given) == target


@pytest.mark.parametrize("given", ["10.0.0.1:5", "example.org:80", "[2001:db8::1]:5", "0.0.0.0:5"])
def test_another_machine_is_never_spoken_to_in_clear(given: str) -> None:
    assert address.target(given) == address.target(f"tls://{given}") == f"tls://{given}"


def test_loopback_is_where_tls_is_asked_for() -> None:
    assert address.target("tls://127.0.0.1:1") == "tls://127.0.0.1:1"


@pytest.mark.parametrize(
    "given",
    ["localhost", "http://127.0.0.1:8420", "localhost:x", ":1:x", ":1", "tls://host", "tls:host:1"],
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(Failure, match="is no address"):
        address.target(given)


def test_the_key_from_each_place_in_turn(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert address.key(None) is None
    (tmp_path / ".config" / "ftd").mkdir(parents=True)
    (tmp_path / ".config" / "ftd" / "key").write_text("from-config\n")
    assert address.key(None) == "from-config"
    (home / "admin.key").write_text("from-home\n")
    assert address.key(None) == "from-home"
    monkeypatch.setenv("FTD_API_KEY", "from-environment")
    assert address.key(None) == "from-environment"
    assert address.key("given") == "given"


def test_a_key_that_would_break_the_call_is_refused() -> None:
    with pytest.raises(Failure, match="no key has"):
        address.key("a\nb")
