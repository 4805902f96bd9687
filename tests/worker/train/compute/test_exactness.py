"""Rows computed as a tree, as rectangles and one by one have the same loss and gradients."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ftd.worker.train.compute.proof import quickest
from ftd.worker.train.data import Row
from tests.worker.train.compute.architectures import ARCHITECTURES, build, gradients, measure


def row(ids: Sequence[int], weights: Sequence[float] | None = None) -> Row:
    counted = [0.0] + [1.0] * (len(ids) - 1) if weights is None else weights
    return Row(ids=np.array(ids, np.int32), weights=np.array(counted, np.float32))


SYSTEM = [5, 9, 33, 21, 8, 40]
TURN = [*SYSTEM, 17, 3, 50, 22, 41, 12]
CASES = {
    "strangers": [row([7, 8, 9, 10, 11]), row([20, 21, 22]), row(range(30, 45))],
    "one system prompt": [
        row([*SYSTEM, 17, 3, 50]),
        row([*SYSTEM, 18, 19, 44, 45]),
        row([*SYSTEM, 17, 30]),
    ],
    "weights": [
        row([*SYSTEM, 17, 3, 50], [0] * 6 + [0.5, 1.0, 0.25]),
        row([*SYSTEM, 17, 3, 51], [0] * 7 + [2.0, 1.0]),
        row(SYSTEM, [0, 0, 1, 0, 0, 1]),
    ],
    "turns of one conversation": [
        row(TURN, [0] * 8 + [1] * 4),
        row([*TURN, 25, 26, 27, 28], [0] * 14 + [1, 1]),
        row([*TURN, 25, 29, 31], [0] * 14 + [1]),
    ],
    "duplicates": [row(TURN), row(TURN), row(TURN, [0] * 6 + [0.5] * 6)],
    "one is the beginning of another": [row(SYSTEM), row(TURN), row(TURN[:9])],
    "several answers to one prompt": [
        row([*SYSTEM, answer, answer + 1, 2], [0] * 6 + [1, 1, 1]) for answer in (30, 32, 34, 36)
    ],
    "rows without a prediction": [row([4]), row(SYSTEM, [1, 0, 0, 0, 0, 0]), row([3, 4, 5])],
    "one long row among short ones": [
        row([*SYSTEM, *(3 + n * 7 % 50 for n in range(60))]),
        *(row([*SYSTEM, n, n + 1]) for n in range(20, 30)),
    ],
}
EVERY = [row for rows in CASES.values() for row in rows]


def ours(
    network: nn.Module, rows: Sequence[Row], budget: int, *, trees: bool
) -> tuple[float, dict[str, Tensor]]:
    scorer = quickest(network, torch.device("cpu"), autocast=False, trees=trees)
    assert (scorer.trees is not None) is trees
    assert scorer.head is not None
    total = 0.0
    network.zero_grad()
    for work in scorer.passes(rows, budget):
        score = scorer.score(work)
        torch.autograd.backward(score.nll)
        total += score.nll.item()
    return total, gradients(network)


def agree(
    found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]], bound: float
) -> None:
    assert found[0] == pytest.approx(expected[0], rel=bound)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        apart = (found[1][name] - gradient).norm() / gradient.norm()
        assert apart <= bound, f"{name}: {apart:.2g}"


@pytest.mark.parametrize(
    ("kind", "dtype", "bound"),
    [
        *((kind, torch.float64, 1e-10) for kind in ARCHITECTURES if kind != "cohere"),
        *((kind, torch.float32, 1e-5) for kind in ARCHITECTURES),
    ],
)
def test_every_architecture(kind: str, dtype: torch.dtype, bound: float) -> None:
    expected = measure(build(kind, torch.float64), EVERY)
    agree(ours(build(kind, dtype), EVERY, 10_000, trees=True), expected, bound)
    agree(ours(build(kind, dtype), EVERY, 70, trees=True), expected, bound)
    agree(ours(build(kind, dtype), EVERY, 70, trees=False), expected, bound)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_sharing(case: str, dtype: torch.dtype, bound: float) -> None:
    rows = CASES[case]
    expected = measure(build("mistral", torch.float64), rows)
    for budget in (10_000, 20, 1):
        agree(ours(build("mistral", dtype), rows, budget, trees=True), expected, bound)
