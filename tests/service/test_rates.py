"""A bucket for each key."""

import pytest

from ftd.core.errors import FtdError, Kind
from ftd.service.actor import Actor
from ftd.service.rates import Rates

ADMIN = Actor(project="default", name="admin")
FIRST = Actor(project="default", name="a", key_id="1")
SECOND = Actor(project="default", name="a", key_id="2")


def refused(rates: Rates, actor: Actor) -> FtdError | None:
    counted = rates.count(actor)
    assert counted is not None
    return counted.refused


def test_each_key_has_its_own_and_is_told_when_there_is_more() -> None:
    now = 0.0
    rates = Rates(2, lambda: now)
    for actor in (ADMIN, FIRST, SECOND):
        assert [refused(rates, actor) for _ in range(2)] == [None, None]
        error = refused(rates, actor)
        assert error is not None
        assert (error.kind, error.code, error.retry_s) == (
            Kind.RATE_LIMITED, "rate_limit_exceeded", 30,
        )  # fmt: skip
    now = 30.0
    assert refused(rates, FIRST) is None
    assert refused(rates, FIRST) is not None


@pytest.mark.parametrize("actor", [ADMIN, FIRST])
def test_no_limit_counts_nothing(actor: Actor) -> None:
    assert Rates(0, lambda: 0.0).count(actor) is None
