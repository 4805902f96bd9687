"""Attention along the paths of a tree: every token sees its ancestors and itself, nothing else.

The models are transformers' own; this is registered as one more way to attend and to make masks.
Which of its ancestors a layer lets a token see (all, a sliding window, its chunk) is the model's
own mask function, asked for depths where it is usually asked for places in a sequence. For in its
own row, a token's place is its depth.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from ftd.worker.train.compute.blocks import Block, Cut, cut
from ftd.worker.train.compute.tree import Tree

NAME: Final = "ftd-tree"  # what transformers' registries know it by

# Tensors that a model may hand to its attention and that do not change it.
_HARMLESS = {"position_ids", "cache_position"}

Rule = Callable[[int, int, Tensor, Tensor], Tensor]


class Unsupported(Exception):
    """The model asks its attention for something that is not done here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One block of a tree for the layers of one kind. `mask` is (queries, keys): what to add to the
    scores, 0 or -inf; None where it is just causal."""

    block: Block
    mask: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """What the layers of one kind see: the model hands it to its attention as the mask."""

    lengths: tuple[int, ...]
    parts: tuple[Part, ...]


class Walk:
    """One forward pass over a tree: the patterns that its layers ask for, each made once."""

    def __init__(self, tree: Tree, device: torch.device, dtype: torch.dtype) -> None:
        self._cut: Cut = cut(tree)
        self._depth = torch.from_numpy(tree.depth).to(device)
        self._end = torch.from_numpy(tree.end).to(device)
        self._dtype = dtype

    def pattern(self, rule: Rule) -> Pattern:
        starts = [0]
        for length in self._cut.pieces:
            starts.append(starts[-1] + length)
        places = torch.arange(starts[-1], device=self._depth.device)
        parts = []
        for block in self._cut.blocks:
            queries = places[starts[block.first] : starts[block.last]]
            above = [places[starts[piece] : starts[piece + 1]] for piece in block.above]
            keys = torch.cat([*above, queries])
            parts.append(Part(block=block, mask=self._mask(rule, queries, keys)))
        return Pattern(lengths=self._cut.pieces, parts=tuple(parts))

    def _mask(self, rule: Rule, queries: Tensor, keys: Tensor) -> Tensor | None:
        query, key = queries[:, None], keys[None, :]
        seen = (key <= query) & (query < self._end[keys][None, :])
        seen = seen & rule(0, 0, self._depth[queries][:, None], self._depth[keys][None, :])
        if len(queries) == len(keys) and bool((seen == (key <= query)).all()):
            return None
        return torch.zeros(seen.shape, dtype=self._dtype, device=seen.device).masked_fill(
            ~seen, -math.inf
        )


_current: ContextVar[Walk] = ContextVar("walk")


@contextmanager
def walking(walk: Walk) -> Iterator[None]:
    """Within it, models that attend as NAME compute this tree."""
    token = _current.set(walk)
    try:
        yield
    finally:
        _current.reset(token)


def _make_mask(*, mask_function: Rule, **_: Any) -> Pattern:
    """transformers asks for the mask of one kind of layers."""
    return _current.get().pattern(mask_function)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Pattern,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """[1, heads, tokens, width] three times to [1, tokens, heads, width], as transformers calls it.

    Raises Unsupported for what would be ignored.
    """
    ignored = {name for name, given in other.items() if isinstance(given, Tensor)} - _HARMLESS
    if ignored or not getattr(module, "is_causal", True):
        raise Unsupported(f"attention with {', '.join(sorted(ignored)) or 'no causal order'}")
    # Split once: the gradients of many overlapping slices would each be as long as the sequence.
    queries, keys, values = (
        each.split_with_sizes(attention_mask.lengths, dim=2) for each in (query, key, value)
    )
    answers = []
    for part in attention_mask.parts:
        own = slice(part.block.first, part.block.last)
        answers.append(
            _look(
                torch.cat(queries[own], dim=2),
                torch.cat([*(keys[piece] for piece in part.block.above), *keys[own]], dim=2),
                torch.cat([*(values[piece] for piece in part.block.above), *values[own]], dim=2),
                part.mask,
                _Wish(scaling=scaling, dropout=dropout, softcap=softcap),
            )
        )
    return torch.cat(answers, dim=2).transpose(1, 2).contiguous(), None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What a layer asks for beside queries, keys and values."""

    scaling: float | None
    dropout: float
    softcap: float | None


def _look(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, wish: _Wish) -> Tensor:
    if wish.softcap is not None:
        return _capped(query, key, value, mask, wish)
    if mask is not None and query.is_cuda:  # its quick kernels do not share keys under a mask
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=wish.dropout,
        is_causal=mask is None,
        scale=wish.scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, wish: _Wish) -> Tensor:
    """Gemma 2's soft cap, which no kernel of torch knows: scores end at +-softcap."""
    cap = wish.softcap
    assert cap is not None
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    scaling = wish.scaling if wish.scaling is not None else 1 / math.sqrt(query.shape[-1])
    scores = torch.tanh(query @ key.mT * (scaling / cap)) * cap
    if mask is None:
        size = query.shape[2]
        unseen = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(unseen, -math.inf)
    else:
        scores = scores + mask
    wide = torch.promote_types(torch.float32, query.dtype)
    weights = torch.softmax(scores, dim=-1, dtype=wide).to(query.dtype)
    return functional.dropout(weights, wish.dropout) @ value


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _make_mask)
