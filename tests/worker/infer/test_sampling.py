import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ftd.core.chat import Sampling
from ftd.worker.infer.sampling import LEAST, Sampler, likely

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -3.0])


def sampler(seed: int = 7, **settings: Any) -> Sampler:
    return Sampler(Sampling(**settings), seed)


def shares(drawn: list[int]) -> list[float]:
    counts = Counter(drawn)
    return [counts[token] / len(drawn) for token in range(len(LOGITS))]


def draws(count: int = 4000, logits: Tensor = LOGITS, **settings: Any) -> list[float]:
    chooser = sampler(**settings)
    return shares([chooser.choose(logits) for _ in range(count)])


@pytest.mark.parametrize("temperature", [0.0, 1e-9])
def test_cold_is_the_likeliest_token(temperature: float) -> None:
    assert sampler(temperature=temperature).greedy
    assert sampler(temperature=temperature).choose(LOGITS) == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_by_their_chances(temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, dim=-1)
    assert draws(temperature=temperature) == pytest.approx(expected.tolist(), abs=0.03)


def test_a_nucleus_is_the_fewest_tokens_with_the_mass() -> None:
    chances = torch.softmax(LOGITS, dim=-1)  # 0.57, 0.21, 0.13, 0.08, 0.00
    found = draws(top_p=0.7)
    assert found[2:] == [0, 0, 0]
    assert found[0] == pytest.approx(float(chances[0] / chances[:2].sum()), abs=0.03)
    assert draws(top_p=0.0) == [1, 0, 0, 0, 0]


def test_a_nucleus_is_of_the_tempered_distribution() -> None:
    assert draws(top_p=0.6)[1] > 0, "0.57 of the mass is not enough"
    assert draws(top_p=0.6, temperature=0.5)[1] == 0, "0.83 is"


def test_a_wide_nucleus_is_found_too() -> None:
    logits = torch.zeros(5000)
    chooser = sampler(top_p=0.5)
    drawn = {chooser.choose(logits) for _ in range(3000)}
    assert 1000 < len(drawn) <= 2501


def test_penalties_count_what_was_taken() -> None:
    chooser = sampler(temperature=0, frequency_penalty=0.3, presence_penalty=0.5)
    assert not chooser.greedy
    chosen = []
    for _ in range(6):
        chosen.append(chooser.choose(LOGITS))
        chooser.take(chosen[-1])
    # 2, 1.2, 0.9 for the first token; then 1 against 0.9, and so on.
    assert chosen == [0, 0, 1, 0, 0, 2]


def test_bias_is_added() -> None:
    assert sampler(temperature=0, logit_bias={3: 100}).choose(LOGITS) == 3
    assert sampler(temperature=0, logit_bias={0: -100}).choose(LOGITS) == 1
    assert draws(logit_bias={0: -100})[0] == 0


def test_nothing_changes_the_logits_that_came() -> None:
    logits = LOGITS.clone()
    chooser = sampler(logit_bias={1: 5}, presence_penalty=1, top_p=0.9)
    for _ in range(3):
        chooser.take(chooser.choose(logits, torch.tensor([True, False, True, True, True])))
    assert torch.equal(logits, LOGITS)


def test_only_what_is_allowed_is_chosen() -> None:
    allowed = torch.tensor([False, False, True, False, True])
    assert sampler(temperature=0).choose(LOGITS, allowed) == 2
    chooser = sampler()
    assert {chooser.choose(LOGITS, allowed) for _ in range(500)} == {2, 4}
    with pytest.raises(ValueError, match="no token can be chosen"):
        sampler().choose(LOGITS, torch.zeros(5, dtype=torch.bool))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_numbers_that_are_none_choose_nothing(broken: float) -> None:
    with pytest.raises(ValueError, match="no token can be chosen"):
        sampler().choose(torch.tensor([1.0, broken]))


@given(st.integers(-(2**63), 2**64), st.floats(0.01, 2), st.floats(0, 1))
def test_a_seed_draws_the_same_again(seed: int, temperature: float, top_p: float) -> None:
    logits = torch.linspace(-3, 3, 500)
    first, second = (sampler(seed, temperature=temperature, top_p=top_p) for _ in range(2))
    assert [first.choose(logits) for _ in range(5)] == [second.choose(logits) for _ in range(5)]


def test_rounding_does_not_change_what_a_seed_draws() -> None:
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    first, second = sampler(temperature=0.9, top_p=0.9), sampler(temperature=0.9, top_p=0.9)
    for step in range(200):
        noise = torch.randn(5000, generator=torch.Generator().manual_seed(step)) * 1e-6
        assert first.choose(logits) == second.choose(logits + noise)


def test_seeds_differ() -> None:
    logits = torch.zeros(5000)
    assert len({sampler(seed).choose(logits) for seed in range(20)}) > 15


def test_logprobs_are_of_the_logits_as_they_came() -> None:
    logprob, top = likely(LOGITS, 3, 2)
    expected = torch.log_softmax(LOGITS, dim=-1).tolist()
    assert logprob == pytest.approx(expected[3])
    assert [token for token, _ in top] == [0, 1]
    assert [chance for _, chance in top] == pytest.approx(expected[:2])
    assert likely(LOGITS, 0, 0)[1] == []
    assert len(likely(LOGITS, 0, 20)[1]) == 5
    assert likely(torch.tensor([0.0, -torch.inf]), 1, 2) == (LEAST, [(0, 0.0), (1, LEAST)])
