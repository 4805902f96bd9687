"""The demo, with a model small enough for a test: what it prints is what happens."""

from pathlib import Path

import pytest

from ftd import demo
from ftd.core.errors import FtdError
from tests.running import CALM


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    for name, value in CALM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(demo, "SOURCE", str(tiny))
    monkeypatch.setattr(demo, "RECIPE", ("--epochs", "1", "--batch-size", "8"))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its scratch homes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_the_whole_story_and_nothing_left(scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert demo.demo(None, keep=False) == 0
    told = capfd.readouterr().out
    lines = told.splitlines()
    story, end = told.split(" is ready after ")
    assert "loss" in story
    assert str(scratch) not in end, "nothing is there any more"
    for number, line in enumerate(lines):
        if line.startswith("$ ftctl"):
            assert lines[number + 1][:1] not in ("", "$", "#"), f"nothing is shown of {line}"
    assert "`ftd demo --keep` keeps it" in lines[-1]
    assert list(scratch.iterdir()) == []


def test_a_home_that_is_kept_is_told_with_what_serves_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SOURCE", "/nonexistent/model")  # it ends early; the end is alike
    home = tmp_path / "home"
    with pytest.raises(FtdError):
        demo.demo(home, keep=False)
    told = capfd.readouterr().out
    assert f"Everything lies in {home}" in told
    assert f"ftd serve --home {home} --config {home / 'ftd.toml'}" in told
    assert (home / "ftd.toml").is_file()


def test_a_demo_that_fails_says_so_and_leaves_nothing(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SOURCE", "/nonexistent/model")
    with pytest.raises(FtdError, match="models add"):
        demo.demo(None, keep=False)
    assert "/nonexistent/model" in capfd.readouterr().err
    assert list(scratch.iterdir()) == []
