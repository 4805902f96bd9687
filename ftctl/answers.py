"""Asking a model: a request's words on their way out, its answer on the way back."""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftctl.client import Client
from ftctl.failure import Failure, Status
from ftctl.objects import Object
from ftd.v1 import chat_pb2, models_pb2


@dataclass(slots=True)
class Answer:
    """One choice, as far as it has come."""

    id: str = ""
    model: str = ""
    created_at: int = 0
    text: str = ""
    calls: list[chat_pb2.ToolCall] = field(default_factory=list)
    reason: str | None = None  # None: it broke off
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def words(self) -> str:
        """The text and, on lines of their own, the calls: name({"argument": value})."""
        calls = (f"{call.name}({plain(call.arguments)})" for call in self.calls)
        return "\n".join([self.text, *calls] if self.text else calls)

    def take(self, part: chat_pb2.CompleteResponse) -> str:
        """Take the next part; returns the text in it."""
        match part.WhichOneof("part"):
            case "began":
                self.id, self.model = part.id, part.model
                self.created_at = part.began.created_at
                self.prompt_tokens = part.began.prompt_tokens
                self.cached_tokens = part.began.cached_tokens
            case "piece":
                self.text += part.piece.text
                self.calls += part.piece.tool_calls
                return part.piece.text
            case "finished":
                self.reason = part.finished.reason
            case "ended":
                self.completion_tokens = part.ended.completion_tokens
        return ""


def ask(client: Client, request: chat_pb2.CompleteRequest) -> Answer:
    """The whole answer. Raises grpc.RpcError."""
    answer = Answer()
    for _ in listen(client, request, answer):
        pass
    return answer


def listen(
    client: Client, request: chat_pb2.CompleteRequest, answer: Answer
) -> Generator[str, None, None]:
    """The answer's text as it comes, kept in `answer`. Closing it ends the work."""
    call = client.stream(client.chat.Complete, request)
    try:
        for part in call:
            if text := answer.take(part):
                yield text
    finally:
        call.cancel()


def chat_request(
    model: str,
    messages: Sequence[chat_pb2.ChatMessage],
    sampling: chat_pb2.Sampling,
    *,
    tools_json: str = "",
    response_format_json: str = "",
) -> chat_pb2.CompleteRequest:
    return chat_pb2.CompleteRequest(
        model=model,
        chat=chat_pb2.Conversation(messages=messages, tools_json=tools_json),
        sampling=sampling,
        response_format_json=response_format_json,
    )


def message(role: str, content: str) -> chat_pb2.ChatMessage:
    """Raises Failure for text with bytes in it that are no character."""
    try:
        content.encode()
    except UnicodeEncodeError:
        raise Failure("the text is not UTF-8", status=Status.USAGE) from None
    return chat_pb2.ChatMessage(role=role, content=content)


def check_model(client: Client, name: str) -> None:
    """Raises grpc.RpcError for a misspelt name, before anything is asked."""
    client.call(client.models.GetModel, models_pb2.GetModelRequest(id=name))


def completion(answer: Answer) -> Object:
    """The answer as REST's chat.completion."""
    said: Object = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.calls
        ]
    else:
        said["content"] = answer.text
    choice = {
        "index": 0,
        "message": said,
        "logprobs": None,
        "finish_reason": answer.reason,
    }
    return {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created_at,
        "model": answer.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        },
    }


def plain(arguments: Any) -> str:
    """A call's arguments in one spelling, so that equal ones look equal; text that is no JSON
    stays as it is."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return str(arguments)
    return json.dumps(arguments, ensure_ascii=False, sort_keys=True)
