"""Evaluation: how well the model predicts examples that it is not trained on."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ftd.worker.train.budget import Budget
from ftd.worker.train.compute.tree import Tree
from ftd.worker.train.data import TokenFile
from ftd.worker.train.model import Model
from ftd.worker.train.packing import Padded

WINDOW = 256  # examples that are computed together: many, to share much; few, to hold little


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """`loss` in nats per trained token, `accuracy` the share of them that was the likeliest;
    each token counts by its weight."""

    loss: float
    accuracy: float


def evaluate(
    model: Model,
    file: TokenFile,
    examples: Sequence[int],
    budget: Budget,
    alive: Callable[[], None],
) -> Evaluation:
    """Score these examples, at least one; `alive` is called now and then.

    Training goes on afterwards as if nothing had been: its mode and its random numbers are kept.
    """

    def sums(passes: list[Tree | Padded]) -> tuple[float, float]:
        scores = [model.scorer.score(work) for work in passes]
        nll = torch.stack([score.nll for score in scores]).double().sum()
        hits = torch.stack([score.hits for score in scores]).double().sum()
        return float(nll), float(hits)

    total_nll = total_hits = total_weight = 0.0
    with _only_looking(model):
        for start in range(0, len(examples), WINDOW):
            window = examples[start : start + WINDOW]
            rows = [row for example in window for row in file[example]]
            nll, hits = budget.fit(rows, sums, keeps=False)
            total_nll += nll
            total_hits += hits
            total_weight += sum(float(row.weights[1:].sum()) for row in rows)
            alive()
    return Evaluation(loss=total_nll / total_weight, accuracy=total_hits / total_weight)


@contextlib.contextmanager
def _only_looking(model: Model) -> Iterator[None]:
    """No gradients, no dropout, and no random number drawn that training would have drawn."""
    was_training = model.network.training
    devices = [model.device] if model.device.type == "cuda" else []
    model.network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        model.network.train(was_training)
