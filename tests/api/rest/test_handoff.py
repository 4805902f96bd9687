"""Another server answers: bytes go there and come back as they are."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from ftd import config
from ftd.core.errors import FtdError, Kind
from tests.api.rest.face import BASE, Face, serving, until
from tests.api.rest.test_errors import error_of

CHAT = "/v1/chat/completions"


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return config.load(
        home=tmp_path / "home",
        aliases={"gpt-4o-mini": BASE},
        limits=config.Limits(chat_bytes=64 * 1024),
        serving=config.Serving(backend="vllm", vllm_url="http://127.0.0.1:9"),
    )


@pytest_asyncio.fixture
async def face(settings: config.Settings) -> AsyncIterator[Face]:
    async with serving(settings) as face:
        yield face


async def post(http: httpx2.AsyncClient, content: bytes, path: str = CHAT) -> httpx2.Response:
    return await http.post(path, content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_bytes_go_through_unchanged(face: Face, http: httpx2.AsyncClient, path: str) -> None:
    face.handoff.status = 418
    face.handoff.headers = {"Content-Type": "text/odd", "Retry-After": "7"}
    face.handoff.parts = [b'{"any":', b"thing", b"", b" at all"]
    face.handoff.gate.set()
    sent = b'{"top_k": 5,  "model" : "tiny", "messages": 7, "store": true}'
    answer = await post(http, sent, path)
    assert answer.status_code == 418
    assert answer.content == b'{"any":thing at all'
    assert answer.headers["content-type"] == "text/odd"
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-request-id"].startswith("req_")
    assert face.handoff.asked == [(path, BASE, sent, False)]
    assert face.handoff.closed == 1
    assert face.pool.asked == []


async def test_a_stream_comes_as_it_is_written(face: Face, http: httpx2.AsyncClient) -> None:
    face.handoff.headers = {"content-type": "text/event-stream"}
    face.handoff.parts = [b"data: 1\n\n", b"data: [DONE]\n\n"]
    body = {"model": "gpt-4o-mini", "stream": True}
    async with http.stream("POST", CHAT, json=body) as answer:
        parts = answer.aiter_bytes()
        assert await anext(parts) == b"data: 1\n\n"
        face.handoff.gate.set()
        assert await anext(parts) == b"data: [DONE]\n\n"
    assert face.handoff.asked[0][1::2] == (BASE, True)


async def test_a_client_that_goes_closes_the_other_answer(
    face: Face, http: httpx2.AsyncClient
) -> None:
    face.handoff.parts = [b"data: 1\n\n", b"never"]
    async with http.stream("POST", CHAT, json={"model": BASE}) as answer:
        assert await anext(answer.aiter_bytes()) == b"data: 1\n\n"
    await until(lambda: face.handoff.closed)


async def test_the_other_server_breaks_off(face: Face, http: httpx2.AsyncClient) -> None:
    face.handoff.parts = [b"data: 1\n\n", FtdError(Kind.UNAVAILABLE, "gone")]
    face.handoff.gate.set()
    with pytest.raises(httpx2.RemoteProtocolError):
        await post(http, b'{"model": "tiny"}')
    assert face.handoff.closed == 1


async def test_what_we_judge_ourselves(
    face: Face, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await post(http, b'{"model": "gpt-9"}')
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
    for content, status, code in (
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_type"),
        (b"{}", 400, "missing_required_parameter"),
        (b'{"model": 7}', 400, "invalid_type"),
        (json.dumps({"model": "x" * 64 * 1024}).encode(), 413, None),
    ):
        answer = await post(http, content)
        assert (answer.status_code, error_of(answer)["code"]) == (status, code)

    async def away(*_: Any, **__: Any) -> None:
        raise FtdError(Kind.UNAVAILABLE, "The vLLM server does not answer.")

    monkeypatch.setattr(face.handoff, "relay", away)
    answer = await post(http, b'{"model": "tiny"}')
    assert (answer.status_code, error_of(answer)["type"]) == (503, "server_error")
    assert face.pool.asked == []


async def test_a_client_that_goes_before_the_other_server_answers(
    face: Face, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = asyncio.Event()

    async def slow(*_: Any, **__: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    monkeypatch.setattr(face.handoff, "relay", slow)
    with pytest.raises(httpx2.ReadTimeout):
        await http.post(CHAT, json={"model": BASE}, timeout=0.2)
    await asyncio.wait_for(left.wait(), 10)
