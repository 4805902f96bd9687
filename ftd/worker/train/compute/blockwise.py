"""Attention over a tree, block by block: on any device, with no kernel but the usual ones."""

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from ftd.worker.train.compute.attention import Nodes, Rule, Wish
from ftd.worker.train.compute.blocks import Block, cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One block of a tree for the layers of one kind. `mask` is (queries, keys): what to add to the
    scores, 0 or -inf; None where it is just causal."""

    block: Block
    mask: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blockwise:
    """A Pattern."""

    lengths: tuple[int, ...]  # of the pieces
    parts: tuple[Part, ...]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, wish: Wish) -> Tensor:
        """[1, heads, tokens, width] three times to [1, heads, tokens, width]."""
        # Split once: the gradients of many overlapping slices would each be as long as all.
        queries, keys, values = (
            each.split_with_sizes(self.lengths, dim=2) for each in (query, key, value)
        )
        answers = []
        for part in self.parts:
            own = slice(part.block.first, part.block.last)
            above = part.block.above
            answers.append(
                _look(
                    torch.cat(queries[own], dim=2),
                    torch.cat([*(keys[piece] for piece in above), *keys[own]], dim=2),
                    torch.cat([*(values[piece] for piece in above), *values[own]], dim=2),
                    part.mask,
                    wish,
                )
            )
        return torch.cat(answers, dim=2)


def blockwise(nodes: Nodes, rule: Rule) -> Blockwise:
    """The pattern of layers whose tokens see, of their ancestors, what `rule` lets them."""
    plan = cut(nodes.tree)
    starts = [0, *accumulate(plan.pieces)]
    places = torch.arange(starts[-1], device=nodes.end.device)
    parts = []
    for block in plan.blocks:
        queries = places[starts[block.first] : starts[block.last]]
        above = [places[starts[piece] : starts[piece + 1]] for piece in block.above]
        keys = torch.cat([*above, queries])
        parts.append(Part(block=block, mask=_mask(nodes, rule, queries, keys)))
    return Blockwise(lengths=plan.pieces, parts=tuple(parts))


def _mask(nodes: Nodes, rule: Rule, queries: Tensor, keys: Tensor) -> Tensor | None:
    seen = nodes.sees(rule, queries[:, None], keys[None, :])
    if len(queries) == len(keys) and bool((seen == (keys <= queries[:, None])).all()):
        return None
    mask = torch.zeros(seen.shape, dtype=nodes.dtype, device=seen.device)
    return mask.masked_fill_(~seen, -math.inf)


def _look(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, wish: Wish) -> Tensor:
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


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, wish: Wish) -> Tensor:
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
