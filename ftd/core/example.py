"""One line of a training file: the formats that exist, and the two that can be trained."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ftd.core.finding import EnoughError, Findings, Problem, kind, meant, quoted
from ftd.core.jsonline import BOM, parse
from ftd.core.message import note_text, read_message, weight_of
from ftd.core.tools import Message, read_tools

UNEXPECTED = "Unexpected file format, expected either prompt/completion pairs or chat messages."


class Format(StrEnum):
    """What a whole file is. One file has one format."""

    CHAT = "chat"
    COMPLETION = "completion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation, ready for a chat template.

    A message has role and content (one string; no key where an assistant only calls tools), and
    where given name, tool_calls (arguments as a dict where they are a JSON object) and
    tool_call_id. `weights` has one number per message: 0 for everything that is not to be learnt.
    """

    messages: tuple[Message, ...]
    weights: tuple[float, ...]
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A prompt and the text that follows it."""

    prompt: str
    completion: str


Example = Chat | Completion

_CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
_COMPLETION_KEYS = frozenset({"prompt", "completion"})
_PREFERENCE_KEYS = frozenset(
    {"preferred_output", "non_preferred_output", "preferred_completion", "non_preferred_completion"}
)


def parse_example(line: bytes) -> Example:
    """A line of a checked file. Raises ValueError for one that the check would have refused.

    Blank lines are no examples: skip the lines for which `is_blank` holds.
    """
    value = parse(line.removeprefix(BOM)).value
    example, found = read_example(value, None)
    if example is None:
        problem = found.problems[0]
        raise ValueError(f"{problem.path}{problem.text}")
    return example


def is_blank(line: bytes) -> bool:
    """Whether a line holds nothing, or nothing but a byte order mark."""
    return not line.removeprefix(BOM).strip()


def read_example(value: dict[str, Any], expected: Format | None) -> tuple[Example | None, Findings]:
    """The example that a parsed line holds, None if something is at fault with it.

    `expected` is the format of the lines before; None accepts either.
    """
    found = Findings()
    format_ = recognize(value)
    if (problem := _misplaced(value, format_, expected)) is not None:
        found.add(problem)
        return None, found
    try:
        example = _chat(value, found) if format_ is Format.CHAT else _completion(value, found)
    except EnoughError:
        example = None
    return (None if found.problems else example), found


def format_of(example: Example) -> Format:
    return Format.CHAT if isinstance(example, Chat) else Format.COMPLETION


def fingerprint(example: Example) -> int:
    """64 bits, the same for equal examples; another process may compute others.

    Two different examples share theirs by chance alone: whoever must know compares the examples.
    """
    if isinstance(example, Completion):
        return hash((example.prompt, example.completion)) & _MASK
    parts: list[object] = [example.weights]
    for message in example.messages:
        parts += (message["role"], message.get("content"))
        if len(message) > _PLAIN_KEYS or "content" not in message:
            parts.append(_ENCODER.encode({**message, "content": None}))
    if example.tools:
        parts.append(_ENCODER.encode(example.tools))
    return hash(tuple(parts)) & _MASK


_MASK = 2**64 - 1
_PLAIN_KEYS = 2  # role and content
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def recognize(value: dict[str, Any]) -> Format | None:
    """The format of a line by its keys, None where it is none that can be trained."""
    if value.get("messages") is not None:
        return Format.CHAT
    if any(value.get(key) is not None for key in _COMPLETION_KEYS):
        return Format.COMPLETION
    return None


def _misplaced(
    value: dict[str, Any], format_: Format | None, expected: Format | None
) -> Problem | None:
    """Why a line of this format cannot stand where `expected` ones do."""
    if format_ is None:
        return _unrecognized(value, expected)
    if expected is None or format_ is expected:
        return None
    return Problem(
        code="mixed_formats",
        path="messages" if format_ is Format.CHAT else "prompt",
        text=f" is in the fine-tune-{format_} format, but the file is in the "
        f"fine-tune-{expected} format.",
        fix="Put examples of different formats into different files.",
    )


def _unrecognized(value: dict[str, Any], expected: Format | None) -> Problem:
    if not _PREFERENCE_KEYS.isdisjoint(value):
        return Problem(
            code="preference_format",
            path="input",
            text=" is in the fine-tune-preference format, but the training method is 'supervised'.",
            fix="Write the example as chat messages: the input's, then the preferred output's.",
        )
    if expected is None:
        return Problem(
            code="unexpected_format",
            text=UNEXPECTED,
            fix='Write each line as {"messages": [...]} or {"prompt": "...", "completion": "..."}.'
            + (meant(value, "messages") or meant(value, "prompt")),
        )
    return _missing(value, "messages" if expected is Format.CHAT else "prompt")


def _missing(value: dict[str, Any], key: str) -> Problem:
    return Problem(
        code="missing_messages_list" if key == "messages" else "missing_key",
        path=key,
        text=f" is missing key '{key}'.",
        fix=f"Add '{key}' to the example.{meant(value, key)}",
    )


def _chat(value: dict[str, Any], found: Findings) -> Chat | None:
    raw = value["messages"]
    if not isinstance(raw, list) or not raw:
        given = "an empty array" if raw == [] else kind(raw)
        found.fault(
            "missing_messages_list",
            "messages",
            f", key 'messages' must be an array of messages, not {given}.",
            "List the conversation's messages, one at least.",
        )
        return None
    messages = [read_message(message, index, found) for index, message in enumerate(raw)]
    tools = None
    if len(value) > 1:
        tools = read_tools(value, found)
        _note_extra_keys(value, _CHAT_KEYS, found)
    if found.problems:
        return None
    weights = tuple([weight_of(message) for message in raw])
    _review(messages, weights, found)
    return Chat(messages=tuple(_linked(messages)), weights=weights, tools=tools)


def _linked(messages: list[Message]) -> list[Message]:
    """Deprecated function messages know no call; they answer the one just before them."""
    for index in range(1, len(messages)):
        if messages[index]["role"] == "function":
            for call in messages[index - 1].get("tool_calls", ())[:1]:
                messages[index] = {**messages[index], "tool_call_id": call["id"]}
    return messages


def _review(messages: list[Message], weights: tuple[float, ...], found: Findings) -> None:
    """What can be said of a conversation only as a whole."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        found.fault(
            "example_missing_assistant_message",
            "messages",
            " has no message with role 'assistant'.",
            "End the conversation with the reply to be learnt.",
        )
        return
    if not any(weights):
        found.remark("nothing_to_train", "", " gives every assistant message the weight 0.")
    if roles[-1] != "assistant":
        found.remark("no_final_reply", "", " does not end with the assistant's reply.")
    asked: set[str] = set()
    for index, message in enumerate(messages):
        role = roles[index]
        if role == "assistant":
            calls = message.get("tool_calls")
            if calls:
                asked.update(call["id"] for call in calls)
            elif not message["content"]:
                found.remark("empty_reply", "", " has an assistant message without words.")
        elif role == "tool" and message["tool_call_id"] not in asked:
            found.remark("unasked_answer", "", " has a tool message that answers no earlier call.")


def _completion(value: dict[str, Any], found: Findings) -> Completion | None:
    for key in ("prompt", "completion"):
        text = value.get(key)
        if text is None:
            found.add(_missing(value, key))
        elif not isinstance(text, str):
            found.fault(
                "data_type",
                key,
                f", key '{key}' must be a string, not {kind(text)}.",
                "Make it a string.",
            )
        else:
            note_text(text, f" {key}", found)
    _note_extra_keys(value, _COMPLETION_KEYS, found)
    if found.problems:
        return None
    if not value["completion"]:
        found.remark("empty_reply", "", " has a completion without words.")
    return Completion(prompt=value["prompt"], completion=value["completion"])


def _note_extra_keys(value: dict[str, Any], known: frozenset[str], found: Findings) -> None:
    for key in sorted(value.keys() - known):
        if value[key] is not None:
            found.remark("extra_key", key, f' contains an extra "{quoted(key)}". It is ignored.')
