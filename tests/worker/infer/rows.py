"""Rows that remember what they were told, and what transformers would have answered instead."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ftd.core.errors import FtdError
from ftd.worker.infer.batch import Batch
from ftd.worker.infer.model import Network

NEAR = 1e-3  # two logits that may change places by rounding


@dataclass
class Told:
    """A row that takes the likeliest token until it has `max_tokens` or meets `last`."""

    ids: list[int]
    max_tokens: int
    adapter: str | None = None
    owner: str = ""
    last: int | None = None
    greedy: bool = True
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    prompt: tuple[int, int] | None = None  # as `began` told it
    fault: FtdError | None = None

    def choose(self, logits: Tensor) -> int:
        return int(logits.argmax())

    def take(self, token: int) -> bool:
        self.tokens.append(token)
        return len(self.tokens) == self.max_tokens or token == self.last

    def began(self, prompt_tokens: int, cached_tokens: int) -> None:
        assert self.prompt is None, "it began twice"
        self.prompt = (prompt_tokens, cached_tokens)

    def failed(self, error: FtdError) -> None:
        assert self.fault is None, "it failed twice"
        self.fault = error


def new_batch(network: Network, rows: int = 8, adapters: int = 4, cache_tokens: int = 0) -> Batch:
    return Batch(network, SimpleNamespace(rows=rows, adapters=adapters, cache_tokens=cache_tokens))


def answered(batch: Batch, *rows: Any) -> list[list[int]]:
    """The tokens of requests of one row each that come at once."""
    for row in rows:
        batch.add([row])
    finish(batch)
    assert [row.fault for row in rows] == [None] * len(rows)
    return [row.tokens for row in rows]


def finish(batch: Batch) -> int:
    """Turn until nothing is left to do; how often."""
    turns = 0
    while batch.turn():
        turns += 1
        assert turns < 10_000
    assert batch.running == batch.waiting == 0
    return turns


@torch.inference_mode()
def greedy(model: Any, ids: Sequence[int], count: int) -> tuple[list[int], list[Tensor]]:
    """What `generate` answers alone, and the logits of each token."""
    out = model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences[0, len(ids) :].tolist(), [line[0] for line in out.logits]


def differences(
    ours: Sequence[Sequence[int]], theirs: Sequence[tuple[Sequence[int], Sequence[Tensor]]]
) -> Iterator[float]:
    """For each answer that is not the reference's: how far apart the two best logits of the
    reference lie where they part. Behind that place the two have different prompts."""
    for mine, (wanted, logits) in zip(ours, theirs, strict=True):
        for token, right, line in zip(mine, wanted, logits, strict=True):
            if token != right:
                best = line.topk(2).values
                yield float(best[0] - best[1])
                break


def assert_equal(
    ours: Sequence[Sequence[int]], theirs: Sequence[tuple[Sequence[int], Sequence[Tensor]]]
) -> None:
    """Token for token, but where the reference itself could as well have said the other."""
    apart = list(differences(ours, theirs))
    report = f"{len(apart)} of {len(ours)} answers differ, where logits are {apart} apart"
    assert all(gap < NEAR for gap in apart), report
