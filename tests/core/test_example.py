import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.example import (
    Chat,
    Completion,
    Format,
    fingerprint,
    is_blank,
    parse_example,
    read_example,
)
from ftd.core.finding import MAX_FAULTS_PER_EXAMPLE, Findings

ASK = {"role": "user", "content": "What is six times seven?"}
TELL = {"role": "assistant", "content": "Forty-two."}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "multiply", "arguments": '{"a": 6, "b": 7}'},
}
TOOL = {"type": "function", "function": {"name": "multiply", "parameters": {"type": "object"}}}


def line(**value: object) -> bytes:
    return json.dumps(value).encode()


def chat(*messages: object, **more: object) -> Chat:
    example = parse_example(line(messages=messages, **more))
    assert isinstance(example, Chat)
    return example


def findings(value: dict[str, Any], expected: Format | None = None) -> Findings:
    return read_example(value, expected)[1]


def faults(*messages: object, **more: object) -> list[tuple[str, str]]:
    """(code, path) of each fault of a chat."""
    value = json.loads(line(messages=messages, **more))
    example, found = read_example(value, None)
    assert (example is None) == bool(found.problems)
    return [(problem.code, problem.path) for problem in found.problems]


def remarks(*messages: object, **more: object) -> list[tuple[str, str]]:
    """(code, subject) of each remark on a chat that is not at fault."""
    value = json.loads(line(messages=messages, **more))
    example, found = read_example(value, None)
    assert example is not None
    return [(remark.code, remark.subject) for remark in found.remarks]


def test_a_plain_chat() -> None:
    example = chat({"role": "system", "content": "Be brief."}, ASK, TELL)
    assert example.messages == ({"role": "system", "content": "Be brief."}, ASK, TELL)
    assert example.weights == (0.0, 0.0, 1.0)
    assert example.tools is None


def test_a_prompt_and_its_completion() -> None:
    example = parse_example(line(prompt="6 * 7 =", completion=" 42"))
    assert example == Completion(prompt="6 * 7 =", completion=" 42")


def test_a_byte_order_mark_is_no_part_of_the_example() -> None:
    assert parse_example(b"\xef\xbb\xbf" + line(prompt="a", completion="b"))
    assert is_blank(b"\xef\xbb\xbf \r\n")
    assert not is_blank(b"{}")


def test_a_bad_line_cannot_be_parsed_as_an_example() -> None:
    for bad in (b"{", b"[]", line(messages=[]), line(messages=[ASK]), line(prompt="a")):
        with pytest.raises(ValueError, match=r"\w"):
            parse_example(bad)


def test_text_parts_become_one_string() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "it?"}]
    refusal = [{"type": "refusal", "refusal": "No."}]
    example = chat({"role": "user", "content": parts}, {"role": "assistant", "content": refusal})
    assert [message["content"] for message in example.messages] == ["What is it?", "No."]


def test_weights_are_the_assistants() -> None:
    example = chat(ASK, {**TELL, "weight": 0}, ASK, {**TELL, "weight": 1}, ASK, TELL)
    assert example.weights == (0.0, 0.0, 0.0, 1.0, 0.0, 1.0)
    assert all("weight" not in message for message in example.messages)


def test_tool_calls_have_their_arguments_as_a_dict() -> None:
    example = chat(
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        TELL,
        tools=[TOOL],
        parallel_tool_calls=False,
    )
    asked = example.messages[1]
    assert "content" not in asked
    assert asked["tool_calls"][0]["function"] == {"name": "multiply", "arguments": {"a": 6, "b": 7}}
    assert example.messages[2] == {"role": "tool", "content": "42", "tool_call_id": "call_1"}
    assert example.tools == [TOOL]


@pytest.mark.parametrize("arguments", ["", "six", "[6, 7]", '{"a": "\\ud800"}', '{"a": NaN}'])
def test_arguments_that_are_no_json_object_stay_text(arguments: str) -> None:
    call = {**CALL, "function": {"name": "multiply", "arguments": arguments}}
    turns = (ASK, {"role": "assistant", "tool_calls": [call]})
    assert chat(*turns).messages[1]["tool_calls"][0]["function"]["arguments"] == arguments
    assert remarks(*turns) == [("arguments_not_json", "")]


def test_deprecated_functions_become_tools() -> None:
    example = chat(
        ASK,
        {"role": "assistant", "function_call": CALL["function"]},
        {"role": "function", "name": "multiply", "content": "42"},
        TELL,
        functions=[TOOL["function"]],
    )
    assert example.tools == [TOOL]
    identity = example.messages[1]["tool_calls"][0]["id"]
    assert example.messages[2]["tool_call_id"] == identity


def test_null_equals_absent() -> None:
    nothing = {"name": None, "weight": None, "tool_calls": None, "refusal": None, "audio": None}
    example = chat({**ASK, **nothing}, {**TELL, **nothing}, tools=None, functions=None, id=None)
    assert example == chat(ASK, TELL)
    assert remarks({**ASK, **nothing}, TELL, tools=None, id=None) == []


@pytest.mark.parametrize("messages", ["hello", [], {}, 7])
def test_messages_must_be_a_list_that_is_not_empty(messages: object) -> None:
    (problem,) = findings({"messages": messages}).problems
    assert (problem.code, problem.path) == ("missing_messages_list", "messages")


def test_an_example_needs_an_assistant_message() -> None:
    assert faults(ASK) == [("example_missing_assistant_message", "messages")]


def test_all_faults_of_a_line_are_told_up_to_a_limit() -> None:
    assert [path for _, path in faults({"role": "x"}, {}, TELL)] == [
        "messages[0].role",
        "messages[1].role",
    ]
    assert len(faults(*[{}] * 10_000)) == MAX_FAULTS_PER_EXAMPLE


@pytest.mark.parametrize(
    ("value", "expected", "code", "text"),
    [
        ({"foo": 1}, None, "unexpected_format", "Unexpected file format, expected either prompt/"),
        ({}, None, "unexpected_format", "completion pairs or chat messages."),
        ({"messages": None}, None, "unexpected_format", "Unexpected file format"),
        ({"foo": 1}, Format.CHAT, "missing_messages_list", " is missing key 'messages'."),
        ({"foo": 1}, Format.COMPLETION, "missing_key", " is missing key 'prompt'."),
        ({"prompt": "a"}, None, "missing_key", " is missing key 'completion'."),
        ({"completion": "a"}, None, "missing_key", " is missing key 'prompt'."),
        ({"prompt": ["a"], "completion": "b"}, None, "data_type", "must be a string, not an array"),
        ({"prompt": "a", "completion": "b"}, Format.CHAT, "mixed_formats", "fine-tune-completion"),
        ({"messages": [ASK, TELL]}, Format.COMPLETION, "mixed_formats", "fine-tune-chat"),
        (
            {"input": {"messages": [ASK]}, "preferred_output": [TELL], "non_preferred_output": []},
            None,
            "preference_format",
            "is in the fine-tune-preference format",
        ),
        (
            {"input": {}, "preferred_completion": [], "non_preferred_completion": []},
            Format.CHAT,
            "preference_format",
            "is in the fine-tune-preference format",
        ),
    ],
)
def test_a_line_of_no_or_another_format_is_a_fault(
    value: dict[str, Any], expected: Format | None, code: str, text: str
) -> None:
    (problem,) = findings(value, expected).problems
    assert problem.code == code
    assert text in problem.text


def test_a_misspelt_key_is_named() -> None:
    (problem,) = findings({"mesages": []}, Format.CHAT).problems
    assert "Rename 'mesages' to 'messages'." in problem.fix


def test_oddities_are_remarks_and_no_faults() -> None:
    assert remarks(ASK, TELL, topic="sums") == [("extra_key", "topic")]
    assert remarks({**ASK, "mood": 1}, TELL) == [("message_unrecognized_key", "mood")]
    assert remarks({**ASK, "tool_call_id": "x"}, TELL) == [
        ("message_unrecognized_key", "tool_call_id")
    ]
    assert remarks(ASK, {**TELL, "weight": 0}) == [("nothing_to_train", "")]
    assert remarks(ASK, TELL, ASK) == [("no_final_reply", "")]
    assert remarks(ASK, {**TELL, "content": ""}) == [("empty_reply", "")]
    assert remarks(ASK, {**TELL, "content": "a\0b"}) == [("nul_character", "")]
    answer = {"role": "tool", "tool_call_id": "call_9", "content": "x"}
    assert remarks(ASK, answer, TELL) == [("unasked_answer", "")]


@pytest.mark.parametrize("token", ["<|im_end|>", "<|fim_suffix|>", "<|eot_id|>"])
def test_control_tokens_in_text_are_remarked(token: str) -> None:
    assert remarks(ASK, {**TELL, "content": f"42 {token}"}) == [("control_token", token)]
    _, found = read_example({"prompt": token, "completion": "b"}, None)
    assert [remark.text for remark in found.remarks] == [
        f" prompt contains an invalid token: {token}. It is encoded as plain text."
    ]


def test_extra_keys_are_told_in_openais_words() -> None:
    _, found = read_example({"messages": [ASK, TELL], "weight": 1}, None)
    assert found.remarks[0].text.startswith(' contains an extra "weight".')


def test_equal_examples_share_a_fingerprint() -> None:
    turned = b'{"messages":[{"content":"What is six times seven?","role":"user"},'
    turned += b'{"content":"Forty\\u002dtwo.","role":"assistant","weight":1}],"tools":[]}'
    assert parse_example(turned) == chat(ASK, TELL)
    assert fingerprint(parse_example(turned)) == fingerprint(chat(ASK, TELL))


def test_different_examples_differ_in_their_fingerprint() -> None:
    called = {"role": "assistant", "tool_calls": [CALL]}
    other = {**CALL, "function": {"name": "multiply", "arguments": '{"a": 1}'}}
    examples = [
        chat(ASK, TELL),
        chat(ASK, {**TELL, "weight": 0}, TELL),
        chat(ASK, TELL, ASK, TELL),
        chat({**ASK, "name": "ada"}, TELL),
        chat(ASK, TELL, tools=[TOOL]),
        chat(ASK, called),
        chat(ASK, {**called, "content": ""}),
        chat(ASK, {**called, "tool_calls": [other]}),
        parse_example(line(prompt="a", completion="b")),
        parse_example(line(prompt="ab", completion="")),
    ]
    prints = [fingerprint(example) for example in examples]
    assert len(set(prints)) == len(prints)
    assert all(0 <= one < 2**64 for one in prints)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": TEXT},
    optional={"name": TEXT},
)


@given(messages=st.lists(MESSAGE, max_size=6), last=TEXT, weight=st.sampled_from([0, 1, None]))
def test_a_valid_chat_is_read_as_it_is(
    messages: list[dict[str, Any]], last: str, weight: int | None
) -> None:
    final = {"role": "assistant", "content": last}
    example = chat(*messages, {**final, "weight": weight})
    assert list(example.messages) == [*messages, final]
    assert example.weights[-1] == (1.0 if weight is None else weight)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            ["role", "content", "weight", "type", "text", "tool_calls", "function", "name", "id",
             "arguments", "function_call", "tool_call_id", "tools", "functions"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip
ROLE = st.sampled_from(["system", "user", "assistant", "tool", "function"])


@given(
    value=st.fixed_dictionaries(
        {"messages": st.lists(st.builds(lambda m, r: {**m, "role": r} if isinstance(m, dict) else m,
                                        JSON, ROLE), max_size=4)},
        optional={"tools": JSON, "functions": JSON, "parallel_tool_calls": JSON, "prompt": JSON},
    ),
    expected=st.sampled_from([None, Format.CHAT, Format.COMPLETION]),
)  # fmt: skip
def test_any_object_is_an_example_or_a_fault(
    value: dict[str, Any], expected: Format | None
) -> None:
    example, found = read_example(value, expected)
    assert (example is None) == bool(found.problems)
    if isinstance(example, Chat):
        assert len(example.messages) == len(example.weights) == len(value["messages"])
        fingerprint(example)
