"""A daemon that is killed while a model comes in, in either step: nothing half is there after."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.running import running, until
from tests.worker.models.conftest import hub
from tests.worker.models.hub import Hub

__all__ = ["hub"]


def tool(daemon: int, module: str) -> psutil.Process | None:
    """The daemon's process that runs this module."""
    for process in psutil.Process(daemon).children():
        if module in process.cmdline():
            return process
    return None


@pytest.mark.parametrize("step", ["fetch", "add"])
def test_a_kill_while_a_model_comes_in_leaves_nothing_half(
    step: str, hub: Hub, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    environment = {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}
    with running(home, environment=environment) as daemon:
        adding = subprocess.Popen(
            [sys.executable, "-m", "ftctl", "models", "add", "tiny", "hf:org/tiny"],
            env=daemon._environment | {"FTD_HOME": str(home)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        worker = until(lambda: tool(daemon.pid, f"ftd.worker.models.{step}"))
        daemon.kill()
        assert worker is not None
        worker.wait(10)
        assert adding.wait(60) != 0
        (left,) = (home / "models").iterdir()
        assert left.name.startswith(".adding-")
        assert (left / "fetched" / "model.safetensors").is_file() == (step == "add")
        daemon.start()
        assert list((home / "models").iterdir()) == []
        assert daemon.ftctl("models", "list", "-o", "name").stdout == ""
        daemon.ftctl("models", "add", "tiny", "hf:org/tiny")
        assert [path.name for path in (home / "models").iterdir()] == ["tiny"]
