"""What breaks may quote what it broke at: who sent it may read that, and no log keeps it."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftd import daemon
from ftd.core.chat import Conversation, Prompt, Sampling, Text
from ftd.core.errors import FtdError, Kind
from ftd.host.home import Home
from ftd.host.logs import Formatter
from ftd.service.actor import Actor
from ftd.service.chat import ChatRequest
from tests.security.test_secrets import holds, plain_files
from tests.serving.conftest import BASE, home, shelf, until
from tests.serving.standin import QUOTING, StandIn, serving
from tests.serving.test_assembled import base, running

__all__ = ["base", "home", "shelf"]

CANARY = "canary-prompt-axolotl"
US = Actor(project="default", name="admin")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a daemon logs at its default level."""
    told = io.StringIO()
    handler = logging.StreamHandler(told)
    handler.setFormatter(Formatter(journal=False))
    handler.setLevel(logging.INFO)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield told
    root.removeHandler(handler)
    root.setLevel(level)


async def refused(house: daemon.House, prompt: Prompt) -> FtdError:
    """How the answer ended that could not be given."""
    asked = ChatRequest(model=BASE, prompt=prompt, sampling=Sampling())
    with pytest.raises(FtdError) as caught:
        async for _ in await house.door.chat.generate(US, asked):
            pass
    return caught.value


def holding(root: Path) -> list[Path]:
    return [path for path in plain_files(root) if holds(path.read_bytes(), CANARY)]


@pytest.mark.parametrize("how", list(QUOTING))
async def test_a_vllm_that_quotes_the_prompt_is_not_quoted(
    how: str, base: str, home: Home, log: io.StringIO
) -> None:
    async with (
        serving(StandIn(failing=how)) as server,
        running(home, backend="vllm", vllm_url=server.url) as house,
    ):
        prompt = Conversation(messages=({"role": "user", "content": CANARY},))
        error = await refused(house, prompt)
        assert any(CANARY.encode() in body for body in server.bodies), "it had the prompt"
        if how == "a refusal":
            assert error.kind is Kind.INVALID, "which goes to who sent the prompt"
        else:
            assert error.kind is Kind.UNAVAILABLE
            assert CANARY not in error.message
            assert CANARY not in f"{error.code}{error.param}"
    assert CANARY not in log.getvalue()
    assert holding(home.root) == []


async def test_a_worker_that_says_the_prompt_out_of_place_is_not_quoted(
    base: str, home: Home, log: io.StringIO
) -> None:
    async with running(home) as house:
        error = await refused(house, Text(text=f"babble {CANARY}"))
        assert error.kind is Kind.UNAVAILABLE
        assert CANARY not in error.message
        await until(lambda: "inference worker lost" in log.getvalue())
    assert "it said what makes no sense" in log.getvalue()
    assert CANARY not in log.getvalue()
    assert holding(home.root) == []
