"""Attention for sequences of any lengths in one pass, without padding and without masks.

A turn lays the new tokens of all its sequences behind one another, [1, T]; everything in the model
but attention treats tokens alike. Here each sequence looks at its own keys and values alone. The
function is registered with transformers' AttentionInterface, so the models are transformers' own.

Right:  one query per sequence, all its keys: no mask, and the query heads of a group side by side
Wrong:  sequences padded to the longest, with a mask: 16 sequences of 512 took 427 us a layer on two
        cores, one by one 16 x 26 us
"""

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from ftd.worker.architecture import overlooked
from ftd.worker.infer.cache import KeyValues

NAME: Final = "ftd"  # what the registry of transformers knows it by


class NotServable(Exception):
    """The model asks its attention for something that is not done here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a layer asks for beside queries, keys and values."""

    scaling: float | None
    window: int | None  # tokens that a token sees, itself included
    softcap: float | None


class Attending(Protocol):
    """What stands behind the attention layers of a forward pass."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, wish: Wish) -> Tensor:
        """One layer: [1, heads, T, width] three times, [1, T, heads, width] back."""


_current: ContextVar[Attending] = ContextVar("attending")


def attending(behind: Attending, work: Callable[[], Any]) -> Any:
    """What `work` returns, a forward pass whose attention layers are answered by `behind`."""
    token = _current.set(behind)
    try:
        return work()
    finally:
        _current.reset(token)


class Span:
    """The tokens that one sequence has in a turn: `count` of them, behind those it knows.

    Room for them is reserved before.
    """

    def __init__(self, known: KeyValues, count: int) -> None:
        past = len(known.tokens)
        self.count = count
        self.past = past
        new = known.buffer[:, :, :, past : past + count]
        seen = known.buffer[:, :, :, : past + count]
        self.new = new.unbind(0)  # by layer: [2, heads, count, width]
        self.keys = seen[:, 0:1].unbind(0)  # by layer: [1, heads, past + count, width]
        self.values = seen[:, 1:2].unbind(0)
        self._masks: dict[int | None, Tensor] = {}

    def mask(self, window: int | None, device: torch.device) -> Tensor:
        """Which of the keys that `first` leaves each new token may see: [count, keys]."""
        if window not in self._masks:
            first = self.first(window)
            at = torch.arange(self.past, self.past + self.count, device=device)[:, None]
            keys = torch.arange(first, self.past + self.count, device=device)[None, :]
            mask = keys <= at
            self._masks[window] = mask if window is None else mask & (keys > at - window)
        return self._masks[window]

    def first(self, window: int | None) -> int:
        """The first key that any of the new tokens sees."""
        return 0 if window is None else max(0, self.past + 1 - window)


class Turn:
    """One pass over the new tokens of several sequences. Its layers come in order."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._lengths = [span.count for span in spans]
        self._layer = 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, wish: Wish) -> Tensor:
        """Write the new keys and values, and let each sequence look at its own."""
        layer = self._layer
        self._layer += 1
        fresh = torch.stack((key[0], value[0])).split_with_sizes(self._lengths, dim=2)
        asked = query.split_with_sizes(self._lengths, dim=2)
        answers = []
        for span, part, new in zip(self._spans, asked, fresh, strict=True):
            span.new[layer].copy_(new)
            answers.append(_look(span, layer, part, wish))
        return (answers[0] if len(answers) == 1 else torch.cat(answers)).unsqueeze(0)


def _look(span: Span, layer: int, query: Tensor, wish: Wish) -> Tensor:
    """[1, heads, count, width] -> [count, heads, width]."""
    keys, values = span.keys[layer], span.values[layer]
    if first := span.first(wish.window):
        keys, values = keys[:, :, first:], values[:, :, first:]
    heads, width = query.shape[1], query.shape[3]
    groups = keys.shape[1]
    if wish.softcap is not None:
        return _capped(span, query, keys, values, wish)
    if span.count == 1:
        # The heads that share a key are rows of one query: no key is copied, no mask is needed.
        folded = query.reshape(1, groups, heads // groups, width)
        answer = functional.scaled_dot_product_attention(folded, keys, values, scale=wish.scaling)
        return answer.reshape(1, heads, width)
    whole = span.past == 0 and (wish.window is None or span.count <= wish.window)
    if not whole and query.is_cuda:  # its quick kernels do not share keys under a mask
        keys = keys.repeat_interleave(heads // groups, dim=1)
        values = values.repeat_interleave(heads // groups, dim=1)
    answer = functional.scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=None if whole else span.mask(wish.window, query.device),
        is_causal=whole,
        scale=wish.scaling,
        enable_gqa=keys.shape[1] != heads,
    )
    return answer[0].transpose(0, 1)


def _capped(span: Span, query: Tensor, keys: Tensor, values: Tensor, wish: Wish) -> Tensor:
    """Gemma 2's soft cap, which no kernel of torch knows: scores end at +-softcap."""
    cap, count = wish.softcap, span.count
    assert cap is not None
    heads, width = query.shape[1], query.shape[3]
    groups = keys.shape[1]
    scaling = wish.scaling if wish.scaling is not None else 1 / math.sqrt(width)
    folded = query.reshape(groups, heads // groups * count, width)
    scores = torch.tanh(torch.bmm(folded, keys[0].mT) * scaling / cap) * cap
    if count > 1:
        unseen = ~span.mask(wish.window, query.device).repeat(heads // groups, 1)
        scores = scores.masked_fill(unseen, -math.inf)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.bmm(weights, values[0]).reshape(heads, count, width).transpose(0, 1)


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' models call it. Raises NotServable for what would be ignored."""
    if (what := overlooked(module, other, attention_mask)) is not None:
        raise NotServable(f"its attention {what}")
    wish = Wish(scaling=scaling, window=sliding_window, softcap=softcap)
    return _current.get().attend(query, key, value, wish), None


AttentionInterface.register(NAME, _forward)
