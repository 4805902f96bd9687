"""What surrounds every call: who makes it, how it ends, how long it takes.

right:  raise no_such_job(request.id)              Outcomes turns it into a status
wrong:  await context.abort(NOT_FOUND, ...)        a second table of errors
"""

import asyncio
import inspect
import logging
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import grpc
import grpc.aio

from ftd.core.errors import FtdError, Kind
from ftd.service import audit
from ftd.service.keys import Actor, Keys
from ftd.service.rules import CALLS, permit
from ftd.service.tenure import while_held

log = logging.getLogger(__name__)

# (service, method, status code, seconds), once for each call that has ended.
Observe = Callable[[str, str, str, float], None]

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# gRPC's own services say nothing about anybody's data.
OPEN = frozenset(
    {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"}
    | {"grpc.reflection.v1alpha.ServerReflection"}
)

# A status travels as a header: percent-encoded (three for one at worst), in 8 KiB with the rest.
MAX_MESSAGE_BYTES = 2000
MAX_PARAM_BYTES = 200

_REFUSALS = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})

_actor: ContextVar[Actor] = ContextVar("actor")


def actor() -> Actor:
    """On whose behalf the current call is made; only inside a call that was let in."""
    return _actor.get()


def is_open(details: grpc.HandlerCallDetails) -> bool:
    """Whether the call is of a service of gRPC's own, which needs no key."""
    return _split(details.method)[0] in OPEN


class Surround(grpc.aio.ServerInterceptor):
    """Runs every handler, of whatever arity, inside `around`: of the calls that are ours."""

    def holds_for(self, details: grpc.HandlerCallDetails) -> bool:
        """Whether it surrounds this call."""
        return not is_open(details)

    @abstractmethod
    def around(
        self, details: grpc.HandlerCallDetails, context: "_Context"
    ) -> AbstractAsyncContextManager[None]:
        """Entered before the handler begins and left when it has ended, however it ends."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        handler = await continuation(details)
        if handler is None or not self.holds_for(details):
            return handler  # None: gRPC answers UNIMPLEMENTED
        answer = behaviour(handler)

        async def one(request: Any, context: Any) -> Any:
            async with self.around(details, context):
                return await answer(request, context)

        async def many(request: Any, context: Any) -> AsyncIterator[Any]:
            async with (
                self.around(details, context),
                aclosing(answer(request, context)) as messages,
            ):
                async for message in messages:
                    yield message

        make = MAKERS[handler.request_streaming, handler.response_streaming]
        surrounded: _Handler = make(
            many if handler.response_streaming and not writes(answer) else one,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return surrounded


class Outcomes(Surround):
    """Turns errors into statuses and tells `observe` of every call. Put it first."""

    def __init__(self, observe: Observe) -> None:
        self._observe = observe

    @asynccontextmanager
    async def around(
        self, details: grpc.HandlerCallDetails, context: "_Context"
    ) -> AsyncIterator[None]:
        started = time.monotonic()
        peer = unquote(context.peer())  # now: grpc dereferences a call that may be gone at its end
        audit.begin()
        code = grpc.StatusCode.OK
        try:
            yield
        except FtdError as error:
            code = grpc.StatusCode[error.kind.grpc_code]
            await context.abort(code, clip(error.message, MAX_MESSAGE_BYTES), trailers(error))
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception:
            log.exception("call failed", extra={"method": details.method})
            code = grpc.StatusCode.INTERNAL
            ours = FtdError(Kind.INTERNAL, "The server had an error; its log says more.")
            await context.abort(code, ours.message, trailers(ours))
        finally:
            call = _split(details.method)
            self._observe(*call, code.name, time.monotonic() - started)
            audit.ended(
                "/".join(call),
                needs=CALLS.get("/".join(call)),
                actor=_actor.get(None),
                outcome=code.name,
                refused=code in _REFUSALS,
                peer=peer,
            )


class Authentication(Surround):
    """Lets nobody in without a key, `authorization: Bearer KEY` in the call's metadata, nobody
    further than its scopes, and nobody stay for longer than it is valid."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @asynccontextmanager
    async def around(
        self, details: grpc.HandlerCallDetails, context: "_Context"
    ) -> AsyncIterator[None]:
        del context
        caller = self._keys.authenticate(_bearer(details))
        needed = CALLS["{}/{}".format(*_split(details.method))]
        assert needed is not None, "only gRPC's own services are open"
        # Never reset: gRPC runs each call in a task, and so in a context, of its own.
        _actor.set(caller)
        permit(caller, needed)
        async with while_held(self._keys, caller):
            yield


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


def _bearer(details: grpc.HandlerCallDetails) -> str | None:
    for name, value in details.invocation_metadata:
        if name == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
    return None


def _split(method: str) -> tuple[str, str]:
    """`/ftd.v1.Jobs/GetJob` is the method GetJob of the service ftd.v1.Jobs."""
    service, _, name = method.removeprefix("/").partition("/")
    return service, name


def behaviour(handler: "_Handler") -> Any:
    """What answers a call: it takes the request, or the stream of them, and the context."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )


def writes(answer: Any) -> bool:
    """Whether a handler writes its messages itself, instead of yielding them: gRPC's own may."""
    return inspect.iscoroutinefunction(answer)


# (whether requests stream, whether responses do): what makes a handler of that arity.
MAKERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
