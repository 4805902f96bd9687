"""A bucket: a minute's worth at once, and no more than that over time."""

from hypothesis import given
from hypothesis import strategies as st

from ftd.core.rates import Bucket


def test_a_minutes_worth_at_once_and_then_one_by_one() -> None:
    bucket = Bucket.full(6, 100.0)
    assert [bucket.take(100.0) for _ in range(7)] == [True] * 6 + [False]
    assert bucket.next_s == 10
    assert bucket.full_s == 60
    assert not bucket.take(109.0)
    assert bucket.take(110.0)
    assert not bucket.take(110.0)
    assert [bucket.take(1000.0) for _ in range(7)] == [True] * 6 + [False]


@given(st.integers(1, 100), st.lists(st.floats(0, 30), max_size=300))
def test_no_stretch_of_time_lets_more_in_than_its_share(rate: int, pauses: list[float]) -> None:
    bucket, now, let_in = Bucket.full(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        let_in += bucket.take(now)
        assert let_in <= rate + rate * now / 60 + 1e-6
