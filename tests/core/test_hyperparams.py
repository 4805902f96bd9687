"""The published rules of "auto", as a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.hyperparams import Requested, resolve


@pytest.mark.parametrize(
    ("examples", "n_epochs", "batch_size"),
    [
        (1, 25, 1),
        (10, 10, 1),  # seen at OpenAI
        (33, 3, 1),
        (34, 3, 1),
        (100, 3, 1),  # seen at OpenAI
        (101, 3, 1),  # seen at OpenAI: 303 steps
        (4_102, 3, 8),
        (8_333, 3, 16),
        (8_334, 2, 16),
        (25_000, 1, 50),
        (1_000_000, 1, 256),
    ],
)
def test_auto(examples: int, n_epochs: int, batch_size: int) -> None:
    chosen = resolve(Requested(), examples)
    assert (chosen.n_epochs, chosen.batch_size) == (n_epochs, batch_size)
    assert chosen.learning_rate_multiplier == 1.0


def test_what_was_asked_for_is_kept_and_said() -> None:
    asked = Requested(n_epochs=7, batch_size=2, learning_rate_multiplier=0.5)
    chosen = resolve(asked, 1000)
    assert (chosen.n_epochs, chosen.batch_size, chosen.learning_rate_multiplier) == (7, 2, 0.5)
    assert chosen.reasons == (
        "n_epochs 7 (as asked)",
        "batch_size 2 (as asked)",
        "learning_rate_multiplier 0.5 (as asked)",
    )


def test_every_automatic_value_has_its_reason() -> None:
    assert resolve(Requested(), 4_102).reasons[1] == "batch_size 8 (auto: 0.2% of 4,102 examples)"


@given(st.integers(1, 10**9))
def test_auto_stays_within_what_a_request_may_ask_for(examples: int) -> None:
    chosen = resolve(Requested(), examples)
    assert 1 <= chosen.n_epochs <= 50
    assert 1 <= chosen.batch_size <= 256
