"""The gate that every call comes through: who makes it, how it ends, how long it takes.

right:  raise no_such_job(request.id)              the gate turns it into a status
wrong:  await context.abort(NOT_FOUND, ...)        a second table of errors
"""

import asyncio
import inspect
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio

from ftd.api.grpc import statuses
from ftd.api.grpc.messages import Reader
from ftd.core.errors import FtdError, Kind
from ftd.service import audit
from ftd.service.actor import Actor
from ftd.service.door import Door
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

MESSAGE_S = 120.0  # for one message: 4 MiB, the largest, at 35 KiB a second
STRANGER_S = 5.0  # the same for a call that needs no key
KEY_CALLS = 128  # open at once with one key; the home's own may have all that there can be
STRANGERS = 64  # calls that need no key at once: they can only crowd out each other

_REFUSALS = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})

_NOBODY = ""  # the id of no key

_actor: ContextVar[Actor] = ContextVar("actor")


def actor() -> Actor:
    """On whose behalf the current call is made; only inside a call that was let in."""
    return _actor.get()


class Gate(grpc.aio.ServerInterceptor):
    """What is around every handler of ours, from the outside in:

    - its errors become statuses; `observe` and the audit log are told how it ended;
    - nobody comes in without a key, `authorization: Bearer KEY` in the call's metadata, nobody
      further than its scopes, and nobody stays for longer than it is valid;
    - a key has so many calls open at once; each is counted, in the bucket that its requests over
      REST come from too;
    - its messages are waited for, each for so long, and read.

    gRPC's own services need no key: there the number of calls is bounded, and the waiting.
    """

    def __init__(self, door: Door, observe: Observe) -> None:
        self._keys = door.keys
        self._rates = door.rates
        self._observe = observe
        self._open: Counter[str] = Counter()  # calls, by the id of their key

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        handler = await continuation(details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        call = _name(details)
        open_to_all = call.partition("/")[0] in OPEN
        around = self._strangers_call if open_to_all else self._holders_call
        reader = Reader(handler, call, STRANGER_S if open_to_all else MESSAGE_S)
        answer = _behaviour(handler)

        async def one(received: AsyncIterator[bytes], context: Any) -> Any:
            async with around(details, context), reader.request(received) as request:
                return await answer(request, context)

        # Written, not yielded: between two that are yielded, all this would not be there to end it.
        async def many(received: AsyncIterator[bytes], context: Any) -> None:
            async with (
                around(details, context),
                reader.request(received) as request,
                aclosing(answer(request, context)) as messages,
            ):
                async for message in messages:
                    await context.write(message)

        # As one that takes a stream of bytes, whatever it takes: gRPC would wait for a message, for
        # as long as that takes, and read it, before any of this runs.
        serializer = handler.response_serializer
        if not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(one, response_serializer=serializer)
        # gRPC's own handlers may write their messages themselves.
        writes = inspect.iscoroutinefunction(answer)
        return grpc.stream_stream_rpc_method_handler(
            one if writes else many, response_serializer=serializer
        )

    @asynccontextmanager
    async def _holders_call(
        self, details: grpc.HandlerCallDetails, context: "_Context"
    ) -> AsyncIterator[None]:
        call = _name(details)
        async with _outcome(call, context, self._observe):
            caller = self._keys.authenticate(_bearer(details))
            needed = CALLS[call]
            assert needed is not None, "only gRPC's own services are open"
            # Never reset: gRPC runs each call in a task, and so in a context, of its own.
            _actor.set(caller)
            permit(caller, needed)
            if caller.key_id and self._open_calls(caller.key_id, context) > KEY_CALLS:
                raise FtdError(Kind.RATE_LIMITED, f"A key may have {KEY_CALLS} calls open at once.")
            async with while_held(self._keys, caller):
                counted = self._rates.count(caller)
                if counted is not None and counted.refused is not None:
                    raise counted.refused
                yield

    @asynccontextmanager
    async def _strangers_call(
        self, details: grpc.HandlerCallDetails, context: "_Context"
    ) -> AsyncIterator[None]:
        del details
        try:
            if self._open_calls(_NOBODY, context) > STRANGERS:
                raise FtdError(Kind.UNAVAILABLE, "Too many calls without a key are open.")
            yield
        except FtdError as error:
            await statuses.abort(context, error)

    def _open_calls(self, key: str, context: "_Context") -> int:
        """How many calls a key has open, this one included, which is so until gRPC has done with
        it: when its handler has ended, its answer may still wait to be read."""
        context.add_done_callback(lambda _: self._close_call(key))  # type: ignore[arg-type]
        self._open[key] += 1
        return self._open[key]

    def _close_call(self, key: str) -> None:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]


@asynccontextmanager
async def _outcome(call: str, context: "_Context", observe: Observe) -> AsyncIterator[None]:
    """Turns errors into statuses, and tells `observe` and the audit log of the call."""
    started = time.monotonic()
    peer = unquote(context.peer())  # now: grpc dereferences a call that may be gone at its end
    audit.begin()
    code = grpc.StatusCode.OK
    try:
        yield
    except FtdError as error:
        code = statuses.code(error)
        await statuses.abort(context, error)
    except asyncio.CancelledError:
        code = grpc.StatusCode.CANCELLED
        raise
    except grpc.aio.InternalError as error:  # a message was written to a client that has gone
        code = grpc.StatusCode.CANCELLED
        raise asyncio.CancelledError from error
    except Exception:
        log.exception("call failed", extra={"method": call})
        code = grpc.StatusCode.INTERNAL
        ours = FtdError(Kind.INTERNAL, "The server had an error; its log says more.")
        await statuses.abort(context, ours)
    finally:
        service, _, method = call.partition("/")
        observe(service, method, code.name, time.monotonic() - started)
        audit.ended(
            call,
            needs=CALLS.get(call),
            actor=_actor.get(None),
            outcome=code.name,
            refused=code in _REFUSALS,
            peer=peer,
        )


def _bearer(details: grpc.HandlerCallDetails) -> str | None:
    for name, value in details.invocation_metadata:
        if name == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
    return None


def _name(details: grpc.HandlerCallDetails) -> str:
    """`ftd.v1.Jobs/GetJob` is the method GetJob of the service ftd.v1.Jobs."""
    return details.method.removeprefix("/")


def _behaviour(handler: "_Handler") -> Any:
    """What answers a call: it takes the request, or the stream of them, and the context."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
