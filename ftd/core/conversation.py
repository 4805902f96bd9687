"""What people may ask of a chat model: messages, tools and the form of the answer, read once.

Both faces read through here, and the rules of a message are those of a training file, so that a
model can be asked whatever it could be taught. The texts and the params are OpenAI's.
"""

import re
from collections.abc import Mapping
from typing import Any

from ftd.core.chat import Constraint, Conversation
from ftd.core.errors import FtdError, array_too_long, empty_array, invalid
from ftd.core.finding import EnoughError, Findings, Problem, quoted
from ftd.core.message import ROLES, read_message
from ftd.core.tools import Message, read_tools

ASKED_ROLES = tuple(role for role in ROLES if role != "function")
CHOICES = ("none", "auto", "required")

_MISSING = frozenset({"message_missing_key", "missing_content"})
# How a fault's text begins: ", message 2 Key ..." or ", key 'tools[0]' must ...".
_SUBJECT = re.compile(r"\A, (message \d+|key '[^']*') ")
_MEDIA = frozenset({"image_url", "input_image", "image_file", "image", "input_audio", "file"})

MAX_MESSAGES = 2048


def read_conversation(
    messages: object, tools: object, tool_choice: object, parallel: bool
) -> Conversation:
    """A conversation for the model's chat template. Raises INVALID with OpenAI's param.

    Messages come out in the plain form of ftd.core.message: content is one string, the arguments
    of a call an object where they are JSON. Null equals absent; a message's unknown keys are
    ignored, and so is a training file's weight.
    """
    declared = _read_tools(tools)
    return Conversation(
        messages=tuple(_read_messages(messages)),
        tools=tuple(declared),
        tool_choice=_read_choice(tool_choice, declared),
        parallel_tool_calls=parallel,
    )


def read_constraint(response_format: object) -> Constraint | None:
    """What the answer's form must be; None for plain text. Raises INVALID, as above."""
    at = "response_format"
    if response_format is None:
        return None
    if not isinstance(response_format, dict):
        raise _wrong_type(at, "an object", response_format)
    match response_format.get("type"):
        case None:
            raise _missing(f"{at}.type")
        case "text":
            return None
        case "json_object":
            return Constraint()
        case "json_schema":
            return Constraint(json_schema=_schema(response_format.get("json_schema"), at))
        case other:
            raise _not_one_of(other, ("text", "json_object", "json_schema"), f"{at}.type")


def _schema(given: object, at: str) -> dict[str, Any]:
    at = f"{at}.json_schema"
    if given is None:
        raise _missing(at)
    if not isinstance(given, dict):
        raise _wrong_type(at, "an object", given)
    name, strict, schema = (given.get(key) for key in ("name", "strict", "schema"))
    if name is None:
        raise _missing(f"{at}.name")
    if not isinstance(name, str):
        raise _wrong_type(f"{at}.name", "a string", name)
    if not isinstance(strict, bool | None):
        raise _wrong_type(f"{at}.strict", "a boolean", strict)
    if schema is None:
        raise _missing(f"{at}.schema")
    if not isinstance(schema, dict):
        raise _wrong_type(f"{at}.schema", "an object", schema)
    return schema


def _read_messages(messages: object) -> list[Message]:
    if messages is None:
        raise _missing("messages")
    if not isinstance(messages, list):
        raise _wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise empty_array("messages")
    if len(messages) > MAX_MESSAGES:
        raise array_too_long("messages", len(messages), MAX_MESSAGES)
    told = [_read_message(raw, index) for index, raw in enumerate(messages)]
    _check_answers(told)
    return told


def _read_message(raw: object, index: int) -> Message:
    at = f"messages[{index}]"
    if not isinstance(raw, dict):
        raise _wrong_type(at, "an object", raw)
    role = raw.get("role")
    if role is None:
        raise _missing(f"{at}.role")
    if role == "function":
        raise invalid(
            f"Invalid value: 'function' - '{at}.role'. Functions have become tools: answer a call "
            "in a message with role 'tool' and its tool_call_id.",
            code="invalid_value",
            param=f"{at}.role",
        )
    if role not in ASKED_ROLES:
        raise _not_one_of(role, ASKED_ROLES, f"{at}.role")
    _refuse_media(raw.get("content"), at)
    given = {key: held for key, held in raw.items() if key != "weight"}
    found = Findings()
    try:
        told = read_message(given, index, found)
    except EnoughError:
        told = {}
    if found.problems:
        raise _explain(found.problems[0])
    return told


def _refuse_media(content: object, at: str) -> None:
    for index, part in enumerate(content if isinstance(content, list) else ()):
        sort = part.get("type") if isinstance(part, dict) else None
        if isinstance(sort, str) and sort in _MEDIA:
            raise invalid(
                f"Invalid content type '{sort}': this model takes text only.",
                code="invalid_value",
                param=f"{at}.content[{index}].type",
            )


def _check_answers(messages: list[Message]) -> None:
    """Every tool message answers a call of the assistant's turn before it.

    A call without an answer is no mistake here: templates render it, and training files have it.
    """
    open_calls: frozenset[str] = frozenset()
    for index, message in enumerate(messages):
        if message["role"] != "tool":
            open_calls = frozenset(call["id"] for call in message.get("tool_calls", ()))
        elif not open_calls:
            raise invalid(
                "Invalid parameter: messages with role 'tool' must be a response to a preceding "
                "message with 'tool_calls'.",
                param=f"messages.[{index}].role",
            )
        elif message["tool_call_id"] not in open_calls:
            raise invalid(
                f"Invalid parameter: 'tool_call_id' of '{quoted(message['tool_call_id'])}' not "
                "found in 'tool_calls' of previous message.",
                param=f"messages.[{index}].tool_call_id",
            )


def _read_tools(tools: object) -> list[dict[str, Any]]:
    if tools is not None and not isinstance(tools, list):
        raise _wrong_type("tools", "an array of objects", tools)
    found = Findings()
    try:
        declared = read_tools({"tools": tools}, found)
    except EnoughError:
        declared = None
    if found.problems:
        raise _explain(found.problems[0])
    return declared or []


def _read_choice(choice: object, tools: list[dict[str, Any]]) -> str:
    """auto, none, required, or the name of the tool to be called."""
    at = "tool_choice"
    if choice is None:
        return "auto" if tools else "none"
    if choice in ("auto", "none") and not tools:
        return "none"
    if not tools:
        raise invalid(
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are "
            "specified.",
            param=at,
        )
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise _not_one_of(choice, CHOICES, at)
        return choice
    if not isinstance(choice, dict):
        raise _wrong_type(at, "one of a string or an object", choice)
    return _named(choice, tools, at)


def _named(choice: Mapping[str, Any], tools: list[dict[str, Any]], at: str) -> str:
    if choice.get("type") != "function":
        raise _not_one_of(choice.get("type"), ("function",), f"{at}.type")
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if name is None:
        raise _missing(f"{at}.function.name")
    if not isinstance(name, str):
        raise _wrong_type(f"{at}.function.name", "a string", name)
    if name not in {tool["function"]["name"] for tool in tools}:
        raise invalid(
            f"Invalid value for 'tool_choice': no function named '{quoted(name)}' is in 'tools'.",
            code="invalid_value",
            param=f"{at}.function.name",
        )
    if name in CHOICES:
        raise invalid(
            f"Invalid value for 'tool_choice': a function that is named '{name}' cannot be chosen "
            "by its name; offer it alone and use 'required'.",
            code="invalid_value",
            param=f"{at}.function.name",
        )
    return name


def _explain(problem: Problem) -> FtdError:
    """A training file's fault in the words of a request."""
    if problem.code in _MISSING:
        return _missing(problem.path)
    reason = _SUBJECT.sub("", problem.text)
    return invalid(
        f"Invalid value for '{problem.path}': {reason.rstrip('.')}. {problem.fix}",
        code="invalid_type" if problem.code == "data_type" else "invalid_value",
        param=problem.path,
    )


def _missing(param: str) -> FtdError:
    return invalid(
        f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param
    )


def _not_one_of(value: object, known: tuple[str, ...], param: str) -> FtdError:
    names = ", ".join(f"'{name}'" for name in known)
    return invalid(
        f"Invalid value: '{quoted(value)}'. Supported values are: {names}.",
        code="invalid_value",
        param=param,
    )


def _wrong_type(param: str, wanted: str, value: object) -> FtdError:
    return invalid(
        f"Invalid type for '{param}': expected {wanted}, but got {_kind(value)} instead.",
        code="invalid_type",
        param=param,
    )


def _kind(value: object) -> str:
    """The type of a value in OpenAI's words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
