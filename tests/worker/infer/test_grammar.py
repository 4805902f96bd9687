import json
from typing import Any

import pytest
from llguidance import LLMatcher
from transformers import AutoTokenizer

from ftd.core.chat import Constraint, Conversation, Prompt, Text
from ftd.core.errors import FtdError
from ftd.core.toolcalls import CallReader, Form, form_of
from ftd.worker.infer.grammar import Grammars, Guide, Wanted
from tests.starter import starter_model
from tests.worker.infer.client import user

TOKENIZER = AutoTokenizer.from_pretrained(starter_model())
SIZE = len(TOKENIZER)
END = TOKENIZER.eos_token_id
# The starter's tokenizer knows these special tokens: they stand for those of other models.
MARKS = {"<file_sep>": TOKENIZER.convert_tokens_to_ids("<file_sep>")}

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "string"}},
}
TOOLS = (
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
)
HERMES = form_of("<tool_call>")


def grammars(form: Form = HERMES) -> Grammars:
    return Grammars(TOKENIZER, size=SIZE + 8, ends=[END], form=form, marks=MARKS)


def matcher(
    prompt: Prompt, constraint: Constraint | None, form: Form = HERMES
) -> tuple[LLMatcher, str]:
    known = grammars(form)
    wanted = known.wanted(prompt, constraint)
    assert wanted is not None
    return known.compile(wanted), wanted.param


def follows(text: str, made: tuple[LLMatcher, str]) -> bool:
    """Whether a model could say this and nothing more, token by token."""
    guide = Guide(made[0].deep_copy(), made[1])
    for token in [*TOKENIZER.encode(text, add_special_tokens=False), END]:
        if not guide.allowed(SIZE + 8)[token]:
            return token == END and guide.complete
        guide.take(token)
    return True


def json_of(schema: dict[str, Any] | None) -> tuple[LLMatcher, str]:
    return matcher(user("x"), Constraint(json_schema=schema))


def test_without_a_wish_an_answer_is_free() -> None:
    assert grammars().wanted(user("x"), None) is None
    assert grammars().wanted(user("x", tools=TOOLS), None) is None
    assert grammars().wanted(user("x", tools=TOOLS, tool_choice="none"), None) is None
    assert grammars().wanted(Text(text="x"), None) is None


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("{}", True),
        ('{"a": [1, 2.5e3, null, true, "\u00e9\\n"]}', True),
        ('{\n  "a": {\n    "b": 1\n  }\n}', True),
        ("[]", False),
        ("7", False),
        ("Sure: {}", False),
        ('{"a":', False),
        ('{"a":   1}', False),
    ],
)
def test_an_object_of_any_kind(text: str, fits: bool) -> None:
    assert follows(text, json_of(None)) is fits


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"city": "Paris"}', True),
        ('{"city":"Paris"}', True),
        ('{"city": 7}', False),
        ('{"town": "Paris"}', False),
        ('{"city": "Paris", "more": 1}', False),
    ],
)
def test_a_schema_and_its_references(text: str, fits: bool) -> None:
    assert follows(text, json_of(CITY)) is fits


def test_nothing_can_follow_a_complete_answer() -> None:
    made = json_of(CITY)
    guide = Guide(made[0].deep_copy(), made[1])
    for token in TOKENIZER.encode('{"city": "Paris"}', add_special_tokens=False):
        assert not guide.complete
        guide.take(token)
    assert guide.complete


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "wat"}, "Invalid type: wat"),
        ({"type": "object", "not": {"const": 1}}, "Unimplemented keys"),
        ({"type": "array", "uniqueItems": True}, "Unimplemented keys"),
        ({"$ref": "https://example.org/schema.json"}, "not present"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        ({"type": "string", "pattern": "(unclosed"}, ""),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "Unimplemented"),
        ({"type": "array", "x-guidance": 7, "uniqueItems": True}, "Unimplemented"),
        ({"type": 7}, ""),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(FtdError) as caught:
        json_of(schema)
    assert caught.value.param == "response_format"
    assert caught.value.message.startswith("Invalid schema for 'response_format': ")
    assert reason in caught.value.message
    assert caught.value.code == "invalid_json_schema"


def test_a_schema_of_great_depth_is_refused() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for depth in range(2000):
        deep = {"type": "object", "properties": {"a": deep}}
        if depth in (100, 1999):
            with pytest.raises(FtdError, match=r"recursion limit|too deeply"):
                json_of(deep)


def calling(choice: str, **more: Any) -> Conversation:
    return user("x", tools=TOOLS, tool_choice=choice, **more)


PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "choice", "parallel", "fits"),
    [
        (PARIS, "required", True, True),
        (NOW, "required", True, True),
        (f"{PARIS}\n{NOW}", "required", True, True),
        (f"{PARIS}\n{NOW}", "required", False, False),
        (PARIS, "get_weather", True, True),
        (f"{PARIS}\n{PARIS}", "get_weather", True, False),
        (NOW, "get_weather", True, False),
        ("It is sunny.", "required", True, False),
        (PARIS.replace("city", "town"), "required", True, False),
    ],
)
def test_a_required_call_is_the_whole_answer(
    text: str, choice: str, parallel: bool, fits: bool
) -> None:
    made = matcher(calling(choice, parallel_tool_calls=parallel), None)
    assert follows(text, made) is fits
    assert made[1] == "tools"


@pytest.mark.parametrize("strict", [False, True])
def test_a_strict_function_is_refused_where_its_schema_cannot_be_kept(strict: bool) -> None:
    odd = {"type": "object", "properties": {"n": {"type": "integer", "not": {"const": 3}}}}
    function = {"name": "now", "strict": strict, "parameters": odd}
    prompt = user("x", tools=({"type": "function", "function": function},), tool_choice="now")
    if strict:
        with pytest.raises(FtdError, match="not") as caught:
            matcher(prompt, None)
        assert caught.value.param == "tools"
    else:
        matcher(prompt, None)


def test_a_possible_call_stands_beside_the_constrained_answer() -> None:
    made = matcher(calling("auto"), Constraint(json_schema=CITY))
    assert follows(PARIS, made)
    assert follows('{"city": "Paris"}', made)
    assert not follows("It is sunny.", made)
    plain = matcher(calling("none"), Constraint(json_schema=CITY))
    assert follows('{"city": "Paris"}', plain)
    assert not follows(PARIS, plain)


@pytest.mark.parametrize(
    "template",
    ["<tool_call>", "<|tool_call|>", "[TOOL_CALLS]", "[TOOL_CALLS][ARGS]", '"parameters"', ""],
)
def test_what_a_grammar_makes_a_model_say_is_read_back_as_the_call(template: str) -> None:
    form = form_of(template)
    if form.named:
        said = f'{form.before}get_weather[ARGS]{{"city": "Paris"}}{form.after}'
    else:
        call = f'{{"name": "get_weather", "{form.key}": {{"city": "Paris"}}}}'
        said = form.before + call + form.after
    assert follows(said, matcher(calling("required"), None, form))
    reader = CallReader(["get_weather"])
    (call_,) = [*reader.push(said), *reader.end()]
    assert not isinstance(call_, str)
    assert json.loads(call_.arguments) == {"city": "Paris"}


def test_marks_are_special_tokens() -> None:
    form = Form(before="<file_sep>[", after="]")
    text = '<file_sep>[{"name": "now", "arguments": {}}]'
    assert TOKENIZER.encode(text, add_special_tokens=False)[0] == MARKS["<file_sep>"]
    assert follows(text, matcher(calling("required"), None, form))


def test_parameters_that_cannot_be_enforced_are_taken_as_far_as_they_can() -> None:
    loose = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": loose}}
    made = matcher(user("x", tools=(tool,), tool_choice="required"), None)
    assert follows('<tool_call>\n{"name": "f", "arguments": {"a": [1, 1]}}\n</tool_call>', made)
    assert not follows('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', made)


def test_parameters_that_make_no_sense_are_refused() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "wat"}}}
    with pytest.raises(FtdError, match="wat") as caught:
        matcher(user("x", tools=(tool,), tool_choice="required"), None)
    assert caught.value.param == "tools"


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "\u00e9", "new\nline", "\u2603"])
def test_names_are_written_as_they_are(name: str) -> None:
    tool = {"type": "function", "function": {"name": name}}
    made = matcher(user("x", tools=(tool,), tool_choice="required"), None)
    written = json.dumps(name, ensure_ascii=False)
    assert follows(f'<tool_call>\n{{"name": {written}, "arguments": {{}}}}\n</tool_call>', made)


def test_a_token_that_does_not_fit_is_a_refusal() -> None:
    made = json_of(None)
    guide = Guide(made[0].deep_copy(), made[1])
    with pytest.raises(FtdError):
        guide.take(TOKENIZER.encode("hello")[0])


def test_a_tokenizer_of_an_old_kind_cannot_be_constrained() -> None:
    known = Grammars(object(), size=10, ends=[], form=HERMES, marks={})
    with pytest.raises(FtdError, match="old kind"):
        known.compile(Wanted(text="start: /a/", param="response_format"))
