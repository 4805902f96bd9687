from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.chat import Constraint, Conversation, Generate, decode_asked, encode
from ftd.core.conversation import read_constraint, read_conversation
from ftd.core.errors import FtdError

ASK = {"role": "user", "content": "What is six times seven?"}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "multiply", "arguments": '{"a": 6, "b": 7}'},
}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER = {"role": "tool", "content": "42", "tool_call_id": "call_1"}
TOOL = {"type": "function", "function": {"name": "multiply", "parameters": {"type": "object"}}}


def read(*messages: object, tools: object = None, tool_choice: object = None) -> Conversation:
    return read_conversation(list(messages), tools, tool_choice, parallel=True)


def refusal(read_it: Any, *given: object, **more: object) -> FtdError:
    with pytest.raises(FtdError) as refused:
        read_it(*given, **more)
    assert refused.value.kind.http_status == 400
    return refused.value


def test_messages_come_out_in_the_form_that_training_reads() -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    found = read({"role": "developer", "content": parts}, {**ASK, "name": "Ada"}, CALLING, ANSWER)
    called = {"name": "multiply", "arguments": {"a": 6, "b": 7}}
    assert found.messages == (
        {"role": "developer", "content": "Be brief."},
        {**ASK, "name": "Ada"},
        {"role": "assistant", "tool_calls": [{**CALL, "function": called}]},
        ANSWER,
    )
    assert (found.tools, found.tool_choice) == ((), "none")


def test_what_an_sdk_answered_can_be_sent_back() -> None:
    answer = {
        "role": "assistant",
        "content": "42",
        "refusal": None,
        "annotations": [],
        "audio": None,
    }
    assert read(ASK, answer, ASK).messages == (ASK, {"role": "assistant", "content": "42"}, ASK)


def test_a_line_of_a_training_file_can_be_asked() -> None:
    weighed = {"role": "assistant", "content": "42", "weight": 0}
    assert read(ASK, weighed).messages[1] == {"role": "assistant", "content": "42"}
    deprecated = {"role": "assistant", "function_call": CALL["function"]}
    assert read(ASK, deprecated).messages[1]["tool_calls"][0]["id"] == "call_1"
    assert read(ASK, CALLING, ASK).messages[2] == ASK


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        (None, "messages", "missing_required_parameter"),
        ({}, "messages", "invalid_type"),
        ("hello", "messages", "invalid_type"),
        ([], "messages", "empty_array"),
        ([ASK] * 2049, "messages", "array_above_max_length"),
        (["hello"], "messages[0]", "invalid_type"),
        ([None], "messages[0]", "invalid_type"),
        ([ASK, {"content": "x"}], "messages[1].role", "missing_required_parameter"),
        ([{"role": "bot", "content": "x"}], "messages[0].role", "invalid_value"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role", "invalid_value"),
        ([{"role": "function", "content": "x"}], "messages[0].role", "invalid_value"),
        ([{"role": "user"}], "messages[0].content", "missing_required_parameter"),
        ([{"role": "user", "content": []}], "messages[0].content", "missing_required_parameter"),
        ([{"role": "assistant"}], "messages[0].content", "missing_required_parameter"),
        ([{"role": "user", "content": 5}], "messages[0].content", "invalid_type"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]", "invalid_type"),
        ([{"role": "user", "content": [1] * 20}], "messages[0].content[0]", "invalid_type"),
        ([{**ASK, "name": 5}], "messages[0].name", "invalid_type"),
        ([{**ASK, "tool_calls": [CALL]}], "messages[0].tool_calls", "invalid_value"),
        (
            [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}],
            "messages[0].tool_calls[0].type",
            "invalid_value",
        ),
        (
            [{"role": "tool", "content": "x"}],
            "messages[0].tool_call_id",
            "missing_required_parameter",
        ),
        ([ASK, ANSWER], "messages.[1].role", None),
        ([CALLING, ASK, ANSWER], "messages.[2].role", None),
        ([CALLING, {**ANSWER, "tool_call_id": "x"}], "messages.[1].tool_call_id", None),
    ],
)
def test_every_bad_message_is_refused_at_its_place(
    messages: object, param: str, code: str | None
) -> None:
    error = refusal(read_conversation, messages, None, None, True)
    assert (error.param, error.code) == (param, code)
    assert "Example" not in error.message
    assert not error.message.startswith(",")


@pytest.mark.parametrize("sort", ["image_url", "input_audio", "file"])
def test_parts_that_are_no_text_are_refused_in_words(sort: str) -> None:
    error = refusal(read, {"role": "user", "content": [{"type": sort, sort: {}}]})
    assert error.param == "messages[0].content[0].type"
    assert "takes text only" in error.message


def test_one_call_may_have_several_answers_to_several_calls() -> None:
    other = {**CALL, "id": "call_2"}
    calling = {"role": "assistant", "tool_calls": [CALL, other]}
    assert len(read(ASK, calling, {**ANSWER, "tool_call_id": "call_2"}, ANSWER).messages) == 4


@pytest.mark.parametrize(
    ("tools", "choice", "told"),
    [
        (None, None, "none"),
        (None, "auto", "none"),
        (None, "none", "none"),
        ([], None, "none"),
        ([TOOL], None, "auto"),
        ([TOOL], "auto", "auto"),
        ([TOOL], "none", "none"),
        ([TOOL], "required", "required"),
        ([TOOL], {"type": "function", "function": {"name": "multiply"}}, "multiply"),
    ],
)
def test_tools_and_the_choice_among_them(tools: object, choice: object, told: str) -> None:
    found = read(ASK, tools=tools, tool_choice=choice)
    assert found.tool_choice == told
    assert found.tools == tuple(tools or ())


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ({}, None, "tools"),
        ([TOOL] * 129, None, "tools"),
        (["multiply"], None, "tools[0]"),
        ([TOOL, {"type": "custom", "custom": {"name": "x"}}], None, "tools[1]"),
        ([{"type": "function", "function": {}}], None, "tools[0].function.name"),
        (None, "required", "tool_choice"),
        ([TOOL], "any", "tool_choice"),
        ([TOOL], 1, "tool_choice"),
        ([TOOL], {"type": "allowed_tools"}, "tool_choice.type"),
        ([TOOL], {"type": "function"}, "tool_choice.function.name"),
        ([TOOL], {"type": "function", "function": {"name": 1}}, "tool_choice.function.name"),
        ([TOOL], {"type": "function", "function": {"name": "add"}}, "tool_choice.function.name"),
        (
            [{"type": "function", "function": {"name": "auto"}}],
            {"type": "function", "function": {"name": "auto"}},
            "tool_choice.function.name",
        ),
    ],
)
def test_every_bad_tool_is_refused_at_its_place(tools: object, choice: object, param: str) -> None:
    assert refusal(read, ASK, tools=tools, tool_choice=choice).param == param


def test_the_form_of_an_answer() -> None:
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}}
    named = {"name": "score", "schema": schema, "strict": True}
    assert read_constraint(None) is None
    assert read_constraint({"type": "text"}) is None
    assert read_constraint({"type": "json_object"}) == Constraint()
    found = read_constraint({"type": "json_schema", "json_schema": named})
    assert found == Constraint(json_schema=schema)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("json", "response_format"),
        ({}, "response_format.type"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": []}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name"),
        (
            {"type": "json_schema", "json_schema": {"name": "x"}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": True}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": 1}},
            "response_format.json_schema.strict",
        ),
    ],
)
def test_every_bad_form_is_refused_at_its_place(given: object, param: str) -> None:
    assert refusal(read_constraint, given).param == param


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "name", "tool_calls", "tool_call_id", "type", "text"]
            )
            | st.sampled_from(["function", "arguments", "id", "json_schema", "schema"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=24,
)


@given(messages=_ANY, tools=_ANY, choice=_ANY, form=_ANY)
def test_whatever_comes_is_read_or_refused(
    messages: object, tools: object, choice: object, form: object
) -> None:
    read_or_refused(read_constraint, form)
    for wrapped in (messages, [ASK, messages]):
        found = read_or_refused(read_conversation, wrapped, tools, choice, False)
        if found is not None:
            asked = Generate(id="1", prompt=found)
            assert decode_asked(encode(asked)) == asked


def read_or_refused(read_it: Any, *given: object) -> Any:
    param: str | None = "none was refused"
    try:
        return read_it(*given)
    except FtdError as error:
        param = error.param
    assert param
    return None
