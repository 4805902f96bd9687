"""The language model's head and its loss, in chunks: no tensor of all positions times all words.

Only the sources of predictions come here. Each chunk's logits are turned into their own gradient
where they stand, so that a step holds one chunk's of them and nothing is computed twice.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 2**25  # of logits in float32: 170 positions of a vocabulary of 49,152


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How a model makes logits of hidden states: scale * cap * tanh(hidden weight' / cap)."""

    weight: Tensor  # (words, width)
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(positions, width) to (positions, words), in float32 or wider."""
        logits = (hidden @ self.weight.T).to(_wide(hidden))
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits


def score(
    head: Head, hidden: Tensor, position: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums over predictions: of weight * nll, with its gradient, and of weight where the target is
    the likeliest word.

    `hidden` is (positions, width). A prediction is that `target` follows `position`, ascending,
    counted by `weight`; no two are of the same position and target. These three are on the CPU: to
    look into them must not wait for a device.
    """
    given = (hidden, head.weight, head, position, target, weight)
    nll, hits = _Score.apply(*given)  # type: ignore[no-untyped-call]
    return nll, hits


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head_weight: Tensor,
        head: Head,
        position: Tensor,
        target: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor]:
        wide = _wide(hidden)
        weight = weight.to(wide)
        back = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        back_head = torch.zeros_like(head_weight, dtype=wide) if ctx.needs_input_grad[1] else None
        nll, hits = hidden.new_zeros((), dtype=wide), hidden.new_zeros((), dtype=wide)
        for start, end in _chunks(len(hidden), len(head_weight)):
            part = slice(start, end)
            first, last = torch.searchsorted(position, torch.tensor([start, end])).tolist()
            here, device = slice(first, last), hidden.device
            at = (position[here] - start).to(device)
            words, counts = target[here].to(device), weight[here].to(device)
            logits = head.logits(hidden[part])
            top, likeliest = logits.max(dim=-1, keepdim=True)
            hits += ((likeliest[at, 0] == words) * counts).sum()
            slope = None if head.softcap is None or back is None else _slope(logits, head.softcap)
            aimed = logits[at, words]
            sums = logits.sub_(top).exp_().sum(dim=-1, keepdim=True)
            nll += ((top + sums.log())[at, 0].sub_(aimed) * counts).sum()
            if back is None:
                continue
            # d nll / d logits = weight of all targets * softmax - weight of each target
            total = hidden.new_zeros(len(logits), dtype=wide).index_add_(0, at, counts)
            grad = logits.mul_(total[:, None] / sums)
            grad[at, words] -= counts
            if slope is not None:
                grad.mul_(slope)
            if head.scale != 1.0:
                grad.mul_(head.scale)
            grad = grad.to(hidden.dtype)
            torch.mm(grad, head_weight.to(hidden.dtype), out=back[part])
            if back_head is not None:
                back_head += grad.T @ hidden[part]
        ctx.save_for_backward(back, back_head)
        ctx.mark_non_differentiable(hits)
        return nll, hits

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        back, back_head = ctx.saved_tensors
        return (
            None if back is None else back * grad.to(back.dtype),
            None if back_head is None else back_head * grad,
            None,
            None,
            None,
            None,
        )


def _chunks(positions: int, words: int) -> Iterator[tuple[int, int]]:
    """Equal parts of the positions: a small one would read all of the head for little."""
    count = max(1, math.ceil(positions * words * 4 / CHUNK_BYTES))
    borders = [positions * part // count for part in range(count + 1)]
    return pairwise(borders)


def _slope(logits: Tensor, cap: float) -> Tensor:
    """d logits / d uncapped logits, of capped ones."""
    return 1 - (logits / cap).square()


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(torch.float32, tensor.dtype)
