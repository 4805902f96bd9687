"""/v1/completions: texts that go on."""

import asyncio
import codecs
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Response

from ftd.api.rest import chat_schema as schema
from ftd.api.rest.answering import Choice, Manner, answer
from ftd.api.rest.auth import Caller, TheDoor
from ftd.api.rest.chat_bodies import CompletionBody
from ftd.api.rest.handoff import HandoffRoute, streamed
from ftd.core import chat

router = APIRouter(prefix="/v1/completions", tags=["Chat"], route_class=HandoffRoute)

_utf8 = codecs.getincrementaldecoder("utf-8")


@router.post(
    "",
    operation_id="createCompletion",
    response_class=Response,
    responses=streamed(schema.TextCompletion, schema.CountedTextChunk),
)
async def create(body: CompletionBody, door: TheDoor, caller: Caller) -> Response:
    """Let a text go on, or several, whole or (`stream`) as server-sent events.

    The choices of prompt p are those from p * n on. Otherwise as chat completions are.
    """
    requests = await asyncio.to_thread(body.requests)
    manner = Manner(
        teller=partial(TextTeller, usage=body.wants_usage, logprobs=body.logprobs is not None),
        stream=bool(body.stream),
        usage=body.wants_usage,
    )
    return answer(door.chat, caller, requests, manner)


class TextTeller:
    """Says answers as text completions."""

    def __init__(self, head: Mapping[str, Any], *, usage: bool, logprobs: bool) -> None:
        self._head = head
        self._chunk = schema.CountedTextChunk if usage else schema.TextChunk
        self._logprobs = logprobs
        self._rulers: defaultdict[int, _Ruler] = defaultdict(_Ruler)

    def whole(self, choices: Sequence[Choice], usage: schema.Usage) -> schema.TextCompletion:
        return schema.TextCompletion(
            **self._head,
            choices=tuple(
                schema.TextChoice(
                    index=choice.index,
                    text="".join(choice.texts),
                    logprobs=self._measured(choice.index, choice.logprobs),
                    finish_reason=choice.reason,
                )
                for choice in choices
            ),
            usage=usage,
        )

    def chunks(self, index: int, answer: chat.Piece | chat.Finished) -> Sequence[schema.TextChunk]:
        if isinstance(answer, chat.Finished):
            choice = schema.TextChoice(
                index=index, text="", logprobs=None, finish_reason=answer.reason
            )
        elif answer.text or answer.logprobs:
            choice = schema.TextChoice(
                index=index,
                text=answer.text,
                logprobs=self._measured(index, answer.logprobs),
                finish_reason=None,
            )
        else:
            return ()
        return (self._chunk(**self._head, choices=(choice,)),)

    def last(self, usage: schema.Usage) -> schema.CountedTextChunk:
        return schema.CountedTextChunk(**self._head, choices=(), usage=usage)

    def _measured(
        self, index: int, tokens: Sequence[chat.TokenLogprob]
    ) -> schema.TextLogprobs | None:
        return self._rulers[index].measure(tokens) if self._logprobs else None


class _Ruler:
    """Knows where in a choice's text the next token begins, in characters from its start.

    A token may be a part of a character only; the next one then begins where that character does.
    """

    def __init__(self) -> None:
        self._decoder = _utf8("replace")
        self._at = 0

    def measure(self, tokens: Sequence[chat.TokenLogprob]) -> schema.TextLogprobs:
        return schema.TextLogprobs(
            tokens=tuple(token.token for token in tokens),
            token_logprobs=tuple(token.logprob for token in tokens),
            top_logprobs=tuple(map(_likeliest, tokens)),
            text_offset=tuple(map(self._step, tokens)),
        )

    def _step(self, token: chat.TokenLogprob) -> int:
        start = self._at
        self._at += len(self._decoder.decode(bytes(token.bytes)))
        return start


def _likeliest(token: chat.TokenLogprob) -> dict[str, float]:
    """The token's own logprob is always among them; of two that look alike the better one is."""
    found: dict[str, float] = {}
    for likely in (*token.top, token):
        found.setdefault(likely.token, likely.logprob)
    return found
