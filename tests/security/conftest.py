from pathlib import Path

import pytest

from tests.security.canary import Canary
from tests.worker.models.directories import write_model


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "canary")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A good model directory, to spoil."""
    return write_model(tmp_path / "model")


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused by its bytes is seen by no library, not even in a child."""

    def prove(*_: object) -> None:
        raise AssertionError("a library would have read it")

    monkeypatch.setattr("ftd.worker.models.load.prove", prove)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Where models are published."""
    place = tmp_path / "models"
    place.mkdir()
    return place
