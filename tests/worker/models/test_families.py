"""Models of the families that people tune, as their library writes them, pass every check."""

from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from ftd.worker.models.check import check_directory
from ftd.worker.models.load import prove
from tests.worker.models.directories import write_model

FAMILIES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2",
    "gemma3_text", "phi", "phi3", "smollm3", "granite", "olmo2",
)  # fmt: skip
TINY = {
    "vocab_size": 12,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
EXPERTS = {
    "num_experts": 2,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_as_its_library_writes_it_is_taken(tmp_path: Path, family: str) -> None:
    directory = write_model(tmp_path / "model")
    has_experts = "moe" in family or family == "mixtral"
    config = CONFIG_MAPPING[family](**TINY, **(EXPERTS if has_experts else {}))
    torch.manual_seed(7)
    (directory / "model.safetensors").unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    facts = check_directory(directory).facts
    assert facts.architecture == config.architectures[0]
    prove(directory, facts)
