"""What is cheap to compute again is not kept for the way back.

A normed hidden state is kept by every layer that multiplies it, and so is the product that a gated
layer multiplies; together they are a third of all that a step would keep. Within `thrifty` they are
forgotten, and made again from what is kept anyway, when they are asked for.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

Make = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How to make a tensor again, as long as that is still alive and what it was."""

    tensor: weakref.ref[Tensor]
    version: int
    make: Make

    def makes(self, other: Tensor) -> bool:
        tensor = self.tensor()
        return (
            tensor is not None
            and (tensor.numel(), tensor.dtype) == (other.numel(), other.dtype)
            and tensor._version == other._version == self.version  # noqa: SLF001 - it is documented
            and tensor.is_contiguous()
            and other.is_contiguous()
        )


@dataclass(frozen=True, slots=True)
class _Forgotten:
    recipe: _Recipe
    shape: torch.Size


@dataclass(slots=True)
class _Pass:
    """One way there and back. `last` was made again last: several layers ask for it in a row."""

    recipes: dict[int, _Recipe] = field(default_factory=dict)  # by address
    last: tuple[_Recipe, Tensor] | None = None

    def pack(self, kept: Tensor) -> Tensor | _Forgotten:
        recipe = self.recipes.get(kept.data_ptr())
        if recipe is None or not recipe.makes(kept):
            return kept
        return _Forgotten(recipe, kept.shape)

    def unpack(self, kept: Tensor | _Forgotten) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        if self.last is None or self.last[0] is not kept.recipe:
            self.last = None
            with torch.no_grad():
                self.last = (kept.recipe, kept.recipe.make())
        return self.last[1].view(kept.shape)


_current: ContextVar[_Pass | None] = ContextVar("pass", default=None)


@contextmanager
def thrifty() -> Iterator[None]:
    """Within it, what `cheap` was told of is not kept."""
    this = _Pass()
    token = _current.set(this)
    try:
        with torch.autograd.graph.saved_tensors_hooks(this.pack, this.unpack):
            yield
    finally:
        this.recipes.clear()  # what is forgotten has its own; the others would keep what they need
        _current.reset(token)


def cheap(tensor: Tensor, make: Make) -> Tensor:
    """`tensor`, of which `make` makes another one, bit for bit, without gradient."""
    this = _current.get()
    if this is not None and tensor.requires_grad:
        recipe = _Recipe(weakref.ref(tensor), tensor._version, make)  # noqa: SLF001 - as above
        this.recipes[tensor.data_ptr()] = recipe
    return tensor
