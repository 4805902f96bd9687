from dataclasses import replace

import pytest

from ftd.core.memory import Shape, fit, kept_bytes

GIB = 2**30
SMOL = Shape(
    layers=30, hidden=576, queries=576, keys=192, inner=1536,
    frozen_bytes=538_000_000, trained=4_884_480, element_bytes=4, thrifty=False,
)  # fmt: skip
LLAMA_8B = Shape(
    layers=32, hidden=4096, queries=4096, keys=1024, inner=14336,
    frozen_bytes=16_060_000_000, trained=41_943_040, element_bytes=2, thrifty=False,
)  # fmt: skip


def test_what_a_token_keeps_is_near_to_what_was_measured() -> None:
    assert kept_bytes(SMOL, recompute=False) == pytest.approx(1.48e6, rel=0.15)
    thrifty = replace(SMOL, thrifty=True)
    assert kept_bytes(thrifty, recompute=False) == pytest.approx(0.86e6, rel=0.15)


def test_memory_that_is_plenty_leaves_the_budget_as_it_was_set() -> None:
    found = fit(SMOL, memory_bytes=24 * GIB, wanted=8192, longest=500, cuda=False)
    assert (found.tokens, found.recompute) == (8192, False)
    assert found.reason == "8,192 tokens a pass (as configured)"


def test_less_memory_means_fewer_tokens() -> None:
    found = fit(SMOL, memory_bytes=4 * GIB, wanted=8192, longest=500, cuda=False)
    assert 500 < found.tokens < 2500
    assert not found.recompute
    assert "fit into 4.0 GiB" in found.reason


def test_long_examples_of_a_large_model_are_computed_again_on_the_way_back() -> None:
    found = fit(LLAMA_8B, memory_bytes=24 * GIB, wanted=8192, longest=8192, cuda=True)
    assert (found.tokens, found.recompute) == (8192, True)
    assert "computed again" in found.reason
    assert "the longest example has 8,192" in found.reason


def test_an_example_is_never_cut_to_the_budget() -> None:
    for memory in (0, 4 * GIB, 80 * GIB):
        assert fit(SMOL, memory_bytes=memory, wanted=100, longest=700, cuda=False).tokens >= 100
    assert fit(SMOL, memory_bytes=0, wanted=100, longest=700, cuda=False).tokens == 700


@pytest.mark.parametrize("memory", range(0, 40, 3))
def test_more_memory_is_never_worse(memory: int) -> None:
    less, more = (
        fit(LLAMA_8B, memory_bytes=size * GIB, wanted=8192, longest=2048, cuda=True)
        for size in (memory, memory + 3)
    )
    assert (not more.recompute, more.tokens) >= (not less.recompute, 0)
    if more.recompute == less.recompute:
        assert more.tokens >= less.tokens
