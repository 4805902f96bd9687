"""The REST face and its clients."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import openai
import pytest
import pytest_asyncio

from ftd import config
from tests.api.rest.face import BASE, KEY, Face, serving


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return config.load(
        home=tmp_path / "home",
        hosts=("ftd",),
        aliases={"gpt-4o-mini": BASE},
        limits=config.Limits(upload_bytes=4 * 2**20, body_bytes=64 * 1024),
    )


@pytest_asyncio.fixture
async def face(settings: config.Settings) -> AsyncIterator[Face]:
    async with serving(settings) as face:
        yield face


@pytest_asyncio.fixture
async def client(face: Face) -> AsyncIterator[openai.AsyncOpenAI]:
    """The OpenAI SDK, strict about every field."""
    async with openai.AsyncOpenAI(
        base_url=f"{face.url}/v1",
        api_key=KEY,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest_asyncio.fixture
async def http(face: Face) -> AsyncIterator[httpx2.AsyncClient]:
    async with face.http() as client:
        yield client
