import pytest

from ftd.core.finding import Findings
from ftd.core.message import read_message

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "multiply", "arguments": '{"a": 6, "b": 7}'},
}


def test_a_role_that_is_missing_is_told_in_openais_words() -> None:
    found = Findings()
    read_message({"rol": "assistant", "content": "42"}, 1, found)
    (problem,) = found.problems
    assert problem.text == ", message 2 Discriminator 'role' is missing in value"
    assert problem.path == "messages[1].role"
    assert "Rename 'rol' to 'role'." in problem.fix


@pytest.mark.parametrize(
    ("message", "code", "key"),
    [
        ("hello", "data_type", ""),
        ({"content": "x"}, "message_missing_key", ".role"),
        ({"role": "bot", "content": "x"}, "unrecognized_role", ".role"),
        ({"role": ["user"], "content": "x"}, "unrecognized_role", ".role"),
        ({"role": "user"}, "missing_content", ".content"),
        ({"role": "user", "content": None}, "missing_content", ".content"),
        ({"role": "user", "content": []}, "missing_content", ".content"),
        ({"role": "assistant"}, "missing_content", ".content"),
        ({"role": "assistant", "tool_calls": []}, "missing_content", ".content"),
        ({"role": "user", "content": 42}, "data_type", ".content"),
        ({"role": "user", "content": {"text": "x"}}, "data_type", ".content"),
        ({"role": "user", "content": ["x"]}, "data_type", ".content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "data_type", ".content[0].text"),
        ({"role": "user", "content": [{"type": ["a"]}]}, "data_type", ".content[0]"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "vision_format",
            ".content[0]",
        ),
        ({"role": "user", "content": "x", "name": 1}, "data_type", ".name"),
        ({"role": "user", "content": "x", "weight": 1}, "invalid_weight", ".weight"),
        ({"role": "assistant", "content": "x", "weight": 2}, "invalid_weight", ".weight"),
        ({"role": "assistant", "content": "x", "weight": 0.5}, "invalid_weight", ".weight"),
        ({"role": "assistant", "content": "x", "weight": True}, "invalid_weight", ".weight"),
        ({"role": "assistant", "content": "x", "weight": "1"}, "invalid_weight", ".weight"),
        ({"role": "tool", "content": "x"}, "message_missing_key", ".tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": 1}, "data_type", ".tool_call_id"),
        (
            {"role": "user", "content": "x", "tool_calls": [CALL]},
            "invalid_tool_calls",
            ".tool_calls",
        ),
        ({"role": "assistant", "tool_calls": CALL}, "data_type", ".tool_calls"),
        ({"role": "assistant", "tool_calls": ["x"]}, "data_type", ".tool_calls[0]"),
        (
            {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": None}]},
            "invalid_tool_calls",
            ".tool_calls[1].id",
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]},
            "invalid_tool_calls",
            ".tool_calls[0].type",
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "function": None}]},
            "data_type",
            ".tool_calls[0].function",
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "function": {"arguments": "{}"}}]},
            "invalid_tool_calls",
            ".tool_calls[0].function.name",
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {"a": 1}}}],
            },
            "invalid_tool_calls",
            ".tool_calls[0].function.arguments",
        ),
        (
            {"role": "assistant", "tool_calls": [CALL], "function_call": CALL["function"]},
            "invalid_tool_calls",
            ".function_call",
        ),
        ({"role": "assistant", "function_call": "f"}, "data_type", ".function_call"),
    ],
)
def test_every_bad_message_is_a_fault_with_its_path(message: object, code: str, key: str) -> None:
    found = Findings()
    read_message(message, 1, found)
    assert [(one.code, one.path) for one in found.problems] == [(code, f"messages[1]{key}")]
    assert found.problems[0].text.startswith(", message 2 ")
    assert found.problems[0].fix
