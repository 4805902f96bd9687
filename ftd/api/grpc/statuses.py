"""An error of ours as a status of gRPC, which travels in headers."""

import asyncio
from typing import Any, TypeAlias
from urllib.parse import quote

import grpc
import grpc.aio

from ftd.core.errors import FtdError

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# A status travels as a header: percent-encoded (three for one at worst), in 8 KiB with the rest.
MAX_MESSAGE_BYTES = 2000
MAX_PARAM_BYTES = 200


def code(error: FtdError) -> grpc.StatusCode:
    return grpc.StatusCode[error.kind.grpc_code]


async def abort(context: "_Context", error: FtdError) -> None:
    """End the call with it, by an exception of gRPC's. It waits for what was written before, until
    the client has read it or gone."""
    try:
        await context.abort(code(error), clip(error.message, MAX_MESSAGE_BYTES), trailers(error))
    except grpc.aio.InternalError as gone:
        raise asyncio.CancelledError from gone


def trailers(error: FtdError) -> tuple[tuple[str, str], ...]:
    """What a status alone cannot say: the kind, and OpenAI's code and param, percent-encoded.

    `ftd-kind` is always there, which tells our UNAVAILABLE from that of a broken connection. When
    to try again is said in gRPC's own words: a client with a retry policy waits for so long.
    """
    said = [("ftd-kind", error.kind.name)]
    if error.retry_s is not None:
        said.append(("grpc-retry-pushback-ms", str(error.retry_s * 1000)))
    if error.code is not None:
        said.append(("ftd-code", quote(error.code)))
    if error.param is not None:
        said.append(("ftd-param", quote(clip(error.param, MAX_PARAM_BYTES))))
    return tuple(said)


def clip(text: str, limit_bytes: int) -> str:
    """`text`, or as much of it as fits in that many bytes of UTF-8, with an ellipsis."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit_bytes:
        return data.decode()
    return data[: limit_bytes - 3].decode("utf-8", "ignore") + "..."
