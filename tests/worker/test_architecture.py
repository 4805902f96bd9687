from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ftd.worker.architecture import overlooked, steady_tokens

LONG = {"rope_type": "longrope"}
KINDS = {"longrope", "dynamic"}


@pytest.mark.parametrize(
    ("ropes", "original", "steady"),
    [
        ({"rope_type": "default"}, None, 2**31),
        (None, None, 2**31),
        (LONG | {"original_max_position_embeddings": 16}, None, 16),
        (LONG, 16, 16),  # as in Phi 3, whose configuration has it beside
        ({"rope_type": "dynamic"}, None, 64),
        ({"full_attention": LONG, "sliding_attention": {"rope_type": "default"}}, 16, 16),
    ],
)
def test_positions_that_change_with_the_length(ropes: Any, original: Any, steady: int) -> None:
    beside = {} if original is None else {"original_max_position_embeddings": original}
    config = SimpleNamespace(rope_parameters=ropes, max_position_embeddings=64, **beside)
    assert steady_tokens(config, KINDS) == steady
    assert steady_tokens(config, ()) == 2**31


def test_what_an_attention_layer_asks_for() -> None:
    layer, given = nn.Module(), torch.zeros(1)
    assert overlooked(layer, {"position_ids": given, "output_attentions": False}) is None
    assert overlooked(layer, {"s_aux": given, "bias": given}) == "uses bias, s_aux"
    assert overlooked(layer, {}, attention_mask=object()) == "uses attention_mask"
    layer.is_causal = False  # type: ignore[assignment]
    assert overlooked(layer, {}) == "is not causal"
