"""How answers look: OpenAI's completions and their chunks, every required key always there.

A key that OpenAI leaves out where it has nothing to say (a delta's role, a message's tool calls,
the usage of a stream that did not ask for it) is left out here too, and null where OpenAI's is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ftd import __version__
from ftd.core import chat

Reason = chat.FinishReason


def _absent() -> Any:
    """A field that is left out where it is None."""
    return Field(None, exclude_if=lambda value: value is None)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class PromptDetails(_Answer):
    cached_tokens: int


class Usage(_Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Likely(_Answer):
    token: str
    bytes: tuple[int, ...]
    logprob: float


class TokenLogprob(Likely):
    top_logprobs: tuple[Likely, ...]


class ChatLogprobs(_Answer):
    content: tuple[TokenLogprob, ...]
    refusal: None = None


class Function(_Answer):
    name: str
    arguments: str


class ToolCall(_Answer):
    id: str
    type: Literal["function"] = "function"
    function: Function


class Message(_Answer):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: tuple[ToolCall, ...] | None = _absent()


class ChatChoice(_Answer):
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: Reason


class _Head(_Answer):
    """What a whole answer and every chunk of a stream begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(_Head):
    object: Literal["chat.completion"] = "chat.completion"
    choices: tuple[ChatChoice, ...]
    usage: Usage


class DeltaCall(ToolCall):
    index: int


class Delta(_Answer):
    role: Literal["assistant"] | None = _absent()
    content: str | None = _absent()
    tool_calls: tuple[DeltaCall, ...] | None = _absent()


class ChunkChoice(_Answer):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Reason | None


class ChatChunk(_Head):
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: tuple[ChunkChoice, ...]


class CountedChatChunk(ChatChunk):
    """Of a stream with include_usage: null but in the last chunk."""

    usage: Usage | None = None


class TextLogprobs(_Answer):
    """Arrays side by side; an offset counts characters of the choice's text."""

    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[Mapping[str, float], ...]
    text_offset: tuple[int, ...]


class TextChoice(_Answer):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Reason | None


class TextCompletion(_Head):
    """A whole answer; in a stream without usage a chunk of it is a TextChunk."""

    object: Literal["text_completion"] = "text_completion"
    choices: tuple[TextChoice, ...]
    usage: Usage


class TextChunk(_Head):
    object: Literal["text_completion"] = "text_completion"
    choices: tuple[TextChoice, ...]


class CountedTextChunk(TextChunk):
    """Of a stream with include_usage: null but in the last chunk."""

    usage: Usage | None = None


def usage(prompt: int, cached: int, completion: int) -> Usage:
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )


def fingerprint(model: str) -> str:
    """The same as long as this release answers by this name."""
    return "fp_" + hashlib.sha256(f"{__version__}\0{model}".encode()).hexdigest()[:10]


def chat_logprobs(tokens: Sequence[chat.TokenLogprob]) -> ChatLogprobs:
    return ChatLogprobs(
        content=tuple(
            TokenLogprob(
                token=token.token,
                bytes=token.bytes,
                logprob=token.logprob,
                top_logprobs=tuple(map(_likely, token.top)),
            )
            for token in tokens
        )
    )


def _likely(token: chat.Likely) -> Likely:
    return Likely(token=token.token, bytes=token.bytes, logprob=token.logprob)


def call(asked: chat.ToolCall) -> ToolCall:
    return ToolCall(id=asked.id, function=Function(name=asked.name, arguments=asked.arguments))


def delta_call(asked: chat.ToolCall, index: int) -> DeltaCall:
    function = Function(name=asked.name, arguments=asked.arguments)
    return DeltaCall(index=index, id=asked.id, function=function)
