"""Flex attention, without its compiler: that needs a GPU."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from ftd.worker.train.compute import flex as module
from ftd.worker.train.compute.flex import _squares, flex
from ftd.worker.train.compute.proof import quickest
from ftd.worker.train.compute.tree import grow
from ftd.worker.train.data import Row
from tests.worker.train.compute.architectures import build
from tests.worker.train.compute.test_exactness import EVERY, row
from tests.worker.train.compute.test_tree import ROWS

LONG = [row([*(3 + n * 7 % 50 for n in range(150)), end, *range(4, 60)]) for end in range(4, 9)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gemma3_text", "qwen3"])
def test_it_gives_what_blocks_give(kind: str) -> None:
    blocks = quickest(build(kind, torch.float64), torch.device("cpu"), autocast=False)
    blocks.network.eval()
    squares = replace(blocks, trees=partial(flex, compiled=False))
    tree = grow([*LONG, *EVERY])
    assert len(tree) > 3 * module.SQUARE
    with torch.no_grad():
        expected, found = (each.logits(tree, np.arange(len(tree))) for each in (blocks, squares))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(rows=ROWS)
def test_no_square_is_left_out_that_somebody_sees(rows: list[Row]) -> None:
    tree = grow(rows)
    end = torch.from_numpy(tree.end)
    at = torch.arange(len(tree))
    seen = (at[None, :] <= at[:, None]) & (at[:, None] < end[None, :])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SQUARE", 2)
        some, whole = _squares(end, plain=True)
    for query in range(len(some)):
        for key in range(len(some)):
            square = seen[2 * query : 2 * query + 2, 2 * key : 2 * key + 2]
            assert some[query, key] or not square.any()
            assert not whole[query, key] or square.all()
    assert not _squares(end, plain=False)[1].any()
