"""Files over gRPC: streams of chunks, and nothing left of one that breaks."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from ftd.api.grpc.files import CHUNK_BYTES
from ftd.v1 import files_pb2, files_pb2_grpc
from tests.api.grpc.serving import BEARER, refused, served, until

LINE = b'{"messages": []}\n'


def files(channel: grpc.aio.Channel) -> files_pb2_grpc.FilesStub:
    return files_pb2_grpc.FilesStub(channel)


def header(**fields: object) -> files_pb2.UploadFileRequest:
    named = {"filename": "data.jsonl", "purpose": "fine-tune", **fields}
    return files_pb2.UploadFileRequest(header=files_pb2.UploadHeader(**named))


def whole(*chunks: bytes, **fields: object) -> list[files_pb2.UploadFileRequest]:
    size = sum(map(len, chunks))
    return [header(bytes=size, **fields), *map(chunk, chunks)]


def chunk(data: bytes) -> files_pb2.UploadFileRequest:
    return files_pb2.UploadFileRequest(chunk=data)


async def upload(channel: grpc.aio.Channel, *parts: files_pb2.UploadFileRequest) -> files_pb2.File:
    return await files(channel).UploadFile(iter(parts), metadata=BEARER)


async def test_an_upload_and_what_its_check_found(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        file = await upload(channel, *whole(LINE, LINE))
        assert door.files.contents[file.id] == LINE * 2
    assert (file.filename, file.purpose, file.bytes) == ("data.jsonl", "fine-tune", 34)
    assert file.status == "processed"
    assert not file.HasField("status_details")
    assert not file.HasField("expires_at")
    assert file.report["examples"] == 2


async def test_faults_are_in_the_report_and_the_first_in_status_details(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        file = await upload(channel, *whole(b"{}\nbad\nworse\n"))
    assert file.status == "error"
    assert file.status_details == "Example 2 cannot be parsed."
    assert [fault["line"] for fault in file.report["faults"]] == [2, 3]


async def test_an_expiry_is_handed_on(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        file = await upload(channel, *whole(LINE, expires_after_seconds=3600))
    assert file.expires_at == pytest.approx(file.created_at + 3600, abs=2)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([], "begins with a message that names"),
        ([chunk(LINE)], "begins with a message that names"),
        ([header(bytes=9), header()], "Only an upload's first message"),
        ([header(bytes=-1)], "must not be negative"),
        ([header(bytes=100), chunk(LINE)], "100 bytes were announced and 17 came"),
        ([header(), chunk(LINE)], "0 bytes were announced"),
        ([header(bytes=5), chunk(LINE)], "5 bytes were announced and 17 came"),
        (whole(b"not json"), "Expected file to have JSONL format"),
    ],
    ids=[
        "empty",
        "no header",
        "two headers",
        "negative",
        "short",
        "unannounced",
        "long",
        "not jsonl",
    ],
)
async def test_an_upload_that_is_wrong_leaves_nothing(
    tmp_path: Path, parts: list[files_pb2.UploadFileRequest], says: str
) -> None:
    async with served(tmp_path) as (door, _, channel):
        code, details, _ = await refused(upload(channel, *parts))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in details
    assert door.files.rows == {}
    assert door.files.open_uploads == 0


async def test_a_file_too_large_is_refused_before_its_bytes(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        code, _, said = await refused(upload(channel, header(bytes=2**40)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert said["ftd-kind"] == "TOO_LARGE"
    assert door.files.uploads == 0


async def test_an_upload_whose_client_leaves_is_forgotten(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):

        async def parts() -> AsyncIterator[files_pb2.UploadFileRequest]:
            yield header(bytes=2 * len(LINE))
            yield chunk(LINE)
            await asyncio.Event().wait()

        call = files(channel).UploadFile(parts(), metadata=BEARER)
        await until(lambda: door.files.open_uploads == 1)
        call.cancel()
        await until(lambda: door.files.open_uploads == 0)
    assert door.files.rows == {}


async def test_an_upload_whose_connection_breaks_is_never_taken_for_whole(tmp_path: Path) -> None:
    """A client that dies sends no end of its stream; many times, for it is a race."""
    async with served(tmp_path) as (door, _, _):
        for number in range(1, 21):
            channel = grpc.aio.insecure_channel(f"unix:{tmp_path / 's'}")

            async def parts() -> AsyncIterator[files_pb2.UploadFileRequest]:
                yield header(bytes=2 * len(LINE))
                yield chunk(LINE)
                await asyncio.Event().wait()

            call = files(channel).UploadFile(parts(), metadata=BEARER)
            await until(lambda number=number: door.files.uploads == number)
            await channel.close()
            await asyncio.wait([asyncio.ensure_future(call.code())])
            await until(lambda: door.files.open_uploads == 0)
    assert door.files.rows == {}


async def test_content_comes_in_chunks(tmp_path: Path) -> None:
    content = os.urandom(CHUNK_BYTES + 5)
    async with served(tmp_path) as (door, _, channel):
        door.files.add("file-1", content)
        request = files_pb2.GetFileContentRequest(id="file-1")
        stream = files(channel).GetFileContent(request, metadata=BEARER)
        chunks = [part.data async for part in stream]
    assert [len(data) for data in chunks] == [CHUNK_BYTES, 5]
    assert b"".join(chunks) == content


async def test_a_listing_leaves_the_reports_out(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        for _ in range(3):
            await upload(channel, *whole(LINE))
        request = files_pb2.ListFilesRequest(limit=2, purpose="fine-tune")
        page = await files(channel).ListFiles(request, metadata=BEARER)
        file = await files(channel).GetFile(
            files_pb2.GetFileRequest(id=page.data[0].id), metadata=BEARER
        )
    assert [file.id for file in page.data] == ["file-3", "file-2"]
    assert page.has_more
    assert not page.data[0].HasField("report")
    assert file.HasField("report")


async def test_delete(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        door.files.add("file-1", LINE)
        request = files_pb2.DeleteFileRequest(id="file-1")
        answer = await files(channel).DeleteFile(request, metadata=BEARER)
        assert (answer.id, answer.deleted) == ("file-1", True)
        code, details, said = await refused(files(channel).DeleteFile(request, metadata=BEARER))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details == "No such File object: file-1"
    assert said["ftd-param"] == "id"
