"""Requests for answers as the core reads them, and answers as protobuf messages.

A message of the wire is read by the rules of REST's JSON, and refused in the same words; what has
no type of its own here travels as JSON text in a field whose name ends in _json.
"""

from typing import Any

from ftd.core import chat, strict
from ftd.core.conversation import read_constraint, read_conversation
from ftd.core.errors import invalid
from ftd.service.chat import ChatRequest
from ftd.v1 import chat_pb2

# Of JSON in a field: what the limits of the REST face are where nobody has set them.
MAX_VALUES = 100_000
MAX_DEPTH = 64


def request(message: chat_pb2.CompleteRequest) -> ChatRequest:
    """Raises INVALID for a prompt, tools or a form of the answer that cannot be."""
    if message.echo and message.WhichOneof("prompt") == "chat":
        raise invalid("Unsupported parameter: 'echo' is not for a chat.", param="echo")
    return ChatRequest(
        model=message.model,
        prompt=_prompt(message),
        sampling=_sampling(message.sampling),
        constraint=read_constraint(_json(message, "response_format_json")),
        echo=message.echo,
    )


def began(value: chat.Began, created_at: int) -> chat_pb2.Began:
    return chat_pb2.Began(
        prompt_tokens=value.prompt_tokens, cached_tokens=value.cached_tokens, created_at=created_at
    )


def piece(value: chat.Piece) -> chat_pb2.Piece:
    return chat_pb2.Piece(
        index=value.index,
        text=value.text,
        tool_calls=[
            chat_pb2.ToolCall(id=call.id, name=call.name, arguments=call.arguments)
            for call in value.tool_calls
        ],
        logprobs=[
            chat_pb2.TokenLogprob(token=_likely(token), top=map(_likely, token.top))
            for token in value.logprobs
        ],
    )


def finished(value: chat.Finished) -> chat_pb2.Finished:
    return chat_pb2.Finished(index=value.index, reason=value.reason)


def ended(value: chat.Ended) -> chat_pb2.Ended:
    return chat_pb2.Ended(completion_tokens=value.completion_tokens)


def _prompt(message: chat_pb2.CompleteRequest) -> chat.Prompt:
    match message.WhichOneof("prompt"):
        case "chat":
            return _conversation(message.chat)
        case "text":
            return chat.Text(text=message.text)
        case "tokens":
            return chat.Tokens(ids=tuple(message.tokens.ids))
        case _:
            raise invalid(
                "Missing required parameter: 'prompt'.",
                code="missing_required_parameter",
                param="prompt",
            )


def _conversation(message: chat_pb2.Conversation) -> chat.Conversation:
    parallel = not message.HasField("parallel_tool_calls") or message.parallel_tool_calls
    return read_conversation(
        [_message(one) for one in message.messages],
        _json(message, "tools_json"),
        _json(message, "tool_choice_json"),
        parallel,
    )


def _message(message: chat_pb2.ChatMessage) -> dict[str, Any]:
    """A message as JSON has it, absent keys and all."""
    told: dict[str, Any] = {"role": message.role}
    for key in ("content", "name", "tool_call_id"):
        if message.HasField(key):
            told[key] = getattr(message, key)
    if message.tool_calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return told


def _sampling(message: chat_pb2.Sampling) -> chat.Sampling:
    """What is absent has OpenAI's default."""
    given = {field.name: value for field, value in message.ListFields()}
    given["stop"] = tuple(message.stop)
    given["logit_bias"] = dict(message.logit_bias)
    return chat.Sampling(**given)


def _json(message: Any, field: str) -> Any:
    text: str = getattr(message, field)
    if not text:
        return None
    try:
        return strict.parse(text.encode(), values=MAX_VALUES, depth=MAX_DEPTH)
    except ValueError as error:
        raise invalid(
            f"Invalid JSON in '{field}': {error}.", code="invalid_json", param=field
        ) from error


def _likely(token: chat.Likely) -> chat_pb2.LikelyToken:
    return chat_pb2.LikelyToken(text=token.token, data=bytes(token.bytes), logprob=token.logprob)
