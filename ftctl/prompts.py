"""Prompts to compare models by: the lines of a training file, asked instead of learnt.

A line is {"messages": [...]}, whose last message is the reference if it is the assistant's, or
{"prompt": "...", "completion": "..."}, where the completion is the reference and may be absent.
The daemon judges the messages; here is only what it takes to send them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftctl.answers import plain
from ftctl.failure import Failure, Status
from ftctl.objects import Object
from ftd.v1 import chat_pb2

MAX_BYTES = 256 * 2**20  # of the file; it is read whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One line. `asked` is its last words for people; a request without model and sampling."""

    line: int
    asked: str
    reference: str | None
    request: chat_pb2.CompleteRequest


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """The prompts of a file, the first `limit` of them. Raises Failure with the faulty line."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Failure(f"{path} is larger than {MAX_BYTES:,} bytes", status=Status.USAGE)
        content = path.read_bytes()
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", status=Status.USAGE) from error
    found: list[Prompt] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if limit is not None and len(found) == limit:
            break
        if line.strip():
            try:
                found.append(_prompt(number, json.loads(line)))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise Failure(
                    f"{path}, line {number}: {_reason(error)}",
                    hint="each line is a training example, or an object with a prompt; "
                    f"`ftctl files check {path}` checks training data",
                    status=Status.USAGE,
                ) from error
    if not found:
        raise Failure(f"{path} holds no prompts", status=Status.USAGE)
    return found


def _prompt(number: int, value: Any) -> Prompt:
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    if value.get("messages") is None:
        return _completion(number, value)
    messages = list(_objects(value["messages"], "messages"))
    reference = None
    if messages and messages[-1].get("role") == "assistant":
        reference = _words(messages.pop())
    if not messages:
        raise ValueError("nothing is asked in it")
    conversation = chat_pb2.Conversation(
        messages=map(_message, messages),
        tools_json=json.dumps(value["tools"]) if value.get("tools") else "",
        parallel_tool_calls=value.get("parallel_tool_calls"),
    )
    return Prompt(
        line=number,
        asked=_words(messages[-1]),
        reference=reference,
        request=chat_pb2.CompleteRequest(chat=conversation),
    )


def _completion(number: int, value: Object) -> Prompt:
    prompt = value.get("prompt")
    if not isinstance(prompt, str):
        raise ValueError("it has neither messages nor a prompt")
    return Prompt(
        line=number,
        asked=prompt,
        reference=_optional(value, "completion"),
        request=chat_pb2.CompleteRequest(text=prompt),
    )


def _message(given: Object) -> chat_pb2.ChatMessage:
    calls = _calls(given)
    return chat_pb2.ChatMessage(
        role=_optional(given, "role") or "",
        content=_content(given),
        name=_optional(given, "name"),
        tool_calls=[
            chat_pb2.ToolCall(id=call["id"], name=name, arguments=arguments)
            for call, name, arguments in calls
        ],
        tool_call_id=_optional(given, "tool_call_id"),
    )


def _words(given: Object) -> str:
    """A message as one text: what it says, and what it calls as an Answer's words have it."""
    said = _content(given) or ""
    calls = [f"{name}({plain(arguments)})" for _, name, arguments in _calls(given)]
    return "\n".join([said, *calls] if said else calls)


def _content(given: Object) -> str | None:
    content = given.get("content")
    if not isinstance(content, list):
        return _optional(given, "content")
    return "".join(part["text"] for part in _objects(content, "content"))


def _calls(given: Object) -> Iterator[tuple[Object, str, str]]:
    for call in _objects(given.get("tool_calls") or [], "tool_calls"):
        function = call["function"]
        yield call, function["name"], function["arguments"]


def _objects(value: Any, key: str) -> Iterator[Object]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{key} is no array of objects")
    yield from value


def _optional(given: Object, key: str) -> str | None:
    value = given.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is no string")
    return value


def _reason(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"it is no JSON: {error}"
        case KeyError():
            return f"a key is missing: {error}"
        case UnicodeError():
            return "it is not UTF-8"
        case RecursionError():
            return "it nests too deep"
        case _:
            return str(error)
