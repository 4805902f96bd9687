"""The language model's head and its loss, in chunks: no tensor of all positions times all words.

Only the sources of predictions come here. Each chunk's logits are turned into their own gradient
where they stand, so that a step holds one chunk's of them and nothing is computed twice.
"""

import math
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import Any

import torch
from torch import Tensor

from ftd.worker.train.compute.product import times

# Of logits in float32. CPU: 170 positions of a vocabulary of 49,152, which stay in its cache. CUDA:
# enough to keep it busy, 1,024 positions of a vocabulary of 131,072.
CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**29}


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How a model makes logits of hidden states: cap * tanh(scale * hidden weight' / cap)."""

    weight: Tensor  # (words, width)
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(positions, width) to (positions, words), in float32 or wider."""
        return self.of(hidden, self.weight)

    def of(self, hidden: Tensor, matrix: Tensor) -> Tensor:
        """The same with a `matrix` that is the weight in another precision."""
        logits = times(hidden, matrix).to(_wide(hidden))
        if self.scale != 1.0:
            logits = logits.mul_(self.scale)
        if self.softcap is not None:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def before(self, grad: Tensor, slope: Tensor | None) -> Tensor:
        """The gradient of logits, in place, as that of the product that they were made of."""
        if slope is not None:
            grad.mul_(slope)
        return grad.mul_(self.scale) if self.scale != 1.0 else grad


def score(
    head: Head, hidden: Tensor, position: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums over predictions: of weight * nll, with its gradient, and of weight where the target is
    the likeliest word.

    `hidden` is (positions, width). A prediction is that `target` follows `position`, ascending,
    counted by `weight`; no two are of the same position and target. These three are on the CPU: to
    look into them must not wait for a device.
    """
    # Inside, gradients are never on.
    given = (hidden, head.weight, head, position, target, weight, torch.is_grad_enabled())
    nll, hits = _Score.apply(*given)  # type: ignore[no-untyped-call]
    return nll, hits


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        matrix: Tensor,
        head: Head,
        position: Tensor,
        target: Tensor,
        weight: Tensor,
        trained: bool,
    ) -> tuple[Tensor, Tensor]:
        device, wide = hidden.device, _wide(hidden)
        back = torch.empty_like(hidden) if trained and ctx.needs_input_grad[0] else None
        back_matrix = (
            torch.zeros_like(matrix, dtype=wide) if trained and ctx.needs_input_grad[1] else None
        )
        nll, hits = hidden.new_zeros((), dtype=wide), hidden.new_zeros((), dtype=wide)
        computed = _computed(hidden)
        low, narrow = matrix.to(computed), hidden.to(computed)  # once, whatever autocast would do
        borders = _borders(len(hidden), len(matrix), CHUNK_BYTES[device.type])
        cuts = torch.searchsorted(position, torch.tensor(borders)).tolist()
        position, target = (each.to(device, non_blocking=True) for each in (position, target))
        weight = weight.to(device, wide, non_blocking=True)
        for (start, end), here in zip(
            pairwise(borders), starmap(slice, pairwise(cuts)), strict=True
        ):
            at, words, counts = position[here] - start, target[here], weight[here]
            logits = head.of(narrow[start:end], low)
            top, likeliest = logits.max(dim=-1, keepdim=True)
            hits += ((likeliest[at, 0] == words) * counts).sum()
            slope = None if head.softcap is None else _slope(logits, head.softcap)
            aimed = logits[at, words]
            sums = logits.sub_(top).exp_().sum(dim=-1, keepdim=True)
            nll += ((top + sums.log())[at, 0].sub_(aimed) * counts).sum()
            if back is None and back_matrix is None:
                continue
            # d nll / d logits = weight of all targets * softmax - weight of each target
            total = hidden.new_zeros(len(logits), dtype=wide).index_add_(0, at, counts)
            grad = logits.mul_(total[:, None] / sums)
            grad[at, words] -= counts
            grad = head.before(grad, slope).to(computed)
            if back is not None:
                back[start:end] = times(grad, low.T)
            if back_matrix is not None:
                back_matrix += grad.T @ narrow[start:end]
        ctx.save_for_backward(back, back_matrix)
        ctx.mark_non_differentiable(hits)
        return nll, hits

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        back, back_matrix = ctx.saved_tensors
        return (
            None if back is None else back * grad.to(back.dtype),
            None if back_matrix is None else back_matrix * grad,
            *[None] * 5,
        )


def _borders(positions: int, words: int, chunk_bytes: int) -> list[int]:
    """Of equal chunks: a small one would read all of the head for little."""
    count = max(1, math.ceil(positions * words * 4 / chunk_bytes))
    return [positions * part // count for part in range(count + 1)]


def _computed(hidden: Tensor) -> torch.dtype:
    """What products are computed in."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _slope(logits: Tensor, cap: float) -> Tensor:
    """d logits / d uncapped logits, of capped ones."""
    return 1 - (logits / cap).square()


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(torch.float32, tensor.dtype)
