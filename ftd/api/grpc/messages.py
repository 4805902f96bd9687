"""Messages are read here, once the key was seen: what is none, or makes too much of few bytes, is
the client's mistake, INVALID_ARGUMENT.

gRPC would read them before any handler of ours runs, whoever sent them, and call whatever that
raises UNKNOWN. So they come to our handlers as bytes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from ftd.api.grpc.amount import holds_more
from ftd.api.grpc.interceptors import MAKERS, behaviour, is_open
from ftd.core.errors import invalid

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Read: TypeAlias = Callable[[bytes], Any]

MAX_VALUES = 100_000  # of one message; a conversation of a thousand turns has six thousand

NOT_OF_ITS_TYPE = "The message cannot be read: it is not of the call's type."
TOO_MUCH = f"The message holds more than {MAX_VALUES:,} values."


class Messages(grpc.aio.ServerInterceptor):
    """Shows handlers of ours readable messages alone. Put it behind those who answer and who let
    in.

    Raises INVALID in the handler's place.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None or is_open(details):
            return handler
        read = _strictly(handler.request_deserializer, _kind(details.method))
        return _reading(handler, read)


def _reading(handler: "_Handler", read: _Read) -> "_Handler":
    """The handler, of the same arity, which takes bytes."""
    answer = behaviour(handler)

    async def each(messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for message in messages:
            yield read(message)

    look: Callable[[Any], Any] = each if handler.request_streaming else read
    made: _Handler = MAKERS[handler.request_streaming, handler.response_streaming](
        lambda request, context: answer(look(request), context),
        response_serializer=handler.response_serializer,
    )
    return made


def _strictly(deserialize: _Read, kind: Descriptor) -> _Read:
    """The deserializer, which raises INVALID."""

    def read(data: bytes) -> Any:
        if holds_more(MAX_VALUES, data, kind):
            raise invalid(TOO_MUCH)
        try:
            return deserialize(data)
        except DecodeError:
            raise invalid(NOT_OF_ITS_TYPE) from None

    return read


def _kind(method: str) -> Descriptor:
    """What a call takes: `/ftd.v1.Jobs/GetJob` is the method ftd.v1.Jobs.GetJob."""
    name = method.removeprefix("/").replace("/", ".")
    kind: Descriptor = descriptor_pool.Default().FindMethodByName(name).input_type
    return kind
