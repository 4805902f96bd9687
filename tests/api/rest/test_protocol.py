"""Connections that say nothing, or nothing sensible."""

import asyncio
import contextlib
import json

import pytest

from ftd.api.rest import protocol
from tests.api.rest.face import KEY, Face

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: ftd\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", HEALTH + b"X-Slow: "])
async def test_a_head_that_does_not_come(
    face: Face, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.05)
    assert await face.raw(sent) == b""


async def test_the_next_head_has_a_deadline_too(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(HEALTH + b"\r\n")
    assert (await reader.readuntil(b'{"status":"ok"}')).startswith(b"HTTP/1.1 200 ")
    writer.write(HEALTH)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_a_complete_head_has_none(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    body = b"{}"
    writer.write(
        f"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: ftd\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    await asyncio.sleep(0.15)  # three deadlines
    writer.write(body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",  # no Host
        b"GET /heal thz HTTP/1.1\r\nHost: ftd\r\n\r\n",
        HEALTH + b"X: a\x00b\r\n\r\n",
        HEALTH + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEALTH + b"Content-Length: -1\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nHost: ftd\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n",
    ],
)
async def test_junk_is_refused_in_our_words(
    face: Face, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await face.raw(junk)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 4")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    async with face.http() as http:
        assert (await http.get("/healthz")).status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


async def test_requests_in_one_breath(face: Face) -> None:
    answer = await face.raw(HEALTH + b"\r\n" + HEALTH + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 2


async def test_a_head_without_end(face: Face) -> None:
    # It is not read to its end, so that the answer may be lost in a reset.
    with contextlib.suppress(ConnectionResetError):
        assert (await face.raw(HEALTH + b"X: " + b"y" * 200_000)).startswith(b"HTTP/1.1 400 ")
    async with face.http() as http:
        assert (await http.get("/healthz")).status_code == 200
