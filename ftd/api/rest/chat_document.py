"""How the document describes what chat_bodies reads by hand: as near as JSON Schema comes to it.

No request is held against these schemas. What a request is refused for, and in which words, is in
ftd.core.conversation and ftd.service.chat.
"""

from typing import Any

from ftd.api.rest.bodies import bounds
from ftd.core.conversation import ASKED_ROLES, CHOICES, MAX_MESSAGES
from ftd.core.tools import MAX_TOOLS
from ftd.service.chat import MAX_BIASES, MAX_STOPS, MAX_TOKENS, SEEDS

MAX_TOKEN_ID = 2**31 - 1


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: tuple[str, ...], **properties: dict[str, Any]) -> dict[str, Any]:
    """An object with these properties, all of these required; others are ignored."""
    return {"type": "object", "required": list(required), "properties": properties}


_NAME = {"type": "string", "minLength": 1}
_PART = _object(("type", "text"), type={"const": "text"}, text={"type": "string"})
_WORDS = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}]}
_CALL = _object(
    ("id", "type", "function"),
    id=_NAME,
    type={"const": "function"},
    function=_object(("name", "arguments"), name=_NAME, arguments={"type": "string"}),
)
_SPOKEN = [role for role in ASKED_ROLES if role not in ("assistant", "tool")]
_MESSAGE = {
    "anyOf": [
        _object(("role", "content"), role={"enum": [*_SPOKEN, "assistant"]}, content=_WORDS),
        _object(
            ("role", "tool_calls"),
            role={"const": "assistant"},
            content=_or_null(_WORDS),
            tool_calls={"type": "array", "items": _CALL, "minItems": 1},
        ),
        _object(
            ("role", "content", "tool_call_id"),
            role={"const": "tool"},
            content=_WORDS,
            tool_call_id={"type": "string"},
        ),
    ]
}
MESSAGES = {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": _MESSAGE}
_FUNCTION = _object(
    ("type", "function"), type={"const": "function"}, function=_object(("name",), name=_NAME)
)
TOOLS = _or_null({"type": "array", "items": _FUNCTION, "maxItems": MAX_TOOLS})
TOOL_CHOICE = {"anyOf": [{"enum": list(CHOICES)}, _FUNCTION, {"type": "null"}]}
FORMAT = _or_null(_object(("type",), type={"enum": ["text", "json_object", "json_schema"]}))
_IDS = {
    "type": "array",
    "items": {"type": "integer", **bounds(0, MAX_TOKEN_ID)},
    "minItems": 1,
}
PROMPT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1},
    ]
}
STOPS = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_STOPS},
    ]
}
BIASES = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]{1,10}$"},
    "additionalProperties": {"type": "number", **bounds(-100, 100)},
    "maxProperties": MAX_BIASES,
}
# FastAPI writes bounds as floats; of the last 64-bit integer that would be the one after it.
SEED: dict[str, Any] = {"minimum": SEEDS[0], "exclusiveMaximum": SEEDS[1] + 1}
CHAT_TOKENS = bounds(1, MAX_TOKENS)
PENALTY = bounds(-2, 2)
