"""Ids, measurements, log lines, and bodies that never come."""

import asyncio
import logging

import httpx2
import pytest

from ftd.api.rest import ledger
from tests.api.rest.face import KEY, Face, until


async def test_every_answer_has_an_id_of_ours(face: Face, http: httpx2.AsyncClient) -> None:
    seen = set()
    async with face.http(headers={"x-request-id": "theirs"}) as stranger:
        for answer in (
            await http.get("/v1/models", headers={"x-request-id": "theirs"}),
            await http.get("/v1/nothing"),
            await http.get("/healthz"),
            await stranger.get("/v1/models"),
        ):
            found = answer.headers.get_list("x-request-id")
            assert len(found) == 1
            assert found[0].startswith("req_")
            seen.add(found[0])
    assert len(seen) == 4


async def test_requests_are_measured_by_route(face: Face, http: httpx2.AsyncClient) -> None:
    await http.get("/v1/files/file-1?secret=1")
    await http.get("/v1/nothing/at/all")
    await http.request("BREW", "/v1/models")
    await http.get("/openapi.json")
    assert [seen[:3] for seen in face.observed] == [
        ("/v1/files/{file_id}", "GET", 404),
        ("unmatched", "GET", 404),
        ("/v1/models", "OTHER", 405),
        ("/openapi.json", "GET", 200),
    ]
    assert all(0 <= seen[3] < 5 for seen in face.observed)


async def test_the_log_has_no_queries_and_no_keys(
    http: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "ftd"):
        answer = await http.get("/v1/models?key=secret")
    (record,) = [record for record in caplog.records if record.name.startswith("ftd")]
    fields = vars(record)
    assert (fields["method"], fields["path"], fields["status"]) == ("GET", "/v1/models", 200)
    assert fields["request"] == answer.headers["x-request-id"]
    assert "secret" not in str(fields)
    assert KEY not in str(fields)


async def test_a_stranger_fills_no_log(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """A line of ours is short, however long the path is that somebody asks for without a key."""
    async with face.http(headers={}) as stranger:
        with caplog.at_level(logging.INFO, "ftd"):
            assert (await stranger.get("/" + "x" * 60_000)).status_code == 401
    assert len(caplog.records) == 2, "the request, and the refusal"
    for record in caplog.records:
        assert len(str(vars(record))) < 2000


async def test_a_key_is_not_cut_in_two(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """Half of one is no key any more for who hides keys, and would be shown."""
    secret = "0123456789" * 4
    async with face.http(headers={}) as stranger:
        for length in range(150, 200, 5):
            with caplog.at_level(logging.INFO, "ftd"):
                await stranger.get(f"/{'x' * length}/ftd-{secret}")
    assert caplog.records
    assert "0123" not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs", "/v1/files"])
async def test_a_body_that_stalls_is_given_up(
    face: Face, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(ledger, "BODY_WINDOW_S", 0.05)
    monkeypatch.setattr(ledger, "LINGER_S", 0.05)
    answer = await face.raw(
        f"POST {path} HTTP/1.1\r\nHost: ftd\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Type: multipart/form-data; boundary=mark\r\nContent-Length: 100\r\n\r\n"
        "--mark\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"too slowly: 8 bytes in 0.05 seconds" in answer
    assert b"connection: close" in answer
    assert face.incoming() == []


async def test_a_refused_client_may_finish_its_sentence(face: Face) -> None:
    """It reads its answer whole, and is cut off only when it goes on for too long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(b"POST /v1/files HTTP/1.1\r\nHost: ftd\r\nContent-Length: 3000000\r\n\r\n")
    answer = await reader.readuntil(b"}}")
    assert answer.startswith(b"HTTP/1.1 401 ")
    writer.write(bytes(3_000_000))
    await writer.drain()
    assert await reader.read() == b""
    writer.close()


async def test_a_client_that_does_not_wait(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LINGER_S", 0.05)
    _, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(
        f"POST /v1/files HTTP/1.1\r\nHost: ftd\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Type: multipart/form-data; boundary=mark\r\nContent-Length: 100\r\n\r\n".encode()
    )
    await writer.drain()
    await until(face.incoming)
    writer.transport.abort()
    await until(lambda: face.observed)
    assert face.observed[0][:3] == ("/v1/files", "POST", ledger.CLIENT_GONE)
