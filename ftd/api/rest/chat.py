"""/v1/chat/completions: the next turn of a conversation."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Response

from ftd.api.rest import chat_schema as schema
from ftd.api.rest.answering import Choice, Manner, answer
from ftd.api.rest.auth import Caller, TheDoor
from ftd.api.rest.chat_bodies import ChatBody
from ftd.api.rest.handoff import HandoffRoute, streamed
from ftd.core import chat

router = APIRouter(prefix="/v1/chat/completions", tags=["Chat"], route_class=HandoffRoute)


@router.post(
    "",
    operation_id="createChatCompletion",
    response_class=Response,
    responses=streamed(schema.ChatCompletion, schema.CountedChatChunk),
)
async def create(body: ChatBody, door: TheDoor, caller: Caller) -> Response:
    """Answer a conversation, whole or (`stream`) as server-sent events.

    Waits for a device where none is free, and then is 503. Going away ends the work on it.
    """
    request = await asyncio.to_thread(body.request)  # a long conversation takes a while to read
    manner = Manner(
        teller=partial(ChatTeller, usage=body.wants_usage, logprobs=bool(body.logprobs)),
        stream=bool(body.stream),
        usage=body.wants_usage,
        names=body.names,
    )
    return answer(door.chat, caller, [request], manner)


class ChatTeller:
    """Says answers as chat completions. A stream's first chunk of a choice names its role."""

    def __init__(self, head: Mapping[str, Any], *, usage: bool, logprobs: bool) -> None:
        self._head = head
        self._chunk = schema.CountedChatChunk if usage else schema.ChatChunk
        self._logprobs = logprobs
        self._calls: Counter[int] = Counter()  # by choice; a key for each that has begun

    def whole(self, choices: Sequence[Choice], usage: schema.Usage) -> schema.ChatCompletion:
        return schema.ChatCompletion(
            **self._head, choices=tuple(map(self._choice, choices)), usage=usage
        )

    def _choice(self, choice: Choice) -> schema.ChatChoice:
        assert choice.reason is not None, "an answer ends when all of its choices have"
        text = "".join(choice.texts)
        calls = tuple(map(schema.call, choice.tool_calls))
        message = schema.Message(content=text if text or not calls else None)
        if calls:
            message = schema.Message(content=message.content, tool_calls=calls)
        return schema.ChatChoice(
            index=choice.index,
            message=message,
            logprobs=schema.chat_logprobs(choice.logprobs) if self._logprobs else None,
            finish_reason=choice.reason,
        )

    def chunks(self, index: int, answer: chat.Piece | chat.Finished) -> Sequence[schema.ChatChunk]:
        told = []
        if index not in self._calls:
            self._calls[index] = 0
            told.append(self._say(index, schema.Delta(role="assistant", content="")))
        if isinstance(answer, chat.Finished):
            told.append(self._say(index, schema.Delta(), reason=answer.reason))
        elif answer.text or answer.logprobs or answer.tool_calls:
            logprobs = schema.chat_logprobs(answer.logprobs) if answer.logprobs else None
            told.append(self._say(index, self._delta(index, answer), logprobs=logprobs))
        return told

    def _delta(self, index: int, piece: chat.Piece) -> schema.Delta:
        if not piece.tool_calls:
            return schema.Delta(content=piece.text)
        first = self._calls[index]
        self._calls[index] += len(piece.tool_calls)
        calls = tuple(
            schema.delta_call(call, number) for number, call in enumerate(piece.tool_calls, first)
        )
        return schema.Delta(content=piece.text or None, tool_calls=calls)

    def _say(
        self,
        index: int,
        delta: schema.Delta,
        *,
        logprobs: schema.ChatLogprobs | None = None,
        reason: chat.FinishReason | None = None,
    ) -> schema.ChatChunk:
        choice = schema.ChunkChoice(
            index=index, delta=delta, logprobs=logprobs, finish_reason=reason
        )
        return self._chunk(**self._head, choices=(choice,))

    def last(self, usage: schema.Usage) -> schema.CountedChatChunk:
        return schema.CountedChatChunk(**self._head, choices=(), usage=usage)
