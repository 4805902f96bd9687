"""Requests say one thing to every reader, or are refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftd.core import strict

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def parse(text: bytes) -> Any:
    return strict.parse(text, values=100, depth=8)


@settings(deadline=None)
@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_json_is_read_as_everybody_reads_it(told: Any, indent: int | None, in_ascii: bool) -> None:
    text = json.dumps(told, indent=indent, ensure_ascii=in_ascii)
    assert strict.parse(text.encode(), values=1000, depth=100) == told


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "EOF"),
        (b"NaN", "line 1"),
        (b'"\\ud800"', "hex escape"),
        (b'{"a": 1, "b": {"a": 2}, "a": 3}', "it has the key a more than once"),
        (b'[{"a": "a\\":", "\\u0061": 1}]', "it has the key a more than once"),
        (b"[1e999]", "it has a number that is out of range"),
        (b'{"a": -1E+999}', "it has a number that is out of range"),
        (b"9" * 250 + b"e99", "it has a number that is out of range"),
        (b"9" * 400 + b".5", "it has a number that is out of range"),
        (b"[" * 9 + b"]" * 9, "it nests deeper than 8 levels"),
        (b"[" + b"1," * 101 + b"1]", "it has more than 100 values"),
    ],
)
def test_what_readers_disagree_about_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


@pytest.mark.parametrize("text", ["1e308", "[" * 8 + "]" * 8, '"1e999"', "1e-999", "9" * 300])
def test_what_is_only_just_right_is_taken(text: str) -> None:
    assert parse(text.encode()) == json.loads(text)
