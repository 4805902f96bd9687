import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.jsonline import MAX_DIGITS, LineError, hint, nesting, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4
    ),
    max_leaves=20,
)  # fmt: skip


def refusal(line: bytes, *, depth: int = 64) -> LineError:
    with pytest.raises(LineError) as caught:
        parse(line, depth=depth)
    return caught.value


@given(value=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES))
def test_every_json_object_is_read_as_it_was_written(value: dict[str, object]) -> None:
    for ascii_only in (True, False):
        line = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert parse(line) == (value, [])


@given(line=st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(line: bytes) -> None:
    try:
        value = parse(line).value
    except LineError:
        return
    assert isinstance(value, dict)


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        (
            b"",
            "invalid_json",
            "line contains invalid json: Expecting value: line 1 column 1 (char 0)",
        ),
        (b'{"a": 1', "invalid_json", "line contains invalid json: Expecting ',' delimiter"),
        (b'{"a": 1} {"b": 2}', "invalid_json", "line contains invalid json: Extra data"),
        (b"{'a': 1}", "invalid_json", "line contains invalid json: Expecting property name"),
        (b'{"a": "\t"}', "invalid_json", "line contains invalid json: Invalid control character"),
        (b"[1]", "not_a_dictionary", "line is not a JSON dictionary but an array"),
        (b'"text"', "not_a_dictionary", "line is not a JSON dictionary but a string"),
        (b"null", "not_a_dictionary", "line is not a JSON dictionary but null"),
        (b'{"a": "\x00"}', "nul_byte", "line contains a NUL byte at byte 8"),
        (b'{"a": "\xe9"}', "invalid_utf8", "line is not valid UTF-8: byte 0xe9 at byte 8"),
        (b'{"a": "\xc0\xaf"}', "invalid_utf8", "line is not valid UTF-8: byte 0xc0 at byte 8"),
        (b'{"a": "\xed\xa0\x80"}', "invalid_utf8", "line is not valid UTF-8: byte 0xed at byte 8"),
        (b'{"a": NaN}', "invalid_number", "line contains invalid json: NaN is no JSON number"),
        (b'{"a": -Infinity}', "invalid_number", "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "invalid_number", "line contains a number out of range: 1e999"),
        (b'{"a": -1e999}', "invalid_number", "line contains a number out of range: -1e999"),
        (b'{"a": "\\ud800"}', "lone_surrogate", "half of a surrogate pair"),
        (b'{"a": [{"b": "\\uDC00"}]}', "lone_surrogate", "half of a surrogate pair"),
        (b'{"\\ud800": 1}', "lone_surrogate", "line contains half of a surrogate pair"),
    ],
)
def test_what_is_not_strict_json_says_why(line: bytes, code: str, reason: str) -> None:
    error = refusal(line)
    assert error.code == code
    assert reason in error.reason
    assert error.fix


def test_a_lone_surrogate_has_a_key_path() -> None:
    assert refusal(rb'{"a": "\ud800"}').path == "a"
    assert refusal(rb'{"a": ["x", {"b": "\uDC00"}]}').path == "a[1].b"
    assert refusal(rb'{"a": {"\ud800": 1}}').path == "a"
    assert refusal(rb'{"a": {"\ud800": "\ud800"}}').path == "a"


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse(rb'{"a": "\ud83d\ude00"}').value == {"a": "\U0001f600"}


def test_a_number_of_thousands_of_digits_is_refused_before_it_is_computed() -> None:
    assert parse(b'{"a": %s}' % (b"9" * MAX_DIGITS)).value["a"] > 0
    assert refusal(b'{"a": %s}' % (b"9" * (MAX_DIGITS + 1))).code == "invalid_number"


@pytest.mark.parametrize("depth", [500, 5_000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused_and_never_fills_the_stack(
    depth: int, opening: bytes, closing: bytes
) -> None:
    line = b'{"a": ' + opening * depth + b"1" + closing * depth + b"}"
    error = refusal(line)
    assert error.code == "too_deep"
    assert error.reason == "line nests deeper than 64 levels"


def test_the_depth_limit_is_exact_and_brackets_in_text_do_not_count() -> None:
    line = b'{"a": [[1]], "b": "[[[[[[[["}'
    assert parse(line, depth=3).value["a"] == [[1]]
    assert refusal(line, depth=2).code == "too_deep"


def test_the_last_of_duplicate_keys_wins_and_is_named() -> None:
    value, repeated = parse(b'{"a": 1, "a": 2, "b": {"c": 1, "d": 2, "c": 3}}')
    assert value == {"a": 2, "b": {"c": 3, "d": 2}}
    assert sorted(repeated) == ["a", "c"]


@given(value=VALUES)
def test_nesting_counts_objects_and_arrays(value: object) -> None:
    assert nesting([value]) == nesting(value) + 1
    assert nesting({"a": value}) == nesting(value) + 1


@given(line=st.binary(max_size=300))
def test_a_hint_is_short_and_printable(line: bytes) -> None:
    assert hint(line).isprintable()
    assert len(hint(line)) <= 200
