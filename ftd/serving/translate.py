"""A request in the words of OpenAI's two calls, and their streams in our own words.

For faces that do not speak those calls themselves, when another server answers: what a REST client
sends is passed on as it is and needs none of this. Pure: dictionaries in, dictionaries out.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftd.core import chat

_REASONS: Mapping[str, chat.FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
}


def path(request: chat.Generate) -> str:
    """Which of the two calls answers it."""
    return "/v1/chat/completions" if _talks(request) else "/v1/completions"


def body(request: chat.Generate, model: str) -> dict[str, Any]:
    """The body of that call; it asks for a stream that counts its tokens in every event."""
    sampling = request.sampling
    told: dict[str, Any] = {
        "model": model,
        "stream": True,
        # vLLM's own second key counts the prompt in the first event already.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "n": sampling.n,
        "stop": list(sampling.stop),
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()},
    }
    if sampling.seed is not None:
        told["seed"] = sampling.seed
    # Told even when it is null: of a text, vLLM takes 16 tokens where it is not told.
    told["max_tokens"] = sampling.max_tokens
    if request.constraint is not None:
        told["response_format"] = _format(request.constraint)
    match request.prompt:
        case chat.Conversation():
            told |= _conversation(request.prompt)
            if sampling.top_logprobs is not None:
                told |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        case chat.Text(text=prompt) | chat.Tokens(ids=prompt):
            told |= {"prompt": prompt, "echo": request.echo}
            if sampling.top_logprobs is not None:
                told["logprobs"] = sampling.top_logprobs
    return told


def _conversation(prompt: chat.Conversation) -> dict[str, Any]:
    told: dict[str, Any] = {"messages": [_message(message) for message in prompt.messages]}
    if prompt.tools:
        choice: Any = prompt.tool_choice
        if choice not in ("auto", "none", "required"):
            choice = {"type": "function", "function": {"name": choice}}
        told |= {
            "tools": list(prompt.tools),
            "tool_choice": choice,
            "parallel_tool_calls": prompt.parallel_tool_calls,
        }
    return told


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """As we keep it, but that the arguments of a call are text again."""
    told = dict(message)
    if calls := told.get("tool_calls"):
        told["tool_calls"] = [call | {"function": _function(call["function"])} for call in calls]
    return told


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return dict(function) | {"arguments": text}


def _format(constraint: chat.Constraint) -> dict[str, Any]:
    if constraint.json_schema is None:
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": constraint.json_schema},
    }


def _talks(request: chat.Generate) -> bool:
    return isinstance(request.prompt, chat.Conversation)


@dataclass(slots=True)
class Reader:
    """Reads one stream, event by event. Raises KeyError and its like for what is no such event.

    The parts of a tool call are gathered until its choice is finished.
    """

    request: chat.Generate
    _began: bool = False
    _usage: Mapping[str, Any] = field(default_factory=dict)
    _calls: dict[tuple[int, int], dict[str, str]] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> Iterator[chat.Answer]:
        """What one event says."""
        self._usage = event.get("usage") or self._usage
        if not self._began:
            self._began = True
            details = self._usage.get("prompt_tokens_details") or {}
            yield chat.Began(
                id=self.request.id,
                prompt_tokens=self._usage.get("prompt_tokens", 0),
                cached_tokens=details.get("cached_tokens") or 0,
            )
        for choice in event["choices"]:
            yield from self._choice(choice)

    def end(self) -> chat.Ended:
        """After the last event."""
        tokens = self._usage.get("completion_tokens", 0)
        return chat.Ended(id=self.request.id, completion_tokens=tokens)

    def _choice(self, choice: Mapping[str, Any]) -> Iterator[chat.Answer]:
        index, reason = choice["index"], choice.get("finish_reason")
        if _talks(self.request):
            delta = choice["delta"]
            text = delta.get("content") or ""
            logprobs = tuple(map(_token, (choice.get("logprobs") or {}).get("content") or ()))
            self._gather(index, delta.get("tool_calls") or ())
        else:
            text, logprobs = choice["text"], _tokens(choice.get("logprobs"))
        calls = self._take_calls(index) if reason else ()
        if text or logprobs or calls:
            yield chat.Piece(
                id=self.request.id, index=index, text=text, logprobs=logprobs, tool_calls=calls
            )
        if reason:
            yield chat.Finished(
                id=self.request.id, index=index, reason=_REASONS.get(reason, "stop")
            )

    def _gather(self, index: int, parts: Any) -> None:
        for part in parts:
            call = self._calls.setdefault((index, part["index"]), {})
            call["id"] = part.get("id") or call.get("id", "")
            for key, value in (part.get("function") or {}).items():
                call[key] = call.get(key, "") + (value or "")

    def _take_calls(self, index: int) -> tuple[chat.ToolCall, ...]:
        keys = sorted(key for key in self._calls if key[0] == index)
        gathered = [self._calls.pop(key) for key in keys]
        return tuple(
            chat.ToolCall(id=call["id"], name=call["name"], arguments=call.get("arguments", ""))
            for call in gathered
        )


def _token(told: Mapping[str, Any]) -> chat.TokenLogprob:
    top = tuple(map(_likely, told.get("top_logprobs") or ()))
    return chat.TokenLogprob(**_likely(told).model_dump(), top=top)


def _likely(told: Mapping[str, Any]) -> chat.Likely:
    text = told["token"]
    bytes_ = told.get("bytes")
    spelt = tuple(text.encode() if bytes_ is None else bytes_)
    return chat.Likely(token=text, bytes=spelt, logprob=told["logprob"])


def _tokens(told: Mapping[str, Any] | None) -> tuple[chat.TokenLogprob, ...]:
    """Of the older call: lists side by side."""
    if not told:
        return ()
    tops = told.get("top_logprobs") or [None] * len(told["tokens"])
    return tuple(
        chat.TokenLogprob(
            token=token,
            bytes=tuple(token.encode()),
            logprob=logprob,
            top=tuple(
                chat.Likely(token=other, bytes=tuple(other.encode()), logprob=value)
                for other, value in (top or {}).items()
            ),
        )
        for token, logprob, top in zip(told["tokens"], told["token_logprobs"], tops, strict=True)
    )
