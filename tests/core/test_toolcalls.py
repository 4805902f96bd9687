import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.toolcalls import MARKS, Call, CallReader, Form, form_of

NAMES = ("get_weather", "now")
PARIS = Call(name="get_weather", arguments='{"city": "Paris"}')
NOW = Call(name="now", arguments="{}")
CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
LLAMA = '{"name": "get_weather", "parameters": {"city": "Paris"}}'


def read(*pieces: str, names: tuple[str, ...] = NAMES) -> list[str | Call]:
    """All that is told of text in these pieces, neighbouring texts joined."""
    reader = CallReader(names)
    found = [each for piece in pieces for each in reader.push(piece)] + reader.end()
    assert reader.held == 0
    joined: list[str | Call] = []
    for each in found:
        if isinstance(each, str) and joined and isinstance(joined[-1], str):
            joined[-1] += each
        else:
            joined.append(each)
    return joined


FORMS: list[tuple[str, list[str | Call]]] = [
    (f"<tool_call>\n{CALL}\n</tool_call>", [PARIS]),
    (f"<tool_call>{CALL}", [PARIS]),
    (f"<tool_call>[{CALL}]</tool_call>\n", [PARIS]),
    (
        f'<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{{"name": "now"}}\n</tool_call>',
        [PARIS, NOW],
    ),
    (f"I shall look. \n\n<tool_call>{CALL}</tool_call>", ["I shall look.", PARIS]),
    (f"<tool_call>{CALL}</tool_call>\nThere.", [PARIS, "There."]),
    (f"<|tool_call|>[{CALL}]<|/tool_call|>", [PARIS]),
    (LLAMA, [PARIS]),
    (f"\n\n{LLAMA}", [PARIS]),
    (f'{LLAMA}; {{"name": "now", "parameters": {{}}}}', [PARIS, NOW]),
    (f'{LLAMA}\n{{"name": "now", "parameters": null}}', [PARIS, NOW]),
    (f"<|python_tag|>{LLAMA}", [PARIS]),
    (f'<|python_tag|>{LLAMA};{{"name": "now"}}', [PARIS, NOW]),
    (f"[TOOL_CALLS] [{CALL}]", [PARIS]),
    (f'[TOOL_CALLS][{CALL}, {{"name": "now", "arguments": {{}}}}]', [PARIS, NOW]),
    ('[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', [PARIS]),
    ('[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}', [PARIS]),
    ('[TOOL_CALLS]get_weather{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}', [PARIS, NOW]),
    (f"[{CALL}]", [PARIS]),
    (f'{{"type": "function", "function": {CALL}}}', [PARIS]),
    ('{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}', [PARIS]),
    (
        '{"name": "get_weather", "arguments": {"city": "a}\\"]{\\\\"}}',
        [Call(name="get_weather", arguments='{"city": "a}\\"]{\\\\"}')],
    ),
    (
        '{"name": "get_weather", "arguments": {"city": "\u062a\u0647\u0631\u0627\u0646"}}',
        [Call(name="get_weather", arguments='{"city": "\u062a\u0647\u0631\u0627\u0646"}')],
    ),
]

FORMS.append(
    (  # half a surrogate pair is JSON as an escape alone
        '{"name": "get_weather", "arguments": {"city": "\\ud800"}}',
        [Call(name="get_weather", arguments='{"city": "\\ud800"}')],
    )
)

TEXTS = [
    '{"name": "get_weather", "arguments": {"days": NaN}}',
    '{"name": "get_weather", "arguments": "\\ud800"}',
    '{"name": "get_weather", "arguments": {"days": ' + "[" * 3000 + "]" * 3000 + "}}",
    "",
    " ",
    "Paris is the capital of France.",
    "  leading and trailing  \n",
    '{"answer": 42}',
    '{"name": "unknown", "arguments": {}}',
    '{"name": "get_weather", "arguments": 7}',
    '{"name": 7}',
    '{"name": "get_weather", "arguments": {"city": ',
    '[{"name": "now"}, 7]',
    "[1, 2, 3]",
    "[]",
    "{}",
    "{",
    "[Paris]",
    f"It says {LLAMA}",
    "a < b and <b>bold</b>",
    "<tool_call>not JSON</tool_call>",
    "<tool_call>{'name': 'now'}</tool_call>",
    "<tool_call>",
    "<tool_",
    "[TOOL_CALLS]",
    "[TOOL_CALLS] no such thing {}",
    '[TOOL_CALLS]unknown[ARGS]{"a": 1}',
    "</tool_call>",
]


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_a_call_is_read_in_every_form_however_its_text_comes(
    text: str, expected: list[str | Call]
) -> None:
    assert read(text) == expected
    assert read(*text) == expected
    for at in range(1, len(text)):
        assert read(text[:at], text[at:]) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_stays_as_it_is(text: str) -> None:
    expected = [text] if text else []
    assert read(text) == expected
    assert read(*text) == expected


def test_a_call_behind_broken_ones_is_found() -> None:
    assert read(f'<tool_call>{{"name": <tool_call>{CALL}</tool_call>') == [
        '<tool_call>{"name":',
        PARIS,
    ]
    assert read(f'{{"name": "x"}} <tool_call>{CALL}</tool_call>') == ['{"name": "x"}', PARIS]


def test_ordinary_text_streams_and_only_what_may_be_a_call_is_held() -> None:
    reader = CallReader(NAMES)
    assert reader.push("Hel") == ["Hel"]
    assert reader.push("lo. ") == ["lo."]
    assert reader.held == 1
    assert reader.push("So") == [" So"]
    assert reader.push(" <") == []
    assert reader.push("b> <tool") == [" <b>"]
    assert reader.push("_call>") == []
    assert reader.held == len(" <tool_call>")
    assert reader.push(CALL[:-1]) == []
    assert reader.push("}") == [PARIS]
    assert reader.held == 0


def test_an_answer_in_json_streams_as_soon_as_it_cannot_be_a_call() -> None:
    reader = CallReader(NAMES)
    assert reader.push('{"n') == []
    assert reader.push('umber": ') == ['{"number":']
    assert reader.push("[1") == [" [1"]


@given(
    st.lists(
        st.sampled_from([*MARKS, CALL, LLAMA, "{", "}", "[", "]", '"', "\\", " ", "\n", "a", "now"])
    ),
    st.data(),
)
def test_how_text_is_cut_changes_nothing_and_text_is_never_lost(
    parts: list[str], data: st.DataObject
) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = read(*pieces)
    assert found == read(text)
    if not any(isinstance(each, Call) for each in found):
        assert "".join(str(each) for each in found) == text


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '<tool_call>' }}", FORMS[0][0]),
        ("{{ '<|tool_call|>' }}", FORMS[6][0].removesuffix("<|/tool_call|>")),
        ("{{ '[TOOL_CALLS]' + '[ARGS]' }}", FORMS[15][0]),
        ("{{ '[TOOL_CALLS]' }}", FORMS[13][0]),
        ('{{ \'{"name": , "parameters": }\' }}', LLAMA),
        ("", CALL),
    ],
)
def test_a_call_in_the_form_of_a_template_is_read_back(template: str, form: str) -> None:
    written = in_form(form_of(template), "get_weather", {"city": "Paris"})
    assert written == form
    assert read(written) == [PARIS]


def in_form(form: Form, name: str, arguments: dict[str, Any]) -> str:
    told = json.dumps(arguments)
    if form.named:
        return f"{form.before}{name}[ARGS]{told}{form.after}"
    return f'{form.before}{{"name": "{name}", "{form.key}": {told}}}{form.after}'
