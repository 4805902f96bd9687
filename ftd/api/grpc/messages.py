"""A call's messages: how long each is waited for, and how they are read.

gRPC would wait without end, and read what a stranger sends, before any handler of ours runs; what
it cannot read it calls UNKNOWN. So messages come to us as bytes, and are read once the key was
seen: what is none, or makes too much of few bytes, is the client's mistake, INVALID_ARGUMENT.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import cache
from typing import Any, TypeAlias

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from ftd.api.grpc.amount import holds_more
from ftd.core.errors import FtdError, Kind, invalid

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

MAX_VALUES = 100_000  # of one message; a conversation of a thousand turns has six thousand

NOT_OF_ITS_TYPE = "The message cannot be read: it is not of the call's type."
TOO_MUCH = f"The message holds more than {MAX_VALUES:,} values."


class Reader:
    """Reads what a handler takes, out of the bytes of its call."""

    def __init__(self, handler: "_Handler", call: str, within_s: float) -> None:
        assert handler.request_deserializer is not None, "generated code sets it"
        self._streams = handler.request_streaming
        self._deserialize = handler.request_deserializer
        self._kind = _kind(call)
        self._within_s = within_s

    @asynccontextmanager
    async def request(self, received: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """The message, or the stream of them. Raises INVALID for what is no message, or is not
        there, and TIMED_OUT for one that is waited for too long, in a stream while it is read."""
        async with aclosing(self._each(received)) as messages:
            yield messages if self._streams else await _one(messages)

    async def _each(self, received: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
        coming = aiter(received)
        while True:
            try:
                async with asyncio.timeout(self._within_s):
                    data = await anext(coming)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise FtdError(
                    Kind.TIMED_OUT, f"No whole message came for {self._within_s:g} seconds."
                ) from None
            yield self._read(data)

    def _read(self, data: bytes) -> Any:
        if holds_more(MAX_VALUES, data, self._kind):
            raise invalid(TOO_MUCH)
        try:
            return self._deserialize(data)
        except DecodeError:
            raise invalid(NOT_OF_ITS_TYPE) from None


async def _one(messages: AsyncGenerator[Any, None]) -> Any:
    async for message in messages:
        return message
    raise invalid("A message was announced, and none came.")


@cache
def _kind(call: str) -> Descriptor:
    """What a call takes: `ftd.v1.Jobs/GetJob` is the method ftd.v1.Jobs.GetJob."""
    name = call.replace("/", ".")
    kind: Descriptor = descriptor_pool.Default().FindMethodByName(name).input_type
    return kind
