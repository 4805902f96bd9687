"""An answer on its way out: whole, or as server-sent events while it is written.

Nothing is sent before every prompt is read, so that whatever is wrong with a request is told by
its status. What goes wrong later is told by an event with OpenAI's error in it, the last one.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ftd.api.rest import chat_schema, errors
from ftd.api.rest.presence import Attended, stream
from ftd.core import chat
from ftd.core.errors import FtdError
from ftd.service.actor import Actor
from ftd.service.chat import Chat, ChatRequest, Reply

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back
]


@dataclass(slots=True)
class Choice:
    """One choice, complete when `reason` is there."""

    index: int
    texts: list[str] = field(default_factory=list)
    tool_calls: list[chat.ToolCall] = field(default_factory=list)
    logprobs: list[chat.TokenLogprob] = field(default_factory=list)
    reason: chat.FinishReason | None = None

    def take(self, answer: chat.Piece | chat.Finished) -> None:
        if isinstance(answer, chat.Finished):
            self.reason = answer.reason
        else:
            self.texts.append(answer.text)
            self.tool_calls += answer.tool_calls
            self.logprobs += answer.logprobs


class Teller(Protocol):
    """Puts one answer into the words of one route."""

    def whole(self, choices: Sequence[Choice], usage: chat_schema.Usage) -> BaseModel: ...

    def chunks(self, index: int, answer: chat.Piece | chat.Finished) -> Sequence[BaseModel]: ...

    def last(self, usage: chat_schema.Usage) -> BaseModel:
        """The chunk with the usage, which has no choices."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a client wants its answer. `names`: what it calls the service's parameters."""

    teller: Callable[[Mapping[str, Any]], Teller]
    stream: bool
    usage: bool
    names: Mapping[str, str] = field(default_factory=dict)


def answer(door: Chat, actor: Actor, requests: Sequence[ChatRequest], manner: Manner) -> Response:
    """Answer requests that are alike but for their prompts, as one; the choices go by prompt."""
    answering = _Answering(door, actor, requests, manner)
    return Attended(answering.stream if manner.stream else answering.whole)


class _Answering:
    def __init__(
        self, door: Chat, actor: Actor, requests: Sequence[ChatRequest], manner: Manner
    ) -> None:
        self._chat = door
        self._actor = actor
        self._requests = requests
        self._manner = manner
        self._n = requests[0].sampling.n
        self._completion_tokens = 0

    async def whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._begun() as replies:
            # Their number is known to be within bounds only now.
            choices = [Choice(index) for index in range(self._n * len(self._requests))]
            teller = self._manner.teller(_head(replies[0]))
            async with aclosing(self._answers(replies)) as answers:
                async for index, said in answers:
                    choices[index].take(said)
        told = teller.whole(choices, self._usage(replies))
        body = told.model_dump_json().encode()
        await Response(body, media_type="application/json")(scope, receive, send)

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        async with self._begun() as replies:
            piece = await stream(send, status=200, headers=_EVENTS)
            try:
                await self._tell(replies, piece)
            except FtdError as error:
                # Not in its words: of a request that is refused they quote it.
                told = {"answer": replies[0].id, "kind": error.kind.name, "code": error.code}
                log.info("answer broken off", extra=told)
                await piece(_event(errors.body(self._renamed(error))))
        await piece(b"")

    async def _tell(self, replies: Sequence[Reply], piece: Callable[[bytes], Any]) -> None:
        teller = self._manner.teller(_head(replies[0]))
        async with aclosing(self._answers(replies)) as answers:
            async for index, said in answers:
                if events := b"".join(map(_event, teller.chunks(index, said))):
                    await piece(events)
        if self._manner.usage:
            await piece(_event(teller.last(self._usage(replies))))
        await piece(DONE)

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[Sequence[Reply]]:
        """A reply for each request, all begun, and closed at the end. Raises the first refusal."""
        async with AsyncExitStack() as stack:

            async def begin(request: ChatRequest) -> Reply:
                reply = await self._chat.generate(self._actor, request)
                stack.push_async_callback(reply.aclose)
                return reply

            beginning = [asyncio.ensure_future(begin(request)) for request in self._requests]
            try:
                replies = await asyncio.gather(*beginning)
            except FtdError as error:
                raise self._renamed(error) from error
            finally:
                await _cancelled(beginning)
            yield replies

    async def _answers(
        self, replies: Sequence[Reply]
    ) -> AsyncGenerator[tuple[int, chat.Piece | chat.Finished], None]:
        """Of every choice, as they come; what has ended is counted."""
        async with aclosing(_merged(replies)) as merged:
            async for which, said in merged:
                if isinstance(said, chat.Ended):
                    self._completion_tokens += said.completion_tokens
                else:
                    yield which * self._n + said.index, said

    def _usage(self, replies: Sequence[Reply]) -> chat_schema.Usage:
        return chat_schema.usage(
            prompt=sum(reply.began.prompt_tokens for reply in replies),
            cached=sum(reply.began.cached_tokens for reply in replies),
            completion=self._completion_tokens,
        )

    def _renamed(self, error: FtdError) -> FtdError:
        """The error in the request's own words for its parameters."""
        name = self._manner.names.get(error.param or "")
        if name is None:
            return error
        message = error.message.replace(f"'{error.param}'", f"'{name}'")
        return FtdError(error.kind, message, code=error.code, param=name)


async def _merged(
    replies: Sequence[Reply],
) -> AsyncGenerator[tuple[int, chat.Piece | chat.Finished | chat.Ended], None]:
    """What all of them say, as it comes, each with the place of its reply."""
    if len(replies) == 1:
        async for said in replies[0]:
            yield 0, said
        return
    awaited = {_next(reply): which for which, reply in enumerate(replies)}
    try:
        while awaited:
            done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                which = awaited.pop(task)
                if (said_or_end := task.result()) is not None:
                    awaited[_next(replies[which])] = which
                    yield which, said_or_end
    finally:
        await _cancelled(awaited)


def _next(reply: Reply) -> asyncio.Future[chat.Piece | chat.Finished | chat.Ended | None]:
    return asyncio.ensure_future(anext(reply, None))


async def _cancelled(
    tasks: "Sequence[asyncio.Future[Any]] | Mapping[asyncio.Future[Any], int]",
) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _head(reply: Reply) -> dict[str, Any]:
    """The fields that a whole answer and every chunk of it begin with."""
    return {
        "id": reply.id,
        "created": reply.created_at,
        "model": reply.model,
        "system_fingerprint": chat_schema.fingerprint(reply.model),
    }


def _event(told: BaseModel) -> bytes:
    return b"data: " + told.model_dump_json().encode() + b"\n\n"
