"""Uploads, listings, contents and deletes, by the OpenAI SDK and byte by byte."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.api.rest.face import KEY, Face, conversations, until

CSV = b"step,train_loss\n1,2.5\n2,2.25\n"
UPLOAD = {"purpose": "fine-tune"}


def request(body: bytes, *, mark: str = "mark", length: int | None = None) -> bytes:
    """An upload as bytes on the wire, whole or not."""
    return (
        "POST /v1/files HTTP/1.1\r\nHost: ftd\r\nConnection: close\r\n"
        f"Authorization: Bearer {KEY}\r\n"
        f"Content-Type: multipart/form-data; boundary={mark}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    ).encode() + body


def head_of(name: str) -> bytes:
    return (
        '--mark\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        f'--mark\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    ).encode()


async def test_a_file_from_upload_to_delete(client: openai.AsyncOpenAI, face: Face) -> None:
    content = conversations(12)
    file = await client.files.create(file=("data.jsonl", content), purpose="fine-tune")
    assert (file.status, file.bytes, file.filename) == ("processed", len(content), "data.jsonl")
    assert file.status_details is None
    assert await client.files.retrieve(file.id) == file
    assert [one.id async for one in client.files.list()] == [file.id]
    assert (await client.files.content(file.id)).content == content
    gone = await client.files.delete(file.id)
    assert (gone.id, gone.object, gone.deleted) == (file.id, "file", True)
    assert (await client.files.list()).data == []
    with pytest.raises(openai.NotFoundError, match="No such File object") as caught:
        await client.files.retrieve(file.id)
    assert (caught.value.param, caught.value.code) == ("id", None)
    assert face.incoming() == []


async def test_an_expiry(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(
        file=("a.bin", b"x"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600


async def test_pages(client: openai.AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    ids = [
        (await client.files.create(file=(f"{n}.bin", b"x"), purpose="user_data")).id
        for n in range(5)
    ]
    newest_first = ids[::-1]
    assert [one.id async for one in client.files.list(limit=2)] == newest_first
    assert [one.id async for one in client.files.list(limit=2, order="asc")] == ids
    assert (await client.files.list(purpose="batch")).data == []
    assert (await client.files.list(after="file-nobody")).data == []
    assert len((await client.files.list(limit=0)).data) == 5
    page = (await http.get("/v1/files?limit=2")).json()
    assert page["object"] == "list"
    assert (page["first_id"], page["last_id"]) == (newest_first[0], newest_first[1])
    assert page["has_more"] is True
    empty = (await http.get("/v1/files?purpose=batch")).json()
    assert empty == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False
    }  # fmt: skip
    assert (await http.get("/v1/files?order=up")).json()["error"]["param"] == "order"
    assert (await http.get("/v1/files?limit=two")).json()["error"]["param"] == "limit"


async def test_a_result_file_is_base64_unless_csv_is_asked_for(
    client: openai.AsyncOpenAI, http: httpx2.AsyncClient, face: Face
) -> None:
    file_id = await face.put_result(CSV)
    content = await client.files.content(file_id)
    assert base64.b64decode(content.text.encode("utf-8")) == CSV
    path = f"/v1/files/{file_id}/content"
    for answer in (
        await http.get(path, params={"format": "csv"}),
        await http.get(path, headers={"Accept": "text/html, Text/CSV;q=0.5"}),
    ):
        assert answer.content == CSV
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="step_metrics.csv"'
    encoded = await http.get(path)
    assert encoded.headers["content-type"] == "application/octet-stream"
    assert int(encoded.headers["content-length"]) == len(encoded.content)
    refused = await http.get(path, params={"format": "xlsx"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "format")


async def test_a_large_result_keeps_its_base64_in_one_piece(
    client: openai.AsyncOpenAI, face: Face
) -> None:
    large = bytes(range(256)) * 8200  # three pieces, the last one odd
    file_id = await face.put_result(large)
    assert base64.b64decode((await client.files.content(file_id)).content, validate=True) == large


async def test_a_delete_does_not_cut_a_download_off(face: Face, client: openai.AsyncOpenAI) -> None:
    content = bytes(3 * 2**20)
    file = await client.files.create(file=("a.bin", content), purpose="user_data")
    async with client.files.with_streaming_response.content(file.id) as response:
        pieces = response.iter_bytes()
        got = len(await anext(pieces))
        await client.files.delete(file.id)
        async for piece in pieces:
            got += len(piece)
    assert got == len(content)


async def test_a_download_that_breaks_off_is_let_go(face: Face, client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("a.bin", bytes(4 * 2**20)), purpose="user_data")
    _, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(
        f"GET /v1/files/{file.id}/content HTTP/1.1\r\nHost: ftd\r\n"
        f"Authorization: Bearer {KEY}\r\n\r\n".encode()
    )
    await writer.drain()
    writer.transport.abort()
    await until(lambda: ("/v1/files/{file_id}/content", "GET") in [s[:2] for s in face.observed])


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../../etc/data.jsonl", "data.jsonl"),
        ("C:\\data.jsonl", "data.jsonl"),
        ("\u062f\u0627\u062f\u0647.jsonl", "\u062f\u0627\u062f\u0647.jsonl"),
        ('a"b%.jsonl', 'a"b%.jsonl'),
    ],
)
async def test_names(
    client: openai.AsyncOpenAI, http: httpx2.AsyncClient, name: str, kept: str
) -> None:
    file = await client.files.create(file=(name, conversations(1)), purpose="fine-tune")
    assert file.filename == kept
    header = (await http.get(f"/v1/files/{file.id}/content")).headers["content-disposition"]
    assert header.isascii()
    assert "\n" not in header


@pytest.mark.parametrize(
    ("files", "data", "param", "words"),
    [
        ({}, UPLOAD, None, "multipart/form-data"),
        ({"other": ("a.jsonl", b"{}")}, UPLOAD, "file", "Missing required parameter: 'file'."),
        ({"file": ("a.jsonl", b"{}")}, {}, "purpose", "Missing required parameter: 'purpose'."),
        ({"file": (None, b"{}")}, UPLOAD, "file", "must be a file"),
        ({"file": ("a.jsonl", b"{}")}, {"purpose": "fun"}, "purpose", "'fun' is not one of"),
        ({"file": ("a.txt", b"{}")}, UPLOAD, "file", "Must be .jsonl"),
        ({"file": ("a.jsonl", b"no\n")}, UPLOAD, "file", "Expected file to have JSONL format"),
    ],
)
async def test_a_bad_form_is_400_and_leaves_nothing(
    face: Face,
    http: httpx2.AsyncClient,
    files: dict[str, Any],
    data: dict[str, str],
    param: str | None,
    words: str,
) -> None:
    answer = await http.post("/v1/files", files=files, data=data)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"] == param
    assert words in error["message"]
    await nothing_is_left(face)


async def test_two_files_are_refused(face: Face, http: httpx2.AsyncClient) -> None:
    two = [("file", ("a.jsonl", conversations(1))), ("file", ("b.jsonl", conversations(1)))]
    answer = await http.post("/v1/files", files=two, data=UPLOAD)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    await nothing_is_left(face)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "multipart/form-data"])
async def test_other_content_types(http: httpx2.AsyncClient, content_type: str) -> None:
    answer = await http.post("/v1/files", content=b"{}", headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        head_of("a.jsonl") + b'{"a": 1}\n',  # no last boundary
        head_of("a.jsonl")[:80],
        b"--other\r\n\r\n--other--\r\n",
        b"",
    ],
)
async def test_a_form_that_is_not_whole(face: Face, body: bytes) -> None:
    answer = await face.raw(request(body))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"multipart" in answer
    await nothing_is_left(face)


async def test_a_client_that_goes_away_leaves_nothing(face: Face) -> None:
    body = head_of("a.jsonl") + conversations(20_000)
    for sent in (len(head_of("a.jsonl")), len(body) // 2, len(body)):
        _, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
        writer.write(request(body[:sent], length=len(body) + 1000))
        await writer.drain()
        await until(face.incoming)
        writer.transport.abort()
        await nothing_is_left(face)
    assert [seen[1:3] for seen in face.observed] == [("POST", 499)] * 3


async def test_too_large_by_its_announcement_and_by_its_bytes(face: Face) -> None:
    limit = face.door.settings.limits.upload_bytes
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(request(head_of("a.jsonl"), length=limit + 100_000))
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")  # before the bytes came
    writer.close()
    async with face.http() as http:
        answer = await http.post(
            "/v1/files",
            content=in_pieces(head_of("a.jsonl") + bytes(limit + 2**20) + b"\r\n--mark--\r\n"),
            headers={"Content-Type": "multipart/form-data; boundary=mark"},
        )
    assert answer.status_code == 413
    assert answer.json()["error"]["param"] == "file"
    assert answer.headers["connection"] == "close"
    await nothing_is_left(face)


async def test_a_file_of_just_the_limit_is_taken(face: Face, client: openai.AsyncOpenAI) -> None:
    limit = face.door.settings.limits.upload_bytes
    file = await client.files.create(file=("a.bin", bytes(limit)), purpose="user_data")
    assert file.bytes == limit
    with pytest.raises(openai.APIStatusError) as caught:
        await client.files.create(file=("a.bin", bytes(limit + 1)), purpose="user_data")
    assert caught.value.status_code == 413


async def test_an_upload_without_a_key_is_answered_before_its_end(face: Face) -> None:
    stranger = openai.AsyncOpenAI(base_url=f"{face.url}/v1", api_key="wrong", max_retries=0)
    async with stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.files.create(file=io.BytesIO(bytes(3 * 2**20)), purpose="fine-tune")
    await nothing_is_left(face)


async def test_uploads_side_by_side(client: openai.AsyncOpenAI, face: Face, tmp_path: Path) -> None:
    contents = [bytes([n]) * 700_000 for n in range(4)]
    files = await asyncio.gather(
        *(client.files.create(file=("a.bin", c), purpose="user_data") for c in contents)
    )
    for file, content in zip(files, contents, strict=True):
        assert (await client.files.content(file.id)).content == content


async def nothing_is_left(face: Face) -> None:
    await until(lambda: not face.incoming())
    assert [path for path in face.home.files.iterdir() if path.is_file()] == []
    async with face.http() as http:
        assert (await http.get("/v1/files")).json()["data"] == []
    face.observed.pop()


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """Chunked, so that no length is announced."""
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]
