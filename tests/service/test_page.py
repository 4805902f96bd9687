"""How much of a listing one answer holds."""

from hypothesis import given
from hypothesis import strategies as st

from ftd.service.page import clamp, cut


def test_no_limit_and_zero_are_the_default() -> None:
    assert [clamp(limit, 20, 100) for limit in (None, 0, -5)] == [20, 20, 20]


@given(st.integers(), st.integers(1, 1000), st.integers(1, 1000))
def test_a_page_is_never_empty_or_beyond_the_most(limit: int, default: int, most: int) -> None:
    assert 1 <= clamp(limit, default, most) <= most


def test_one_row_more_than_asked_for_says_that_there_is_more() -> None:
    assert cut((1, 2, 3), 2).data == (1, 2)
    assert cut((1, 2, 3), 2).has_more
    assert not cut((1, 2), 2).has_more
