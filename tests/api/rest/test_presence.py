"""A client that goes takes its answer with it, and one that reads slowly costs no memory."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ftd import config
from ftd.api.rest import ledger
from ftd.core import chat
from tests.api.rest.face import BASE, KEY, Face, serving, until
from tests.api.rest.scripted import piece, small_talk

CHAT = "/v1/chat/completions"
PIECE = "word " * 1000
PIECES = 20_000  # 100 MB


def request(path: str = CHAT, **more: Any) -> bytes:
    body = {"model": BASE, "messages": [{"role": "user", "content": "Hello!"}]} | more
    data = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: ftd\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode() + data


async def endless(request: chat.Generate) -> AsyncIterator[chat.Answer]:
    """One piece, and then nothing for ever."""
    yield chat.Began(id=request.id, prompt_tokens=1)
    yield piece(request, "Hello")
    await asyncio.Event().wait()


async def mute(request: chat.Generate) -> AsyncIterator[chat.Answer]:
    """Still waits for a device."""
    await asyncio.Event().wait()
    yield chat.Began(id=request.id, prompt_tokens=1)


async def test_a_stream_ends_with_its_client(face: Face) -> None:
    face.pool.script = endless
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(request(stream=True))
    await reader.readuntil(b'"Hello"')  # events are not kept back
    assert face.pool.open == 1
    writer.close()
    await until(lambda: not face.pool.open)
    await until(lambda: face.observed)
    assert face.observed[0][:3] == (CHAT, "POST", 200)


@pytest.mark.parametrize("script", [endless, mute])
@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(stream=True),
        request("/v1/completions", prompt=["a", "b", "c"]),
    ],
    ids=["whole", "stream", "prompts"],
)
async def test_every_kind_of_answer_ends_with_its_client(
    face: Face, caplog: pytest.LogCaptureFixture, script: Any, asked: bytes
) -> None:
    face.pool.script = script
    _, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(asked)
    count = 3 if b'"prompt"' in asked else 1
    await until(lambda: face.pool.open == count)
    with caplog.at_level(logging.ERROR):
        writer.transport.abort()
        await until(lambda: not face.pool.open)
        await until(lambda: face.observed)
    if script is mute:
        assert face.observed[0][2] == ledger.CLIENT_GONE
    assert caplog.records == []


async def test_a_connection_serves_many_answers(face: Face) -> None:
    """Nothing of an answer's end is left to trouble the next one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    for _ in range(5):
        writer.write(request(stream=True))
        await reader.readuntil(b"data: [DONE]\n\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"0\r\n\r\n"
        writer.write(request())
        await reader.readuntil(b"}}}")
    writer.close()
    await until(lambda: len(face.observed) == 10)
    assert {seen[2] for seen in face.observed} == {200}
    assert face.pool.open == 0


async def test_a_slow_reader_costs_no_memory(face: Face) -> None:
    told = 0

    async def long(request: chat.Generate) -> AsyncIterator[chat.Answer]:
        nonlocal told
        yield chat.Began(id=request.id, prompt_tokens=1)
        for _ in range(PIECES):
            told += 1
            yield piece(request, PIECE)
        yield chat.Finished(id=request.id, index=0, reason="stop")
        yield chat.Ended(id=request.id, completion_tokens=PIECES)

    face.pool.script = long
    slow = socket.create_connection(("127.0.0.1", face.server.port))
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(slow, request(stream=True))
    before = -1
    while told != before or not told:  # until it stands still: nobody reads
        before = told
        await asyncio.sleep(0.1)
    assert told * len(PIECE) < 20 * 2**20  # what the kernel's buffers hold
    assert told < PIECES
    slow.close()
    await until(lambda: not face.pool.open)


async def test_the_end_of_the_daemon_ends_open_answers(settings: config.Settings) -> None:
    async with serving(settings) as face:
        face.pool.script = endless
        reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
        writer.write(request(stream=True))
        await reader.readuntil(b'"Hello"')
        await face.server.stop()
        assert face.pool.open == 0
        writer.close()


async def test_our_own_mistake_in_the_middle_breaks_off(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(request: chat.Generate) -> AsyncIterator[chat.Answer]:
        yield chat.Began(id=request.id, prompt_tokens=1)
        yield piece(request, "Hello")
        raise RuntimeError("a secret of ours")

    face.pool.script = broken
    with caplog.at_level(logging.ERROR, "ftd"):
        answer = await face.raw(request(stream=True))
    assert b'"Hello"' in answer
    assert b"[DONE]" not in answer
    assert b"secret" not in answer
    assert "a secret of ours" in caplog.text
    face.pool.script = small_talk
    assert b"200 OK" in (
        await face.raw(request().replace(b"Host: ftd", b"Connection: close\r\nHost: ftd"))
    )
