import itertools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.worker.train.compute.tree import grow
from ftd.worker.train.data import Row
from ftd.worker.train.packing import pad, share_out, split
from tests.worker.train.compute.test_tree import ROWS


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
    assert padded.source.tolist() == [1, 3]
    assert padded.target.tolist() == [7, 9]
    assert padded.weight.tolist() == [0.5, 2.0]


def test_a_weight_on_the_first_token_is_of_no_use() -> None:
    assert pad([row(5, 6, weights=[1, 1])]).target.tolist() == [6]


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


def trees(parts: list[list[Row]]) -> list[int]:
    return [len(grow(part)) for part in parts]


@given(ROWS, st.integers(1, 30))
def test_every_row_has_its_place_in_a_tree_that_fits(rows: list[Row], budget: int) -> None:
    parts = share_out(rows, budget)
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, rows))
    assert all(
        size <= budget or len(part) == 1 for size, part in zip(trees(parts), parts, strict=True)
    )


@given(ROWS, st.integers(1, 30), st.randoms())
def test_the_order_of_rows_does_not_matter(rows: list[Row], budget: int, dice: Any) -> None:
    shuffled = list(rows)
    dice.shuffle(shuffled)
    found = [
        [grow(part).ids.tolist() for part in share_out(each, budget)] for each in (rows, shuffled)
    ]
    assert found[0] == found[1]


def test_what_begins_alike_goes_together() -> None:
    rows = [row(start, *range(10, 20), end) for end in range(30, 34) for start in (1, 2)]
    parts = share_out(rows, 15)
    assert trees(parts) == [15, 15]
    assert [{int(row.ids[0]) for row in part} for part in parts] == [{1}, {2}]


def test_rows_without_a_common_beginning_are_fitted_best() -> None:
    rows = [row(*range(start, start + size)) for start, size in ((0, 6), (10, 5), (20, 4), (30, 5))]
    assert sorted(trees(share_out(rows, 10))) == [10, 10]
