"""/v1/files: training data in, result files out."""

from typing import Any

from fastapi import APIRouter, Request, Response

from ftd.api.rest import form, schema
from ftd.api.rest.auth import Caller, TheDoor
from ftd.api.rest.bodies import bounds
from ftd.api.rest.content import Content
from ftd.api.rest.idempotency import IdempotencyKey
from ftd.api.rest.queries import Format, Limit, Order, Text
from ftd.core.file import PURPOSES, RESULTS
from ftd.service.files import EXPIRES_S

router = APIRouter(prefix="/v1/files", tags=["Files"])

_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [form.FILE, form.PURPOSE],
                    "properties": {
                        form.FILE: {"type": "string", "format": "binary"},
                        form.PURPOSE: {"type": "string", "enum": sorted(PURPOSES)},
                        form.ANCHOR: {"type": "string", "enum": ["created_at"]},
                        form.SECONDS: {"type": "integer", **bounds(EXPIRES_S[0], EXPIRES_S[-1])},
                    },
                    "dependentRequired": {
                        form.ANCHOR: [form.SECONDS],
                        form.SECONDS: [form.ANCHOR],
                    },
                },
            }
        },
    }
}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes; a result file in base64 unless CSV is asked for.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "text/csv": {"schema": {"type": "string"}},
        },
    }
}


@router.post("", operation_id="createFile", openapi_extra=_UPLOAD)
async def create(
    request: Request, door: TheDoor, caller: Caller, key: IdempotencyKey
) -> schema.File:
    """Upload a file. A client that goes away leaves nothing behind."""
    mark = form.boundary(request.headers.get("content-type"))
    async with door.files.upload(caller, expected_bytes=_expected_bytes(request)) as upload:
        told = await form.receive(request.stream(), mark, upload.write)
        stored = await upload.finish(
            filename=told.filename,
            purpose=told.purpose,
            expires_after_s=told.expires_after_s,
            idempotency_key=key,
        )
    return schema.file(stored)


@router.get("", operation_id="listFiles")
async def list_files(
    door: TheDoor,
    caller: Caller,
    purpose: Text = None,
    limit: Limit = None,
    order: Order = None,
    after: Text = None,
) -> schema.FileList:
    """Newest first, or oldest with order=asc; 10,000 where no limit is given."""
    page = await door.files.list(caller, purpose=purpose, after=after, limit=limit, order=order)
    return schema.file_list(page)


@router.get("/{file_id}", operation_id="retrieveFile")
async def retrieve(file_id: str, door: TheDoor, caller: Caller) -> schema.File:
    """One file."""
    return schema.file(await door.files.get(caller, file_id))


@router.delete("/{file_id}", operation_id="deleteFile")
async def delete(file_id: str, door: TheDoor, caller: Caller) -> schema.FileDeleted:
    """Gone from every listing at once; a running job keeps its bytes."""
    await door.files.delete(caller, file_id)
    return schema.FileDeleted(id=file_id)


@router.get(
    "/{file_id}/content", operation_id="downloadFile", response_class=Response, responses=_BYTES
)
async def content(
    request: Request,
    file_id: str,
    door: TheDoor,
    caller: Caller,
    format: Format = None,  # noqa: A002 - the parameter's public name
) -> Response:
    """The bytes. OpenAI serves result files in base64: so do we, unless CSV is asked for."""
    file = await door.files.get(caller, file_id)
    opened = await door.files.content(caller, file_id)
    if file.purpose != RESULTS:
        return Content(opened, filename=file.filename, media_type="application/octet-stream")
    if format == "csv" or _accepts_csv(request):
        return Content(opened, filename=file.filename, media_type="text/csv")
    return Content(
        opened, filename=file.filename, media_type="application/octet-stream", encoded=True
    )


def _expected_bytes(request: Request) -> int | None:
    """At least how many bytes the announced body holds of the file."""
    announced = request.headers.get("content-length")
    return None if announced is None else max(0, int(announced) - form.MAX_OVERHEAD_BYTES)


def _accepts_csv(request: Request) -> bool:
    """Whether text/csv is asked for by name; "anything" is not asking."""
    ranges = ",".join(request.headers.getlist("accept")).split(",")
    return any(one.partition(";")[0].strip().lower() == "text/csv" for one in ranges)
