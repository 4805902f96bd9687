"""A file's bytes on their way out: read in pieces beside the loop, closed whatever happens."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from typing import BinaryIO
from urllib.parse import quote

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

# Divisible by three, so that the pieces' base64 joins to the whole's; 64 KiB of it a piece. Each
# client that reads slowly makes us hold one or two.
PIECE_BYTES = 3 * 2**14


class Content(StreamingResponse):
    """Sends an open file as it is, or in base64, and closes it."""

    def __init__(
        self, file: BinaryIO, *, filename: str, media_type: str, encoded: bool = False
    ) -> None:
        size = os.fstat(file.fileno()).st_size
        super().__init__(
            _base64(file) if encoded else _pieces(file),
            media_type=media_type,
            headers={
                "Content-Length": str(-(-size // 3) * 4 if encoded else size),
                "Content-Disposition": disposition(filename),
                # What somebody uploaded is never a page of ours.
                "X-Content-Type-Options": "nosniff",
            },
        )
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def disposition(filename: str) -> str:
    """An attachment's name as RFC 6266 wants it: plain, or percent-encoded where it is not."""
    quoted = quote(filename, safe="")
    if quoted == filename:
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=UTF-8''{quoted}"


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece


async def _base64(file: BinaryIO) -> AsyncIterator[bytes]:
    async for piece in _pieces(file):
        yield base64.b64encode(piece)
