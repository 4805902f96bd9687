"""Tiny networks of many architectures, and a forward pass of each that is plainly right."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
)
from transformers.masking_utils import eager_mask

from ftd.worker import pretrained
from ftd.worker.train.data import Row

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 5,
        "layer_types": _SLIDING,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 2.0,
    },
    "gemma3_text": {"head_dim": 8, "sliding_window": 5, "layer_types": _SLIDING},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.7},
    "cohere": {"logit_scale": 0.5},  # its norms are not these, and compute in float32
    "phi3": {},
    "olmo2": {},
}


def build(kind: str, dtype: torch.dtype, **changes: Any) -> nn.Module:
    """A random network with an adapter that is not zero, in `dtype` throughout. It attends as
    written out here, unless it is told otherwise."""
    torch.manual_seed(11)
    large = {"initializer_range": 0.15}  # so that every layer matters
    settings = SHAPE | large | ARCHITECTURES.get(kind, {}) | changes
    config = AutoConfig.for_model(kind, **settings)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="plain")
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    with pretrained.loading("adapter"):
        network = get_peft_model(network, lora)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.1)
            elif "norm" in name:
                weight.normal_(mean=1.0, std=0.2)
    return network.to(dtype).train()


def measure(network: nn.Module, rows: Sequence[Row]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of rows, one pass each, by transformers' and PEFT's own code."""
    norms = [module for module in network.modules() if type(module).__name__.endswith("RMSNorm")]
    for norm in norms:
        norm.forward = _norm(norm)
    total = 0.0
    network.zero_grad()
    for row in rows:
        ids = torch.from_numpy(row.ids.astype("int64"))
        logits = network(input_ids=ids[None], use_cache=False).logits[0, :-1]
        losses = nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        loss = (losses * torch.from_numpy(row.weights[1:]).to(losses)).sum()
        loss.backward()
        total += loss.item()
    return total, gradients(network)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: weight.grad.clone()
        for name, weight in network.named_parameters()
        if weight.requires_grad and weight.grad is not None
    }


def _norm(module: Any) -> Any:
    """transformers' norms compute in float32 whatever they are given; this one does not."""
    offset = 1.0 if "Gemma" in type(module).__name__ else 0.0
    eps = getattr(module, "variance_epsilon", None) or module.eps

    def forward(x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * (module.weight + offset)

    return forward


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention written out: transformers' own computes some of it in float32."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * (scaling if scaling is not None else 1 / math.sqrt(query.shape[-1]))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return ((scores + attention_mask).softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("plain", _attend)
AttentionMaskInterface.register("plain", eager_mask)
