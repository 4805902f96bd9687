"""One chat message: what it may hold, and the plain form in which a chat template reads it."""

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from ftd.core.finding import Findings, Place, kind, meant, quoted
from ftd.core.tools import Message, read_answer, read_calls

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_KNOWN = frozenset(
    {"role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call"}
)
_PLAIN = frozenset({"role", "content"})
_SPEAKERS = ("user", "assistant", "system", "developer", "function")
_IMAGES = frozenset({"image_url", "image_file", "input_image", "image"})

# The form that control tokens have in most vocabularies. In text from people it is only text.
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>")


def read_message(raw: object, index: int, found: Findings) -> Message:
    """The message in plain form: role, content as one string, and what else a template reads.

    An assistant's turn that only calls tools has no "content". The arguments of a call are a
    dict where they are a JSON object, else their text. A deprecated `function_call` becomes a
    tool call. Null equals absent. The result means something only if nothing was found at fault.
    """
    if _is_plain(raw):
        note_text(raw["content"], " message", found)
        return raw
    place = Place(found, index)
    if not isinstance(raw, dict):
        place.fault(
            "data_type",
            "",
            f"must be an object, not {kind(raw)}",
            "Write each message as an object with 'role' and 'content'.",
        )
        return {}
    given = {key: value for key, value in raw.items() if value is not None}
    role = _role(given, place)
    if role is None:
        return {}
    told: Message = {"role": role}
    content = _content(given, role, place)
    if content is not None:
        told["content"] = content
        note_text(content, " message", found)
    if role == "tool" or not given.keys() <= _PLAIN:
        _rest(given, told, place)
    return told


def weight_of(raw: Mapping[str, Any]) -> float:
    """The weight of the loss on a read message: the assistant's 0 or 1, nobody else's."""
    if raw["role"] != "assistant":
        return 0.0
    weight = raw.get("weight")
    return 1.0 if weight is None else float(weight)


def note_text(text: str, where: str, found: Findings) -> None:
    """Note, once each, the control tokens and NUL characters that people have typed."""
    if "<|" in text:
        for token in sorted(set(_CONTROL.findall(text))):
            found.remark(
                "control_token",
                token,
                f"{where} contains an invalid token: {token}. It is encoded as plain text.",
            )
    if "\0" in text:
        found.remark("nul_character", "", f"{where} contains a NUL character.")


def _is_plain(raw: object) -> TypeGuard[Message]:
    """Whether a message is just words, as most are: nothing needs a closer look."""
    return (
        isinstance(raw, dict)
        and len(raw) == len(_PLAIN)
        and isinstance(raw.get("content"), str)
        and raw.get("role") in _SPEAKERS
    )


def _role(given: Mapping[str, Any], place: Place) -> str | None:
    role = given.get("role")
    allowed = ", ".join(ROLES)
    if role is None:
        place.fault(
            "message_missing_key",
            "role",
            "Discriminator 'role' is missing in value",
            f"Add a role: {allowed}.{meant(given, 'role')}",
        )
        return None
    if not isinstance(role, str) or role not in ROLES:
        place.fault(
            "unrecognized_role",
            "role",
            f"Discriminator 'role' has an unknown value: '{quoted(role)}'",
            f"Use one of {allowed}.",
        )
        return None
    return role


def _content(given: Mapping[str, Any], role: str, place: Place) -> str | None:
    content = given.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        return _joined(content, role, place)
    if content is not None and content != []:
        place.fault(
            "data_type",
            "content",
            f"Key 'content' must be a string or an array of text parts, not {kind(content)}",
            "Write the content as a string.",
        )
        return None
    if role == "function":  # its content is nullable
        return ""
    calls = given.get("tool_calls") or given.get("function_call")
    if role == "assistant" and calls:
        return None
    place.fault(
        "missing_content",
        "content",
        "Key 'content' is missing in value",
        f"Add a content that is not empty.{meant(given, 'content')}",
    )
    return None


def _joined(parts: list[Any], role: str, place: Place) -> str:
    """The words of an array of text parts, joined without a separator."""
    texts: list[str] = []
    for index, part in enumerate(parts):
        at = f"content[{index}]"
        sort = part.get("type") if isinstance(part, dict) else None
        if sort == "text" or (sort == "refusal" and role == "assistant"):
            text = part.get(sort)
            if isinstance(text, str):
                texts.append(text)
            else:
                place.wrong_type(f"{at}.{sort}", text, "a string")
        elif isinstance(sort, str) and sort in _IMAGES:
            place.fault(
                "vision_format",
                at,
                "contains an image: the file is in the fine-tune-vision format, "
                "but only text can be trained",
                "Leave out the examples with images.",
            )
        else:
            place.fault(
                "data_type",
                at,
                f"Key '{at}' must be a text part",
                'Write parts as {"type": "text", "text": "..."}, or the content as a string.',
            )
    return "".join(texts)


def _rest(given: Mapping[str, Any], told: Message, place: Place) -> None:
    """Everything but role and content."""
    role = told["role"]
    name = given.get("name")
    if name is not None and not isinstance(name, str):
        place.wrong_type("name", name, "a string")
    elif name is not None:
        told["name"] = name
    if "weight" in given:
        _check_weight(given["weight"], role, place)
    if "tool_calls" in given or "function_call" in given:
        read_calls(given, told, place)
    if role == "tool":
        read_answer(given, told, place)
    for key in sorted(given.keys() - _KNOWN):
        _unrecognized(key, place)
    if role != "tool" and "tool_call_id" in given:
        _unrecognized("tool_call_id", place)


def _unrecognized(key: str, place: Place) -> None:
    place.found.remark(
        "message_unrecognized_key",
        key,
        f', message {place.index + 1} contains an extra "{quoted(key)}". It is ignored.',
    )


def _check_weight(weight: object, role: str, place: Place) -> None:
    if role != "assistant":
        place.fault(
            "invalid_weight",
            "weight",
            f"Key 'weight' is not allowed in a message with role '{role}'",
            "Remove it: only assistant messages have a weight.",
        )
    elif isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
        place.fault(
            "invalid_weight",
            "weight",
            f"Key 'weight' must be 0 or 1, not {quoted(weight)}",
            "Use 1 to train the message, 0 to leave it out of the loss.",
        )
