"""Bytes that are no message are the client's mistake: INVALID_ARGUMENT, once the key was seen.

gRPC reads a message before any handler of ours runs, and calls whatever that raises UNKNOWN.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from ftd.api.grpc.interceptors import MAKERS, behaviour, is_open
from ftd.core.errors import invalid

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class _Unreadable:
    """Stands where a message should be."""


class Messages(grpc.aio.ServerInterceptor):
    """Shows handlers of ours readable messages alone. Put it last, behind those who answer and who
    let in.

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
        return _guarded(handler)


def _guarded(handler: "_Handler") -> "_Handler":
    """The handler, of the same arity, with its messages looked at."""
    deserialize = handler.request_deserializer
    assert deserialize is not None, "whose messages are bytes as they came has nothing to guard"
    answer = behaviour(handler)
    look: Callable[[Any], Any] = _each if handler.request_streaming else _message
    guarded: _Handler = MAKERS[handler.request_streaming, handler.response_streaming](
        lambda request, context: answer(look(request), context),
        request_deserializer=_tolerant(deserialize),
        response_serializer=handler.response_serializer,
    )
    return guarded


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Unreadable()

    return read


def _message(message: Any) -> Any:
    if isinstance(message, _Unreadable):
        raise invalid("The message cannot be read: it is not of the call's type.")
    return message


async def _each(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _message(message)
