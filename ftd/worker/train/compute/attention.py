"""Attention along the paths of a tree: every token sees its ancestors and itself, nothing else.

The models are transformers' own; this is registered as one more way to attend and to make masks.
Which of its ancestors a layer lets a token see (all, a sliding window, its chunk) is the model's
own mask function, asked for depths where it is usually asked for places in a sequence. For in its
own row, a token's place is its depth.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ftd.worker.architecture import overlooked
from ftd.worker.train.compute.tree import Tree

NAME: Final = "ftd-tree"  # what transformers' registries know it by

# (batch, head, query, key) to whether the one sees the other: transformers' mask functions.
Rule = Callable[[Any, Any, Tensor, Tensor], Tensor]


class Unsupported(Exception):
    """The model asks its attention for something that is not done here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a layer asks for beside queries, keys and values."""

    scaling: float | None
    dropout: float
    softcap: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """A tree as attention needs it. `depth` and `end` are (tokens,), on the device; `dtype` is what
    the layers compute in."""

    tree: Tree
    depth: Tensor
    end: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, tree: Tree, device: torch.device, dtype: torch.dtype) -> "Nodes":
        return cls(
            tree=tree,
            depth=torch.from_numpy(tree.depth).to(device, non_blocking=True),
            end=torch.from_numpy(tree.end).to(device, non_blocking=True),
            dtype=dtype,
        )

    def sees(self, rule: Rule, query: Tensor, key: Tensor) -> Tensor:
        """Whether the tokens `query` see the tokens `key`; they are broadcast."""
        on_path = (key <= query) & (query < self.end[key])
        return on_path & rule(0, 0, self.depth[query], self.depth[key])


class Pattern(Protocol):
    """What the layers of one kind see: the model hands it to its attention as the mask."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, wish: Wish) -> Tensor:
        """[1, heads, tokens, width] three times to [1, heads, tokens, width]."""
        ...


# Makes what the layers see whose mask is given by a rule.
Maker = Callable[[Rule], Pattern]

_current: ContextVar[Maker] = ContextVar("maker")


@contextmanager
def attending(maker: Maker) -> Iterator[None]:
    """Within it, the layers of models that attend as NAME see what `maker` makes."""
    token = _current.set(maker)
    try:
        yield
    finally:
        _current.reset(token)


def _make_mask(*, mask_function: Rule, **_: Any) -> Pattern:
    """transformers asks for the mask of one kind of layers."""
    return _current.get()(mask_function)


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
    if (what := overlooked(module, other)) is not None:
        raise Unsupported(f"its attention {what}")
    wish = Wish(scaling=scaling, dropout=dropout, softcap=softcap)
    answer = attention_mask.attend(query, key, value, wish)
    return answer.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _make_mask)
