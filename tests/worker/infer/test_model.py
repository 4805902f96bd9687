import copy
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from ftd.core.errors import FtdError
from ftd.core.spec import ServeSpec
from ftd.worker.infer import attention, model
from ftd.worker.infer.attention import NotServable
from tests.starter import starter_model
from tests.worker.infer.conftest import network_of
from tests.worker.infer.rows import Told, answered, assert_equal, greedy, new_batch

SMALL: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE = {**SMALL, "head_dim": 16}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
}
PHI3 = {**SMALL, "rope_parameters": LONGROPE, "original_max_position_embeddings": 96}


def built(name: str, **settings: Any) -> Any:
    torch.manual_seed(3)
    config = getattr(transformers, name)(**settings)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("LlamaConfig", SMALL),
        ("Qwen2Config", {**SMALL, "use_sliding_window": True, "sliding_window": 8}),
        ("Qwen3Config", WIDE),
        ("Gemma2Config", {**WIDE, "sliding_window": 8, "attn_logit_softcapping": 1.0}),
        ("Gemma3TextConfig", {**WIDE, "sliding_window": 8, "layer_types": ALTERNATING}),
        ("MistralConfig", {**SMALL, "sliding_window": 8}),
        ("Phi3Config", PHI3),
        ("SmolLM3Config", SMALL),
        ("GPTNeoXConfig", {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
        ("MixtralConfig", {**SMALL, "num_local_experts": 4}),
        ("GPT2Config", {"vocab_size": 259, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    ],
)
def test_an_architecture_answers_as_before(name: str, settings: dict[str, Any]) -> None:
    module = built(name, **settings)
    network = network_of(copy.deepcopy(module))
    prompts = [[(7 * at + start) % 250 + 3 for at in range(count)] for start, count in PROMPTS]
    theirs = [greedy(module, ids, 24) for ids in prompts]
    ours = answered(new_batch(network), *(Told(ids, 24) for ids in prompts))
    assert_equal(ours, theirs)


PROMPTS = ((0, 40), (100, 3), (50, 17))


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("MambaConfig", {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2}, "0 of"),
        ("Lfm2Config", {**SMALL, "full_attn_idxs": [1, 3]}, "2 of its 4 layers"),
        ("GptOssConfig", {**WIDE, "num_local_experts": 4}, "uses s_aux"),
        ("BloomConfig", {"vocab_size": 259, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "0 of"),
        ("Llama4TextConfig", {**WIDE, "num_local_experts": 2}, "in chunks"),
    ],
)
def test_an_architecture_that_cannot_be_served_is_refused(
    name: str, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(FtdError, match=reason) as caught:
        network_of(built(name, **settings))
    assert caught.value.code == "unsupported_model"
    assert "cannot be served here" in caught.value.message


def test_a_model_that_mixes_its_tokens_outside_attention_is_refused(
    plain: LlamaForCausalLM,
) -> None:
    """As a convolution over time does: to it, two sequences side by side are one."""

    class Mixing(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            before = nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]
            mixed: torch.Tensor = self.inner(hidden + 0.1 * before)
            return mixed

    module = copy.deepcopy(plain)
    module.model.layers[0].mlp = Mixing(module.model.layers[0].mlp)
    with pytest.raises(FtdError, match="batched turns differ from plain ones"):
        network_of(module)


def test_windows_that_layers_do_not_ask_for_are_refused(plain: LlamaForCausalLM) -> None:
    """No trial with short prompts would show it."""
    module = copy.deepcopy(plain)
    module.config.sliding_window = 4096
    with pytest.raises(FtdError, match="layers see all tokens, not 4096"):
        network_of(module)


def test_positions_that_change_with_the_length_limit_it() -> None:
    module = built("Phi3Config", **PHI3)
    assert network_of(module, context_tokens=8192).context_tokens == 96


def test_the_context_is_the_smaller_of_both(plain: LlamaForCausalLM) -> None:
    assert network_of(copy.deepcopy(plain), 100).context_tokens == 100
    assert network_of(copy.deepcopy(plain), 10_000).context_tokens == 512


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_starter_model_loads_and_is_proven(dtype: str) -> None:
    spec = ServeSpec(
        model=starter_model().name,
        model_name="starter",
        device="cpu",
        dtype=dtype,
        threads=1,
        context_tokens=4096,
        rows=4,
        queue=16,
        adapters=2,
        cache_tokens=0,
    )
    network = model.load(spec, starter_model().parent)
    assert network.layout.dtype == getattr(torch, dtype)
    assert (network.layout.layers, network.layout.heads, network.layout.width) == (30, 3, 64)
    assert network.context_tokens == 4096
    assert len(network.tokenizer) <= network.vocabulary
    answer = answered(
        new_batch(network), Told(network.tokenizer("The capital of France is").input_ids, 2)
    )
    assert network.tokenizer.decode(answer[0]) == " Paris."


def test_attention_that_is_asked_for_more_says_so() -> None:
    one = torch.zeros(1, 1, 1, 8)
    with pytest.raises(NotServable, match="uses attention_mask, position_bias"):
        attention._forward(nn.Identity(), one, one, one, one, position_bias=one)
    sided = nn.Identity()
    sided.is_causal = False
    with pytest.raises(NotServable, match="not causal"):
        attention._forward(sided, one, one, one, None)
