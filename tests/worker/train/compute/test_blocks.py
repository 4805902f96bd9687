from itertools import accumulate, pairwise

import pytest
from hypothesis import given

from ftd.worker.train.compute import blocks
from ftd.worker.train.compute.blocks import cut
from ftd.worker.train.compute.tree import Tree, grow
from ftd.worker.train.data import Row
from tests.worker.train.compute.test_tree import ROWS, row


def layout(tree: Tree) -> list[tuple[list[int], list[int]]]:
    """Of each block, its queries and its keys."""
    plan = cut(tree)
    borders = [0, *accumulate(plan.pieces)]
    assert borders[-1] == len(tree)

    def tokens(piece: int) -> list[int]:
        return list(range(borders[piece], borders[piece + 1]))

    found = []
    for block in plan.blocks:
        own = [token for piece in range(block.first, block.last) for token in tokens(piece)]
        above = [token for piece in block.above for token in tokens(piece)]
        found.append((own, above + own))
    return found


@given(ROWS)
def test_every_token_is_asked_once_and_finds_all_that_it_sees(rows: list[Row]) -> None:
    tree = grow(rows)
    found = layout(tree)
    assert [query for queries, _ in found for query in queries] == list(range(len(tree)))
    for queries, keys in found:
        assert keys == sorted(set(keys))
        for query in queries:
            assert {*tree.path(query).tolist(), query} <= set(keys)


@given(ROWS)
def test_keys_above_a_block_are_above_all_of_it(rows: list[Row]) -> None:
    tree = grow(rows)
    for queries, keys in layout(tree):
        for key in set(keys) - set(queries):
            assert all(key in tree.path(query) for query in queries)


def test_strangers_that_are_long_do_not_meet() -> None:
    tree = grow([row(*range(start, start + 100)) for start in (0, 100, 200)])
    assert layout(tree) == [
        (list(range(a, b)), list(range(a, b))) for a, b in pairwise([0, 100, 200, 300])
    ]


def test_short_answers_to_one_prompt_are_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = grow([row(*range(200), answer, 1, 2) for answer in range(210, 220)])
    (prompt, _), (answers, keys) = layout(tree)
    assert prompt == list(range(200))
    assert answers == list(range(200, 230))
    assert keys == list(range(230))
    monkeypatch.setattr(blocks, "CALL_PAIRS", 0)
    assert len(layout(tree)) == 11


def test_long_runs_are_cut_so_that_less_than_the_square_is_computed() -> None:
    size = 4 * blocks.LONGEST
    found = layout(grow([row(*range(size))]))
    assert [len(queries) for queries, _ in found] == [blocks.LONGEST] * 4
    assert sum(len(queries) * len(keys) for queries, keys in found) == 0.625 * size**2
