"""How many values a text of JSON holds, said before it is read."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftd.core import jsonline
from ftd.core.amount import holds_more, keys

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def values(told: Any) -> int:
    match told:
        case dict():
            return 1 + sum(1 + values(held) for held in told.values())
        case list():
            return 1 + sum(map(values, told))
        case _:
            return 1


@settings(deadline=None)
@given(JSON, st.sampled_from([None, 1]))
def test_nothing_is_missed(told: Any, indent: int | None) -> None:
    text = json.dumps(told, indent=indent).encode()
    assert holds_more(values(told) - 1, text)


@settings(deadline=None)
@given(JSON)
def test_what_stands_in_strings_does_not_count(told: Any) -> None:
    """But for one at the end, where nothing more comes."""
    text = json.dumps(json.dumps(told)).encode()
    assert not holds_more(2, text)


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_can_be_counted(data: bytes) -> None:
    assert not holds_more(len(data), data)


@pytest.mark.parametrize("text", [b"[1,1,1]", b'["a","b","c"]', b"[[],[],[]]", b'{"a":1,"b":[]}'])
def test_more_is_more(text: bytes) -> None:
    assert holds_more(3, text)


@settings(deadline=None)
@given(JSON, st.sampled_from([None, 1]))
def test_keys_are_counted_in_the_text_as_in_what_it_says(told: Any, indent: int | None) -> None:
    assert keys(json.dumps(told, indent=indent).encode()) == jsonline.keys(told)


@settings(deadline=None)
@given(JSON)
def test_a_key_that_is_there_twice_counts_twice(told: Any) -> None:
    text = f'{{"a": {json.dumps(told)}, "a": [":"]}}'
    assert keys(text.encode()) == jsonline.keys(json.loads(text)) + jsonline.keys(told) + 1
    assert jsonline.repeated(text) == ["a"]
