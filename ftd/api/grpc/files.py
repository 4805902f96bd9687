"""Files over gRPC: streams of chunks both ways, never a whole file in memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ftd.api.grpc import convert, idempotency
from ftd.api.grpc.gate import actor
from ftd.core.errors import invalid
from ftd.service.files import Files
from ftd.v1 import files_pb2, files_pb2_grpc

CHUNK_BYTES = 256 * 1024


class FilesFace(files_pb2_grpc.FilesServicer):
    def __init__(self, files: Files) -> None:
        self._files = files

    async def UploadFile(
        self, request_iterator: AsyncIterator[files_pb2.UploadFileRequest], context: Any
    ) -> files_pb2.File:
        key = idempotency.key(context)
        header = await _header(request_iterator)
        expires_after_s = (
            header.expires_after_seconds if header.HasField("expires_after_seconds") else None
        )
        async with self._files.upload(actor(), expected_bytes=header.bytes) as upload:
            received = 0
            async for chunk in _chunks(request_iterator):
                await upload.write(chunk)
                received += len(chunk)
            if received != header.bytes:
                # gRPC ends the iteration alike when the client is done and when it is gone.
                raise invalid(
                    f"{header.bytes} bytes were announced and {received} came.",
                    param="header.bytes",
                )
            file = await upload.finish(
                filename=header.filename,
                purpose=header.purpose,
                expires_after_s=expires_after_s,
                idempotency_key=key,
            )
        return convert.file(file)

    async def ListFiles(
        self, request: files_pb2.ListFilesRequest, context: Any
    ) -> files_pb2.ListFilesResponse:
        page = await self._files.list(
            actor(),
            purpose=request.purpose or None,
            after=request.after or None,
            limit=request.limit,
            order=request.order or None,
        )
        return files_pb2.ListFilesResponse(
            data=[convert.file(file, report=False) for file in page.data], has_more=page.has_more
        )

    async def GetFile(self, request: files_pb2.GetFileRequest, context: Any) -> files_pb2.File:
        return convert.file(await self._files.get(actor(), request.id))

    async def DeleteFile(
        self, request: files_pb2.DeleteFileRequest, context: Any
    ) -> files_pb2.DeleteFileResponse:
        await self._files.delete(actor(), request.id)
        return files_pb2.DeleteFileResponse(id=request.id, deleted=True)

    async def GetFileContent(
        self, request: files_pb2.GetFileContentRequest, context: Any
    ) -> AsyncIterator[files_pb2.FileChunk]:
        with await self._files.content(actor(), request.id) as content:
            while data := await asyncio.to_thread(content.read, CHUNK_BYTES):
                yield files_pb2.FileChunk(data=data)


async def _header(
    parts: AsyncIterator[files_pb2.UploadFileRequest],
) -> files_pb2.UploadHeader:
    first = await anext(aiter(parts), None)
    if first is None or first.WhichOneof("part") != "header":
        raise invalid("An upload begins with a message that names the file.", param="header")
    if first.header.bytes < 0:
        raise invalid("bytes must not be negative.", param="header.bytes")
    return first.header


async def _chunks(parts: AsyncIterator[files_pb2.UploadFileRequest]) -> AsyncIterator[bytes]:
    async for part in parts:
        if part.WhichOneof("part") != "chunk":
            raise invalid("Only an upload's first message names the file.", param="chunk")
        yield part.chunk
