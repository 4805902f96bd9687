import itertools
import random

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from ftd.worker.train.data import Row
from ftd.worker.train.packing import Padded, pad, split


def row(*ids: int, weights: list[float] | None = None) -> Row:
    counted = weights if weights is not None else [0.0] + [1.0] * (len(ids) - 1)
    return Row(ids=np.array(ids, np.int32), weights=np.array(counted, np.float32))


def lengths(parts: list[list[Row]]) -> list[list[int]]:
    return [[len(row.ids) for row in part] for part in parts]


def rows_of(*sizes: int) -> list[Row]:
    return [row(*range(size)) for size in sizes]


def test_pad_marks_the_position_before_each_trained_token() -> None:
    padded = pad([row(5, 6, 7, weights=[0, 0, 0.5]), row(8, 9, weights=[0, 2])])
    assert padded.ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert padded.scored.tolist() == [[False, True, False], [True, False, False]]
    assert padded.targets.tolist() == [7, 9]
    assert padded.weights.tolist() == [0.5, 2.0]


def test_a_weight_on_the_first_token_is_of_no_use() -> None:
    assert pad([row(5, 6, weights=[1, 1])]).targets.tolist() == [6]


def test_rows_of_like_length_share_a_pass() -> None:
    assert lengths(split(rows_of(10, 100, 11, 98), 1000, 16)) == [[100, 98], [11, 10]]


def test_short_rows_fill_up_where_a_pass_costs_more_than_their_padding() -> None:
    assert lengths(split(rows_of(10, 12, 11), 1000, 16)) == [[12, 11, 10]]


def test_no_pass_exceeds_the_budget_unless_a_row_alone_does() -> None:
    assert lengths(split(rows_of(40, 40, 40, 90), 80, 1000)) == [[90], [40], [40, 40]]


def test_no_rows_need_no_pass() -> None:
    assert split([], 100, 16) == []


@pytest.mark.parametrize("seed", range(30))
def test_the_split_is_the_cheapest_of_all(seed: int) -> None:
    """Against every way to cut up to 8 sorted rows into runs."""
    dice = random.Random(seed)
    rows = rows_of(*(dice.randint(1, 60) for _ in range(dice.randint(1, 8))))
    budget, start = dice.randint(40, 200), dice.randint(0, 60)

    def cost(parts: list[list[int]]) -> float:
        padded = [max(part) * len(part) for part in parts]
        fits = all(
            tokens <= budget or len(part) == 1 for tokens, part in zip(padded, parts, strict=True)
        )
        return sum(padded) + start * len(parts) if fits else float("inf")

    ordered = sorted((len(row.ids) for row in rows), reverse=True)
    ways = []
    for size in range(len(ordered)):
        for cuts in itertools.combinations(range(1, len(ordered)), size):
            edges = [0, *cuts, len(ordered)]
            ways.append([ordered[a:b] for a, b in itertools.pairwise(edges)])
    parts = split(rows, budget, start)
    assert cost(lengths(parts)) == min(cost(way) for way in ways)
    assert sorted(id(row) for part in parts for row in part) == sorted(id(row) for row in rows)


def test_a_padded_row_gets_the_logits_that_it_gets_alone(tiny: LlamaForCausalLM) -> None:
    short, long = row(5, 6, 7), row(*range(20, 40))

    def logits(padded: Padded) -> torch.Tensor:
        with torch.no_grad():
            return tiny(
                input_ids=torch.from_numpy(padded.ids),
                logits_to_keep=torch.from_numpy(padded.scored),
            ).logits

    together = logits(pad([short, long]))
    torch.testing.assert_close(together[:2], logits(pad([short])), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[2:], logits(pad([long])), atol=1e-5, rtol=1e-5)
