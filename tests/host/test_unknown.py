"""What is set aside is found again under its own name, and goes when it has lain there long."""

import os
import shutil
from pathlib import Path

import pytest

from ftd.host.home import Home
from ftd.host.unknown import forget, set_aside

NOW = 1_000_000_000


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def model(home: Home, name: str, weights: str = "weights") -> Path:
    place = home.models / name
    place.mkdir()
    (place / "model.safetensors").write_text(weights)
    return place


def upload(home: Home, name: str, content: str = "lines") -> Path:
    home.file(name).write_text(content)
    return home.file(name)


def below(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()
    }


def test_it_is_moved_whole_to_the_same_place_below_unknown(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    kept = upload(home, "file-2")
    set_aside([upload(home, "file-1"), model(home, "m")], home, NOW)
    assert below(home.unknown) == {"files/file-1": "lines", "models/m/model.safetensors": "weights"}
    assert below(home.files) == {kept.name: "lines"}
    assert not list(home.models.iterdir())
    for place in (home.unknown, home.unknown / "files", home.unknown / "models"):
        assert place.stat().st_mode & 0o777 == 0o700
    for entry in ("files/file-1", "models/m"):
        assert (home.unknown / entry).stat().st_mtime == NOW, "not when it was written"
    (said,) = caplog.records
    assert said.levelname == "WARNING"
    assert vars(said)["count"] == 2
    assert str(home.unknown / "files") in vars(said)["place"]


def test_nothing_to_move_is_nothing_to_say(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    set_aside([], home, NOW)
    assert not caplog.records
    assert not list(home.unknown.iterdir())


def test_what_was_set_aside_earlier_under_the_same_name_stays(home: Home) -> None:
    for number in range(3):
        set_aside([model(home, "m", f"weights {number}")], home, NOW)
        set_aside([upload(home, "file-1", f"lines {number}")], home, NOW)
    (home.models / "empty").mkdir()
    set_aside([home.models / "empty"], home, NOW)
    set_aside([model(home, "empty")], home, NOW)
    assert below(home.unknown) == {
        "files/file-1": "lines 0",
        "files/file-1.2": "lines 1",
        "files/file-1.3": "lines 2",
        "models/m/model.safetensors": "weights 0",
        "models/m.2/model.safetensors": "weights 1",
        "models/m.3/model.safetensors": "weights 2",
        "models/empty.2/model.safetensors": "weights",
    }
    assert (home.unknown / "models" / "empty").is_dir(), "a rename would have taken its place"


def test_what_cannot_be_moved_stays_and_keeps_no_other(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk, as far as it can be had here: there is no directory to move to."""
    (home.unknown / "files").write_text("no directory")
    secret = home.root / "admin.key"
    secret.write_text("a secret")
    (home.models / "link").symlink_to(secret)
    lost = [upload(home, "file-1"), home.models / "link", model(home, "m")]
    set_aside(lost, home, NOW)
    assert below(home.files) == {"file-1": "lines"}
    assert (home.models / "link").is_symlink()
    assert below(home.unknown / "models") == {"m/model.safetensors": "weights"}
    assert [record.message for record in caplog.records].count("what no row names stays") == 2
    assert secret.stat().st_mtime > NOW, "a link is not followed"


def test_its_time_is_set_before_it_is_moved(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is killed in between must leave nothing there that looks old."""
    lost = upload(home, "file-1")
    os.utime(lost, (1, 1))
    seen: list[float] = []
    rename = Path.rename

    def note(path: Path, target: Path) -> Path:
        seen.append(path.stat().st_mtime)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", note)
    set_aside([lost], home, NOW)
    assert seen == [NOW]


def test_what_is_old_is_forgotten_and_nothing_else(home: Home) -> None:
    set_aside([upload(home, "file-1"), model(home, "m")], home, NOW)
    set_aside([upload(home, "file-2"), model(home, "n")], home, NOW + 1)
    (home.unknown / "mine.txt").write_text("a note")
    os.utime(home.unknown / "mine.txt", (1, 1))
    forget(home, NOW - 1)
    assert len(below(home.unknown)) == 5
    forget(home, NOW)
    assert below(home.unknown) == {
        "files/file-2": "lines", "models/n/model.safetensors": "weights", "mine.txt": "a note",
    }  # fmt: skip


def test_a_link_there_is_not_followed(home: Home) -> None:
    precious = model(home, "m")
    os.utime(precious, (1, 1))
    os.utime(precious / "model.safetensors", (1, 1))
    (home.unknown / "elsewhere").symlink_to(home.models)
    (home.unknown / "models").mkdir()
    link = home.unknown / "models" / "link"
    link.symlink_to(precious)
    os.utime(link, (1, 1), follow_symlinks=False)
    forget(home, NOW)
    assert below(home.models) == {"m/model.safetensors": "weights"}
    assert not os.path.lexists(link)


def test_one_that_cannot_be_removed_keeps_no_other(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_aside([model(home, name) for name in ("a", "b", "c")], home, NOW)
    remove = shutil.rmtree

    def stubborn(path: Path) -> None:
        if path.name == "b":
            raise OSError(16, "Device or resource busy")
        remove(path)

    monkeypatch.setattr("ftd.host.unknown.shutil.rmtree", stubborn)
    forget(home, NOW)
    assert [path.name for path in (home.unknown / "models").iterdir()] == ["b"]
