"""A prefix tree of rows: what several rows begin with is computed once, and counts for each.

The distinct prefixes of all rows are the tokens of one sequence, in depth-first order. So the
tokens that a token may see, those before it in its row, are its ancestors: j sees what i is below
exactly when i <= j < end[i]. A token's position is its depth.

    rows        a b c    a b d e    x
    ids         a b c d e x
    depth       0 1 2 2 3 0
    parent      - 0 1 1 3 -
    end         5 5 3 5 5 6

The loss is a list of predictions: from the token `source`, that `target` comes next, counted by
`weight`. Where rows part, one source predicts several targets; where several rows are trained on
the same prediction, its weight is the sum of theirs. So loss and gradient are those of the rows
computed one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ftd.worker.train.data import Row

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """`ids`, `depth`, `parent` (-1 for none) and `end` are (tokens,); `source`, which is ascending,
    `target` and `weight` are (predictions,)."""

    ids: Indices
    depth: Indices
    parent: Indices
    end: Indices
    source: Indices
    target: Indices
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, token: int) -> Indices:
        """The tokens above `token`, from the first of its row."""
        above = np.arange(token)
        return above[self.end[:token] > token]


def grow(rows: Sequence[Row]) -> Tree:
    """The tree of these rows, at least one; it depends on the rows and not on their order."""
    ordered = sort(rows)
    room = sum(len(row.ids) for row in rows)
    ids, depth, parent, end = (np.empty(room, np.int64) for _ in range(4))
    counted = np.zeros(room, np.float64)
    path = np.empty(0, np.int64)
    size = 0
    for row, shared in zip(ordered, shared_with_previous(ordered), strict=True):
        end[path[shared:]] = size  # nothing more comes below what this row does not share
        length = len(row.ids)
        fresh = np.arange(size, size + length - shared)
        path = np.concatenate([path[:shared], fresh])
        ids[fresh] = row.ids[shared:]
        depth[fresh] = np.arange(shared, length)
        parent[fresh] = np.concatenate([[-1], path])[shared:length]
        counted[fresh] = 0.0
        counted[path] += row.weights
        size += len(fresh)
    end[path] = size
    # Nothing predicts the first token of a row.
    predicted = np.flatnonzero((counted[:size] != 0) & (depth[:size] > 0))
    predicted = predicted[np.argsort(parent[predicted], kind="stable")]
    return Tree(
        ids=ids[:size],
        depth=depth[:size],
        parent=parent[:size],
        end=end[:size],
        source=parent[predicted],
        target=ids[predicted],
        weight=counted[predicted].astype(np.float32),
    )


def sort(rows: Sequence[Row]) -> list[Row]:
    """Rows in an order in which those that begin alike stand together."""
    return sorted(rows, key=lambda row: (row.ids.tobytes(), row.weights.tobytes()))


def shared_with_previous(ordered: Sequence[Row]) -> list[int]:
    """Of each row, how many of its first tokens the row before it begins with too."""
    shared = [0] if ordered else []
    for previous, row in pairwise(ordered):
        length = min(len(previous.ids), len(row.ids))
        differs = previous.ids[:length] != row.ids[:length]
        shared.append(int(differs.argmax()) if differs.any() else length)
    return shared
