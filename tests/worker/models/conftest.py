"""Fixtures of the tests that take models in."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.models.directories import write_model
from tests.worker.models.hub import Hub


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A good directory to take in or to spoil."""
    return write_model(tmp_path / "model")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    files = write_model(tmp_path / "at-the-hub")
    (files / "pytorch_model.bin").write_text("pickle")
    (files / "modeling_x.py").write_text("raise SystemExit")
    (files / "original").mkdir()
    (files / "original" / "consolidated.safetensors").write_text("twice")
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
