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
def shelf(tmp_path: Path) -> Path:
    """Where models are published."""
    place = tmp_path / "models"
    place.mkdir()
    return place
