"""Packing: the rows of one step become a few rectangles of tokens, padded as little as pays.

Padding is on the right and needs no attention mask: causal attention never looks ahead, so a real
token cannot see the padding after it, and nothing is scored there. An all-ones mask would only
cost the fast path; position ids that restart would be taken for several packed documents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ftd.worker.train.data import Row

PADDING = 0  # any token will do: padding is neither seen nor scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """A rectangle of tokens for one forward pass, and what to score in it.

    `ids` is (rows, width). `scored` has its shape and marks each position whose next token counts;
    `targets` are those next tokens and `weights` what each counts, both (scored,) in row order.
    """

    ids: npt.NDArray[np.int64]
    scored: npt.NDArray[np.bool_]
    targets: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


def pad(rows: Sequence[Row]) -> Padded:
    """One rectangle of all these rows. Row.weights[t] is what predicting token t counts."""
    shape = (len(rows), max(len(row.ids) for row in rows))
    ids = np.full(shape, PADDING, dtype=np.int64)
    counts = np.zeros(shape, dtype=np.float32)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
        counts[index, 1 : len(row.ids)] = row.weights[1:]  # nothing predicts a first token
    following = counts != 0
    scored = np.zeros(shape, dtype=np.bool_)
    scored[:, :-1] = following[:, 1:]
    return Padded(ids=ids, scored=scored, targets=ids[following], weights=counts[following])


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
