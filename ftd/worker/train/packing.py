"""Packing: the rows of one step become as few forward passes as fit into the device's memory.

Rows that share a prefix go together, for a tree of them (see tree) computes it once. A model that
cannot compute trees gets rectangles instead, of rows of similar length, padded on the right. Such
padding needs no attention mask: causal attention never looks ahead, so a real token cannot see
the padding after it, and nothing is scored there. An all-ones mask would only cost the fast path;
position ids that restart would be taken for several packed documents.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ftd.worker.train.compute.tree import shared_with_previous, sort
from ftd.worker.train.data import Row

PADDING = 0  # any token will do: padding is neither seen nor scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """A rectangle of tokens for one forward pass, and what to score in it.

    `ids` is (rows, width). `source`, ascending, are positions in it, counted row by row, whose next
    token counts; `target` are those next tokens and `weight` what each counts: (predictions,).
    """

    ids: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]


def pad(rows: Sequence[Row]) -> Padded:
    """One rectangle of all these rows. Row.weights[t] is what predicting token t counts."""
    shape = (len(rows), max(len(row.ids) for row in rows))
    ids = np.full(shape, PADDING, dtype=np.int64)
    counts = np.zeros(shape, dtype=np.float32)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
        counts[index, 1 : len(row.ids)] = row.weights[1:]  # nothing predicts a first token
    predicted = np.flatnonzero(counts)
    return Padded(
        ids=ids,
        source=predicted - 1,
        target=ids.ravel()[predicted],
        weight=counts.ravel()[predicted],
    )


@dataclass(slots=True)
class _Pass:
    """Rows that are computed together: their ranks in sorted order, and their tree's tokens."""

    ranks: list[int] = field(default_factory=list)
    tokens: int = 0


def share_out(rows: Sequence[Row], budget_tokens: int) -> list[list[Row]]:
    """Share rows out over passes whose trees have at most `budget_tokens` tokens each.

    Best fit, longest row first: a row goes where it adds least, of equals where least room is left.
    One that is longer than the budget has a pass of its own. The result depends on the rows alone.
    """
    ordered = sort(rows)
    shared = np.array(shared_with_previous(ordered), np.int64)
    passes: list[_Pass] = []
    for rank in sorted(range(len(ordered)), key=lambda rank: (-len(ordered[rank].ids), rank)):
        length = len(ordered[rank].ids)
        best: tuple[int, int, _Pass] | None = None
        for candidate in passes:
            added = length - _shared(shared, candidate.ranks, rank)
            room = budget_tokens - candidate.tokens - added
            if room >= 0 and (best is None or (added, room) < best[:2]):
                best = (added, room, candidate)
        if best is None:
            best = (length, 0, _Pass())
            passes.append(best[2])
        insort(best[2].ranks, rank)
        best[2].tokens += best[0]
    return [[ordered[rank] for rank in each.ranks] for each in passes]


def _shared(shared: npt.NDArray[np.int64], ranks: list[int], rank: int) -> int:
    """How many first tokens the row of `rank` has in common with any of `ranks`: with the nearest
    of them on either side, as the rows are sorted."""
    at = bisect_left(ranks, rank)
    before = int(shared[ranks[at - 1] + 1 : rank + 1].min()) if at > 0 else 0
    after = int(shared[rank + 1 : ranks[at] + 1].min()) if at < len(ranks) else 0
    return max(before, after)


def split(rows: Sequence[Row], budget_tokens: int, pass_tokens: int) -> list[list[Row]]:
    """Share rows out over forward passes so that their cost is least.

    A pass costs its padded tokens plus `pass_tokens`, what starting it is worth in tokens. None has
    more than `budget_tokens` padded tokens, but a row that is longer alone has a pass of its own.
    The result depends on the rows alone: longest first, equals in the order given. Rows of similar
    length go together, so the best split cuts the sorted rows into runs, found by dynamic
    programming in O(rows * rows of a pass).
    """
    ordered = sorted(rows, key=lambda row: -len(row.ids))
    cost = [0.0]  # of the first n ordered rows
    begins = [0]  # where the last run of the first n ordered rows begins
    for end in range(1, len(ordered) + 1):
        best = (math.inf, 0)
        for begin in range(end - 1, -1, -1):
            padded = (end - begin) * len(ordered[begin].ids)
            if padded > budget_tokens and begin < end - 1:
                break
            best = min(best, (cost[begin] + padded + pass_tokens, begin))
        cost.append(best[0])
        begins.append(best[1])
    runs: list[list[Row]] = []
    end = len(ordered)
    while end:
        runs.append(ordered[begins[end] : end])
        end = begins[end]
    return runs[::-1]
