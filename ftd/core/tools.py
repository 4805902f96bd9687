"""Tools in a training example: those declared, the calls to them, and the answers."""

from collections.abc import Mapping
from typing import Any

from ftd.core.finding import Findings, Place
from ftd.core.jsonline import LineError, parse

Message = dict[str, Any]

MAX_TOOLS = 128  # OpenAI's request schema


def read_tools(value: Mapping[str, Any], found: Findings) -> list[dict[str, Any]] | None:
    """The tools that an example declares; deprecated `functions` become tools."""
    parallel = value.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        _misdeclared("parallel_tool_calls", "must be true or false", found)
    tools = _declared(value, "tools", found)
    functions = _declared(value, "functions", found)
    for index, tool in enumerate(tools):
        _check_tool(tool, f"tools[{index}]", found)
    for index, function in enumerate(functions):
        _check_function(function, f"functions[{index}]", found)
    every = tools + [{"type": "function", "function": function} for function in functions]
    return every or None


def _declared(value: Mapping[str, Any], key: str, found: Findings) -> list[Any]:
    """The array under `key`; null and absent are empty."""
    given = value.get(key)
    if given is None:
        return []
    if isinstance(given, list) and len(given) <= MAX_TOOLS:
        return given
    _misdeclared(key, f"must be an array of at most {MAX_TOOLS} elements", found)
    return []


def _check_tool(tool: object, at: str, found: Findings) -> None:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        _misdeclared(at, "must be an object with type 'function'", found)
    else:
        _check_function(tool.get("function"), f"{at}.function", found)


def _check_function(function: object, at: str, found: Findings) -> None:
    if not isinstance(function, dict):
        _misdeclared(at, "must be an object", found)
    elif not isinstance(function.get("name"), str) or not function["name"]:
        _misdeclared(f"{at}.name", "must be a string that is not empty", found)
    elif not isinstance(function.get("parameters"), dict | None):
        _misdeclared(f"{at}.parameters", "must be a JSON schema object", found)


def _misdeclared(at: str, must: str, found: Findings) -> None:
    found.fault(
        "invalid_tools",
        at,
        f", key '{at}' {must}.",
        'Declare a tool as {"type": "function", "function": {"name": ..., "parameters": {...}}}.',
    )


def read_answer(given: Mapping[str, Any], told: Message, place: Place) -> None:
    """Tell which call a tool message answers."""
    call = given.get("tool_call_id")
    if call is None:
        place.fault(
            "message_missing_key",
            "tool_call_id",
            "Key 'tool_call_id' is missing in value",
            "Add the id of the call that this message answers.",
        )
    elif not isinstance(call, str):
        place.wrong_type("tool_call_id", call, "a string")
    else:
        told["tool_call_id"] = call


def read_calls(given: Mapping[str, Any], told: Message, place: Place) -> None:
    """Tell the calls of a message that has `tool_calls` or a deprecated `function_call`."""
    key = "tool_calls" if "tool_calls" in given else "function_call"
    calls = given[key]
    if calls == []:
        return
    if told["role"] != "assistant":
        place.fault(
            "invalid_tool_calls",
            key,
            f"Key '{key}' is not allowed in a message with role '{told['role']}'",
            "Move it to an assistant message.",
        )
    elif "tool_calls" in given and "function_call" in given:
        place.fault(
            "invalid_tool_calls",
            "function_call",
            "has both 'tool_calls' and 'function_call'",
            "Keep 'tool_calls': 'function_call' is its deprecated form.",
        )
    elif key == "function_call":
        function = _function(calls, key, place)
        told["tool_calls"] = [
            {"id": f"call_{place.index}", "type": "function", "function": function}
        ]
    elif not isinstance(calls, list):
        place.wrong_type(key, calls, "an array")
    else:
        told["tool_calls"] = [
            _call(call, f"tool_calls[{index}]", place) for index, call in enumerate(calls)
        ]


def _call(call: object, at: str, place: Place) -> dict[str, Any]:
    if not isinstance(call, dict):
        place.wrong_type(at, call, "an object")
        return {}
    identity = call.get("id")
    if not isinstance(identity, str) or not identity:
        place.fault(
            "invalid_tool_calls",
            f"{at}.id",
            f"Key '{at}.id' must be a string that is not empty",
            "Give every tool call an id, and answer it by a tool message with that tool_call_id.",
        )
    if call.get("type") != "function":
        place.fault(
            "invalid_tool_calls",
            f"{at}.type",
            f"Key '{at}.type' must be 'function'",
            'Add "type": "function".',
        )
    function = _function(call.get("function"), f"{at}.function", place)
    return {"id": identity, "type": "function", "function": function}


def _function(function: object, at: str, place: Place) -> dict[str, Any]:
    if not isinstance(function, dict):
        place.wrong_type(at, function, "an object")
        return {}
    for key in ("name", "arguments"):
        if not isinstance(function.get(key), str) or (key == "name" and not function[key]):
            place.fault(
                "invalid_tool_calls",
                f"{at}.{key}",
                f"Key '{at}.{key}' must be a string",
                "Write the function's name."
                if key == "name"
                else 'Write the arguments as a string of JSON: "{\\"city\\": \\"Paris\\"}".',
            )
            return {}
    return {"name": function["name"], "arguments": _arguments(function["arguments"], place)}


def _arguments(text: str, place: Place) -> dict[str, Any] | str:
    """The arguments as a dict, for templates; models do not always write JSON, so text may stay."""
    try:
        return parse(text.encode("utf-8")).value
    except LineError:
        place.found.remark(
            "arguments_not_json",
            "",
            f", message {place.index + 1} calls a function with arguments that are no JSON object.",
        )
        return text
