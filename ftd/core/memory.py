"""How much memory training takes, and what that leaves room for: an estimate, told with its reason.

What is kept for the way back grows with the tokens of a pass; the rest is there for all of them.
Where even the longest example would not fit, activations are computed again on the way back: a
third more arithmetic, for a fraction of the memory.
"""

from dataclasses import dataclass

# Of one layer and token: the hidden states before and after both norms, what attention and
# feed-forward add to them, and their inputs; queries, keys and values thrice (as they are, in
# blocks, and what attention made of them); gate, up and their product. The second row is of a
# network that forgets what is cheap to compute again. Measured with SmolLM2-135M in float32: 1.48
# and 0.86 MB a token where this says 1.38 and 0.78.
_HIDDEN, _HEADS, _INNER = 8, 3, 3
_THRIFTY_HIDDEN, _THRIFTY_INNER = 2, 2
_SLACK = 1.15  # for that difference, and for memory that is free but in pieces

_ADAM = 4 + 4 + 8  # bytes of a trained parameter: itself in float32, its gradient, two moments
_BASE_BYTES = 3 * 2**28  # libraries, and a chunk of the head's logits
_CONTEXT_BYTES = 2**29  # what CUDA takes for itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A network's size: `queries` and `keys` are all heads' widths together."""

    layers: int
    hidden: int
    queries: int
    keys: int
    inner: int
    frozen_bytes: int
    trained: int  # parameters
    element_bytes: int  # of what it computes with
    thrifty: bool  # forgets what is cheap to compute again


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Tokens of one pass, whether activations are computed again, and why."""

    tokens: int
    recompute: bool
    reason: str


def fit(shape: Shape, *, memory_bytes: int, wanted: int, longest: int, cuda: bool) -> Fit:
    """As many tokens of a pass as fit, `wanted` at most. Where even the longest example does not
    fit, it is tried all the same, with activations computed again: it is never cut."""
    fixed = _BASE_BYTES + cuda * _CONTEXT_BYTES + shape.frozen_bytes + shape.trained * _ADAM
    masks = longest**2 // 2 * shape.element_bytes
    left = max(0, memory_bytes - fixed - masks)
    room = int(left / (kept_bytes(shape, recompute=False) * _SLACK))
    kept = f"{room:,} tokens fit into {memory_bytes / 2**30:.1f} GiB"
    if room >= longest:
        tokens = min(wanted, room)
        why = "as configured" if tokens == wanted else f"{kept} at a time"
        return Fit(tokens=tokens, recompute=False, reason=f"{tokens:,} tokens a pass ({why})")
    room = int(left / (kept_bytes(shape, recompute=True) * _SLACK))
    tokens = max(min(wanted, room), longest)
    return Fit(
        tokens=tokens,
        recompute=True,
        reason=f"{tokens:,} tokens a pass, with activations computed again ({kept} otherwise, and "
        f"the longest example has {longest:,})",
    )


def kept_bytes(shape: Shape, *, recompute: bool) -> int:
    """What one token keeps for the way back."""
    hidden, inner = (_THRIFTY_HIDDEN, _THRIFTY_INNER) if shape.thrifty else (_HIDDEN, _INNER)
    layer = hidden * shape.hidden + _HEADS * (shape.queries + shape.keys) + inner * shape.inner
    elements = layer + shape.layers * shape.hidden if recompute else layer * shape.layers
    return max(1, elements * shape.element_bytes)  # 1: of a network that does not say its size
