"""One daemon with a real model, shared by the stories that do not harm it."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.running import Daemon, running
from tests.starter import starter_model
from tests.tiny import tiny_model

STARTER = "smollm2-135m-instruct"
TINY = "tiny"
CONFIG = f"""
log_level = "debug"
[aliases]
"gpt-4o-mini" = "{TINY}"
"gpt-4o" = "{STARTER}"
[training]
context_tokens = 512
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of a random two-layer Llama that trains in milliseconds a step."""
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("shared") / "home", config=CONFIG) as daemon:
        daemon.ftctl("models", "add", TINY, str(tiny))
        yield daemon


@pytest.fixture(scope="session")
def starter(daemon: Daemon) -> str:
    """The starter model, registered with the shared daemon."""
    daemon.ftctl("models", "add", STARTER, str(starter_model()), timeout_s=300)
    return STARTER


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with daemon.client() as client:
        yield client


@pytest.fixture
def own_daemon(tmp_path: Path, tiny: Path) -> Iterator[Daemon]:
    """A daemon of the test's own, to be killed and restarted, with the tiny model."""
    with running(tmp_path / "home", config=CONFIG) as daemon:
        daemon.ftctl("models", "add", TINY, str(tiny))
        yield daemon


@pytest.fixture
def daemon_with_slow_checks(tmp_path: Path, tiny: Path) -> Iterator[Daemon]:
    """A daemon that answers uploads before it has checked them."""
    config = f"{CONFIG}\n[limits]\ncheck_wait_s = 0\n"
    with running(tmp_path / "home", config=config) as daemon:
        daemon.ftctl("models", "add", TINY, str(tiny))
        yield daemon
