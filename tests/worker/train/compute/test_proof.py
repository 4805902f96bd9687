"""What a network is computed with is found by trying it."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ftd.worker import pretrained
from ftd.worker.train.compute import gated
from ftd.worker.train.compute.attention import NAME
from ftd.worker.train.compute.proof import quickest
from ftd.worker.train.compute.scoring import Scorer
from ftd.worker.train.data import Row
from tests.worker.train.compute.architectures import SHAPE, gradients, measure
from tests.worker.train.compute.test_exactness import EVERY

CPU = torch.device("cpu")
_CHUNKED = {
    "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48,
    "attention_chunk_size": 5, "attn_temperature_tuning": False,
    "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
}  # fmt: skip


def random(kind: str, **settings: Any) -> nn.Module:
    torch.manual_seed(5)
    config = AutoConfig.for_model(kind, **(SHAPE | settings))
    network: nn.Module = AutoModelForCausalLM.from_config(config)
    return network.eval()


def score(scorer: Scorer, rows: list[Row], budget: int) -> tuple[float, dict[str, torch.Tensor]]:
    scorer.network.zero_grad()
    total = 0.0
    for work in scorer.passes(rows, budget):
        nll = scorer.score(work).nll
        torch.autograd.backward(nll)
        total += nll.item()
    return total, gradients(scorer.network)


@pytest.mark.parametrize(
    ("kind", "settings", "trees", "head"),
    [
        ("gpt_neox", {}, True, True),
        ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 3}, True, True),
        ("llama4_text", _CHUNKED, True, True),
        ("mixtral", {"num_local_experts": 2}, True, True),
        ("phi", {}, True, False),  # its head has a bias
        ("llama4_text", _CHUNKED | {"attn_temperature_tuning": True}, False, True),
        ("gpt_oss", {"head_dim": 8, "num_local_experts": 4}, False, True),  # sinks
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, False, True),
        ("mamba", {"state_size": 4}, False, True),
        ("bloom", {"n_layer": 3, "n_head": 4}, False, True),  # places, not positions
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_every_network_is_computed_right(
    kind: str, settings: dict[str, Any], trees: bool, head: bool
) -> None:
    """Full fine-tuning, each row alone by the model's own forward against ours together."""
    network = random(kind, **settings)
    loss = 0.0
    for row in EVERY:
        ids = torch.from_numpy(row.ids.astype("int64"))
        logits = network(input_ids=ids[None], use_cache=False).logits[0, :-1]
        losses = nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        nll = (losses * torch.from_numpy(row.weights[1:])).sum()
        nll.backward()
        loss += nll.item()
    expected = gradients(network)

    network = random(kind, **settings)
    scorer = quickest(network, CPU, autocast=False)
    assert ((scorer.trees is not None), (scorer.head is not None)) == (trees, head)
    found, slopes = score(scorer, EVERY, 200)
    assert found == pytest.approx(loss, rel=1e-5)
    assert slopes.keys() == expected.keys()
    for name, slope in expected.items():
        assert (slopes[name] - slope).norm() <= 1e-4 * slope.norm() + 1e-5, name


def test_a_model_that_fails_the_trial_keeps_its_own_attention() -> None:
    network: Any = random("lfm2", layer_types=["conv", "full_attention", "conv"])
    before = network.config._attn_implementation
    quickest(network, CPU, autocast=False)
    assert network.config._attn_implementation == before != NAME


def test_long_rows_are_alone_where_positions_depend_on_the_longest() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    network = random("llama", max_position_embeddings=16, rope_parameters=rope)
    scorer = quickest(network, CPU, autocast=False)
    assert scorer.alike_tokens == 16
    long = [row for row in EVERY if len(row.ids) > 16]
    assert len(scorer.passes(EVERY, 10_000)) == 1 + len(long)


def test_a_layer_that_was_quickened_wrongly_is_what_it_was_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(module: Any) -> Any:
        return lambda x: module.up_proj(x)[..., :32]

    monkeypatch.setattr(gated, "_is_gated", lambda module: True)
    monkeypatch.setattr(gated, "_forward", wrong)
    expected, _ = score(quickest(random("llama"), CPU, autocast=False, trees=False), EVERY, 1)
    network = random("llama")
    scorer = quickest(network, CPU, autocast=False)
    assert scorer.trees is not None
    assert scorer.head is not None
    assert not any("forward" in vars(module) for module in network.modules())
    assert score(scorer, EVERY, 200)[0] == pytest.approx(expected, rel=1e-5)


def test_every_weight_in_bfloat16_goes_in_trees_too() -> None:
    scorer = quickest(random("llama"), CPU, autocast=True)
    assert scorer.trees is not None
    assert scorer.head is not None
    found, _ = score(scorer, EVERY, 200)
    exact, _ = score(quickest(random("llama"), CPU, autocast=False), EVERY, 200)
    assert found == pytest.approx(exact, rel=0.02)


def test_biases_that_an_adapter_trains_get_their_gradients() -> None:
    def with_biases() -> nn.Module:
        config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], bias="all")
        with pretrained.loading("adapter"):
            return get_peft_model(random("qwen2"), config)

    _, plain = measure(with_biases(), EVERY)
    _, found = score(quickest(with_biases(), CPU, autocast=False), EVERY, 200)
    assert any("bias" in name for name in plain)
    assert found.keys() == plain.keys()
    for name, slope in plain.items():
        assert (found[name] - slope).norm() <= 1e-4 * slope.norm() + 1e-5, name
