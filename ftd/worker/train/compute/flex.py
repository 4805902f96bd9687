"""Attention over a tree in one compiled kernel, for GPUs: PyTorch's FlexAttention.

The kernel goes through the tree in squares of tokens and leaves out those that nobody sees. Which
these are follows from where the paths of their tokens end, without looking at every pair. It takes
some twenty seconds to compile, which only a long job repays.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.masking_utils import causal_mask_function

from ftd.worker.train.compute.attention import Nodes, Rule, Unsupported, Wish

SQUARE = 128  # tokens on a side


@functools.cache
def _kernel(*, compiled: bool) -> Callable[..., Tensor]:
    if not compiled:
        return flex_attention
    kernel: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)  # lengths vary
    return kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Flex:
    """A Pattern. Not compiled, it computes every pair, and has no way back on a CPU."""

    mask: BlockMask
    compiled: bool

    def attend(self, query: Tensor, key: Tensor, value: Tensor, wish: Wish) -> Tensor:
        """[1, heads, tokens, width] three times to [1, heads, tokens, width]."""
        if wish.dropout:
            raise Unsupported("attention with dropout")
        answer: Tensor = _kernel(compiled=self.compiled)(
            query,
            key,
            value,
            score_mod=None if wish.softcap is None else _capped(wish.softcap),
            block_mask=self.mask,
            scale=wish.scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return answer


def flex(nodes: Nodes, rule: Rule, *, compiled: bool = True) -> Flex:
    """The pattern of layers whose tokens see, of their ancestors, what `rule` lets them."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del batch, head
        return nodes.sees(rule, query, key)

    some, whole = _squares(nodes.end, plain=rule is causal_mask_function)
    size = len(nodes.end)
    mask = BlockMask.from_kv_blocks(
        *_listed(some & ~whole),
        *_listed(whole),
        BLOCK_SIZE=SQUARE,
        mask_mod=sees,
        seq_lengths=(size, size),
    )
    return Flex(mask=mask, compiled=compiled)


def _squares(end: Tensor, *, plain: bool) -> tuple[Tensor, Tensor]:
    """Of each square (queries down, keys across): whether any pair in it may be seen, and whether
    every one is. The latter is only found where tokens see all their ancestors."""
    size = len(end)
    count = -(-size // SQUARE)
    padded = end.new_zeros(count * SQUARE)
    padded[:size] = end
    latest = padded.view(count, SQUARE).amax(dim=1)
    padded[size:] = size
    earliest = padded.view(count, SQUARE).amin(dim=1)
    start = torch.arange(count, device=end.device) * SQUARE
    last = (start + SQUARE - 1).clamp(max=size - 1)
    some = (start[None, :] <= last[:, None]) & (latest[None, :] > start[:, None])
    whole = (last[None, :] < start[:, None]) & (earliest[None, :] > last[:, None])
    return some, whole if plain else torch.zeros_like(whole)


def _listed(squares: Tensor) -> tuple[Tensor, Tensor]:
    """How many squares there are in each row, and which, those first."""
    counts = squares.sum(dim=1, dtype=torch.int32)
    order = squares.int().argsort(dim=1, descending=True, stable=True).int()
    return counts[None, None], order[None, None]


@functools.cache
def _capped(cap: float) -> Callable[..., Any]:
    """Gemma 2's soft cap. One function for each cap: another would be compiled anew."""

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped
