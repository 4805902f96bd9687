"""How long a message is waited for, how many strangers may call, and what one key may ask.

A call holds one of MAX_CALLS places from its first word on. gRPC would wait for its message, for as
long as that takes, before any handler of ours runs, and so before a key is looked at.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio

from ftd.api.grpc.interceptors import MAKERS, Surround, actor, behaviour, is_open, trailers, writes
from ftd.core.errors import FtdError, Kind, invalid
from ftd.service.rates import Rates

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

MESSAGE_S = 120.0  # for one message: 4 MiB, the largest, at 35 KiB a second
STRANGER_S = 5.0  # the same for a call that needs no key
STRANGERS = 64  # calls that need no key at once


class Patience(grpc.aio.ServerInterceptor):
    """Waits for a call's messages, each for so long. Put it last: those before it begin when the
    call does.

    Raises TIMED_OUT in the handler's place, and INVALID where its one message never comes.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        handler = await continuation(details)
        if handler is None:
            return None
        return _waiting(handler, STRANGER_S if is_open(details) else MESSAGE_S)


def _waiting(handler: "_Handler", within_s: float) -> "_Handler":
    """The handler as one that takes a stream of messages, whatever it takes itself."""
    answer = behaviour(handler)

    async def taken(messages: AsyncGenerator[Any, None]) -> Any:
        return messages if handler.request_streaming else await _one(messages)

    async def one(messages: AsyncIterator[Any], context: Any) -> Any:
        async with aclosing(_each(messages, within_s)) as each:
            return await answer(await taken(each), context)

    async def many(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async with (
            aclosing(_each(messages, within_s)) as each,
            aclosing(answer(await taken(each), context)) as answers,
        ):
            async for said in answers:
                yield said

    made: _Handler = MAKERS[True, handler.response_streaming](
        many if handler.response_streaming and not writes(answer) else one,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


async def _one(messages: AsyncGenerator[Any, None]) -> Any:
    async for message in messages:
        return message
    raise invalid("A message was announced, and none came.")


async def _each(messages: AsyncIterator[Any], within_s: float) -> AsyncGenerator[Any, None]:
    coming = aiter(messages)
    while True:
        try:
            async with asyncio.timeout(within_s):
                message = await anext(coming)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise FtdError(
                Kind.TIMED_OUT, f"No whole message came for {within_s:g} seconds."
            ) from None
        yield message


class Strangers(Surround):
    """Bounds the calls that need no key, which are gRPC's own; they can only crowd out each
    other."""

    def __init__(self) -> None:
        self._here = 0

    def holds_for(self, details: grpc.HandlerCallDetails) -> bool:
        return is_open(details)

    @asynccontextmanager
    async def around(
        self, details: grpc.HandlerCallDetails, context: "_Context"
    ) -> AsyncIterator[None]:
        del details
        self._here += 1
        try:
            if self._here > STRANGERS:
                raise FtdError(Kind.UNAVAILABLE, "Too many calls without a key are open.")
            yield
        except FtdError as error:
            code = grpc.StatusCode[error.kind.grpc_code]
            await context.abort(code, error.message, trailers(error))
        finally:
            self._here -= 1


class Allowance(Surround):
    """Counts a key's calls, in the bucket that its requests over REST come from too."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates

    @asynccontextmanager
    async def around(
        self, details: grpc.HandlerCallDetails, context: "_Context"
    ) -> AsyncIterator[None]:
        del details, context
        counted = self._rates.count(actor())
        if counted is not None and counted.refused is not None:
            raise counted.refused
        yield
