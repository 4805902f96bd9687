"""Which queries of a tree look at which keys together, so that little is computed in vain.

Tokens stand in depth-first order, so the keys of a run of tokens are the ancestors of its first
one and the run itself. One block over everything would compute the square of the tree's size; one
for each token would cost more in calls than in arithmetic. Between them the best cut is found by
dynamic programming over the places where rows part.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ftd.worker.train.compute.tree import Tree

# What a call for one block costs, forward and backward, in pairs of a query and a key: measured on
# two cores with nine heads of 64 (125 us, and 49 ns a pair).
CALL_PAIRS = 2500
LONGEST = 256  # tokens of a run without a branch: half of the pairs of a longer one are in vain
TRIED = 64  # pieces that a block may be made of


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Queries: the pieces of a tree from `first` to before `last`. Keys: the pieces `above`, which
    every query has in its path, and then the queries' own."""

    first: int
    last: int
    above: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """`pieces` are the lengths of runs without a branch that make up the tree, in order; `blocks`
    cover them all."""

    pieces: tuple[int, ...]
    blocks: tuple[Block, ...]


def cut(tree: Tree) -> Cut:
    """The blocks of a tree that cost least."""
    borders = _borders(tree)
    above = [tree.depth[start] for start in borders[:-1]]  # how many ancestors
    cost = np.zeros(len(borders))  # of the pieces before each border
    begins = np.zeros(len(borders), np.int64)
    for last in range(1, len(borders)):
        first = np.arange(max(0, last - TRIED), last)
        queries = borders[last] - borders[first]
        pairs = queries * (queries + np.asarray(above)[first])
        total = cost[first] + pairs + CALL_PAIRS
        best = int(total.argmin())
        cost[last], begins[last] = total[best], first[best]
    spans = []
    last = len(borders) - 1
    while last:
        spans.append((int(begins[last]), last))
        last = int(begins[last])
    blocks = tuple(
        Block(first=first, last=last, above=_above(tree, borders, first))
        for first, last in reversed(spans)
    )
    pieces = tuple(int(end - start) for start, end in pairwise(borders))
    return Cut(pieces=pieces, blocks=blocks)


def _borders(tree: Tree) -> npt.NDArray[np.int64]:
    """Where pieces begin, and the end of the last: wherever a token does not follow its parent,
    after a token that has several children, and within long runs."""
    size = len(tree)
    follows = tree.parent == np.arange(size) - 1
    borders = set(np.flatnonzero(~follows).tolist()) | {0, size}
    parents, children = np.unique(tree.parent[tree.parent >= 0], return_counts=True)
    borders |= set((parents[children > 1] + 1).tolist())
    for start, end in pairwise(sorted(borders)):
        borders |= set(range(start, end, LONGEST))
    return np.array(sorted(borders), np.int64)


def _above(tree: Tree, borders: npt.NDArray[np.int64], piece: int) -> tuple[int, ...]:
    """The pieces that are above this one: each is passed whole, for it has no branch."""
    start = borders[piece]
    return tuple(np.flatnonzero(tree.end[borders[:piece]] > start).tolist())
