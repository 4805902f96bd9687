"""Layers with gradients written by hand, against what autograd makes of the plain formula."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.activations import ACT2FN

from ftd.worker import pretrained
from ftd.worker.train.compute import gated, head, lora, norm
from ftd.worker.train.compute.head import Head
from tests.worker.train.compute.architectures import build

Formula = Callable[[], Tensor]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(ours: Formula, plain: Formula, inputs: Sequence[Tensor]) -> None:
    for given in inputs:
        given.requires_grad_()
    for one, other in (
        (ours(), plain()),
        *zip(
            *(torch.autograd.grad(f().square().sum(), inputs) for f in (ours, plain)), strict=True
        ),
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk_bytes", [2**25, 4 * 11 * 3])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (1.0, 2.0)])
def test_the_head_scores_as_the_plain_formula(
    monkeypatch: pytest.MonkeyPatch, scale: float, softcap: float | None, chunk_bytes: int
) -> None:
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", chunk_bytes)
    hidden, weight = numbers(7, 5), numbers(11, 5, seed=1)
    position = torch.tensor([0, 1, 1, 1, 3, 5, 6])  # some predict several words, one none
    target = torch.tensor([3, 0, 4, 10, 3, 9, 1])
    counts = torch.tensor([1, 0.5, 2, 0.25, 1, 3, 1], dtype=torch.float64)

    def plain() -> Tensor:
        logits = hidden @ weight.T * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        losses = functional.cross_entropy(logits[position], target, reduction="none")
        return (losses * counts).sum()

    def ours() -> Tensor:
        whole = Head(weight=weight, scale=scale, softcap=softcap)
        return head.score(whole, hidden, position, target, counts)[0]

    same(ours, plain, [hidden, weight])
    with torch.no_grad():
        _, hits = head.score(Head(weight=weight), hidden, position, target, counts)
    likeliest = (hidden @ weight.T).argmax(dim=1)
    assert hits == ((likeliest[position] == target) * counts).sum()


def adapted(**options: Any) -> nn.Module:
    network: nn.Module = nn.Sequential(nn.Linear(6, 5, dtype=torch.float64))
    network.config = {"model_type": "none"}  # type: ignore[assignment]
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["0"], **options)
    with pretrained.loading("adapter"):
        network = get_peft_model(network, config).double()
    for weight in network.parameters():
        nn.init.normal_(weight)
    return network.train()


def test_an_adapted_layer_is_peft_s() -> None:
    network, x = adapted(), numbers(2, 4, 6)
    layer: Any = next(module for module in network.modules() if hasattr(module, "lora_A"))
    own = type(layer).forward
    assert lora.quicken(network) == [layer]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    same(lambda: layer(x), lambda: own(layer, x), [x, a, b])


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}]
)
def test_adapters_of_another_kind_stay_peft_s(options: dict[str, Any]) -> None:
    assert lora.quicken(adapted(**options)) == []


@pytest.mark.parametrize(
    ("kind", "count"), [("llama", 7), ("gemma2", 13), ("qwen3", 13), ("cohere", 0)]
)
def test_norms_are_the_models_own(kind: str, count: int) -> None:
    network = build(kind, torch.float32)
    norms: list[Any] = [m for m in network.modules() if type(m).__name__.endswith("RMSNorm")]
    x = numbers(2, 3, 32).float()
    expected = [each(x[..., : len(each.weight)]) for each in norms]
    assert len(norm.quicken(network)) == len(norms) == count
    for each, before in zip(norms, expected, strict=True):
        torch.testing.assert_close(each(x[..., : len(each.weight)]), before)


def test_a_norm_s_gradients_are_those_of_the_formula() -> None:
    x, factor = numbers(2, 3, 8), numbers(8, seed=1)

    def plain() -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * factor

    same(lambda: norm._Norm.apply(x, factor, 1e-3), plain, [x, factor])


@pytest.mark.parametrize("act", ["silu", "gelu_pytorch_tanh", "relu"])
def test_gated_layers_are_the_formula_s(act: str) -> None:
    gate, up, function = numbers(2, 3, 8), numbers(2, 3, 8, seed=1), ACT2FN[act]
    same(lambda: gated._Gated.apply(function, gate, up), lambda: function(gate) * up, [gate, up])


def test_a_layer_that_computes_something_else_stays_as_it_is() -> None:
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    assert len(gated.quicken(network)) == 2
    network = LlamaForCausalLM(config)
    kind = type(network.model.layers[0].mlp)

    class Odd(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1.1  # type: ignore[no-any-return]

    network.model.layers[1].mlp.__class__ = Odd
    assert gated.quicken(network) == [network.model.layers[0].mlp]
