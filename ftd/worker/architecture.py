"""What a model's own code asks for or depends on, that attention of ours must not overlook."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

# Tensors that a model may hand to its attention and that do not change it.
_HARMLESS = {"position_ids", "cache_position"}


def overlooked(
    module: nn.Module, other: Mapping[str, Any], attention_mask: object = None
) -> str | None:
    """What of an attention layer would be ignored by one that is causal and heeds neither a mask
    nor `other`, the rest of what it was called with; None: nothing."""
    ignored = {name for name, given in other.items() if isinstance(given, Tensor)} - _HARMLESS
    if attention_mask is not None:
        ignored.add("attention_mask")
    if ignored:
        return f"uses {', '.join(sorted(ignored))}"
    return None if getattr(module, "is_causal", True) else "is not causal"


def steady_tokens(config: Any, kinds: Collection[str]) -> int:
    """Up to which length a sequence's positions mean the same whatever else is in its pass: where
    rotary embeddings of these kinds change with the longest, that length; else no limit that
    matters."""
    steady = 2**31
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes, *(rope for rope in ropes.values() if isinstance(rope, dict))]:
        if rope.get("rope_type") in kinds:
            original = rope.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            steady = min(steady, original or config.max_position_embeddings)
    return steady
