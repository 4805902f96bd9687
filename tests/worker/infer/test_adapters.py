import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from ftd.core.errors import FtdError
from ftd.worker.infer.adapters import Adapted, Adapters
from ftd.worker.infer.model import Network
from tests.worker.infer.conftest import NewAdapter, tuned

IDS = torch.tensor([[5, 80, 120, 33, 9, 210]])


def logits_of(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    """A plain pass with what is active; attention is transformers' own."""
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return found


@pytest.fixture
def module(plain: LlamaForCausalLM) -> LlamaForCausalLM:
    return copy.deepcopy(plain)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "r": 8},
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": ["v_proj"], "layers_to_transform": [1]},
        {"lora_dropout": 0.5},
    ],
)
def test_an_adapter_alone_is_what_peft_makes_of_it(
    plain: LlamaForCausalLM,
    module: LlamaForCausalLM,
    new_adapter: NewAdapter,
    settings: dict[str, Any],
) -> None:
    directory = new_adapter("a", **settings)
    adapters = Adapters(module, 2)
    assert adapters.load(directory, set())
    adapters.use([(directory, IDS.shape[1])])
    ours, theirs = logits_of(module), logits_of(tuned(plain, directory))
    assert not torch.allclose(theirs, logits_of(plain), atol=0.1), "the adapter says nothing"
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_tokens_of_several_adapters_side_by_side(
    plain: LlamaForCausalLM, module: LlamaForCausalLM, new_adapter: NewAdapter
) -> None:
    """Of different ranks and targets. One token each, so that attention mixes nothing."""
    one = new_adapter("one", 1, r=2)
    two = new_adapter("two", 2, r=8, target_modules=["q_proj", "up_proj"])
    adapters = Adapters(module, 2)
    assert adapters.load(one, set())
    assert adapters.load(two, set())
    for owners in ([one, None, two, two, one, None], [two, two, two, None, None, None]):
        adapters.use([(owner, 1) for owner in owners])
        layer = module.model.layers[0]
        hidden = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            ours = [layer.self_attn.q_proj(hidden), layer.mlp.up_proj(hidden)]
            for at, owner in enumerate(owners):
                other = plain if owner is None else tuned(plain, owner).base_model.model
                layer_there = other.model.layers[0]
                theirs = [layer_there.self_attn.q_proj, layer_there.mlp.up_proj]
                for mine, reference in zip(ours, theirs, strict=True):
                    wanted = reference(hidden[at : at + 1])[0]
                    torch.testing.assert_close(mine[at], wanted, atol=1e-5, rtol=1e-4)


def test_without_adapters_nothing_is_computed(
    plain: LlamaForCausalLM, module: LlamaForCausalLM, new_adapter: NewAdapter
) -> None:
    directory = new_adapter("a")
    adapters = Adapters(module, 1)
    assert adapters.load(directory, set())
    adapters.use([(directory, 6)])
    adapters.use([(None, 6)])
    layers = [layer for layer in module.modules() if isinstance(layer, Adapted)]
    assert len(layers) == 14
    assert all(layer.active is None for layer in layers)
    assert torch.equal(logits_of(module), logits_of(plain))


def test_weights_of_the_base_are_not_copied(
    module: LlamaForCausalLM, new_adapter: NewAdapter
) -> None:
    before = {name: weight.data_ptr() for name, weight in module.named_parameters()}
    Adapters(module, 1).load(new_adapter("a"), set())
    assert {name: weight.data_ptr() for name, weight in module.named_parameters()} == before


def test_the_adapter_used_longest_ago_goes(
    module: LlamaForCausalLM, new_adapter: NewAdapter
) -> None:
    one, two, three = (new_adapter(name, seed) for seed, name in enumerate("abc"))
    adapters = Adapters(module, 2)
    adapters.load(one, set())
    adapters.load(two, set())
    adapters.load(one, set())
    adapters.use([(one, 1), (two, 1)])
    assert adapters.load(three, set())
    assert len(adapters) == 2
    adapters.use([(one, 1), (three, 1)])
    with pytest.raises(KeyError):
        adapters.use([(two, 2)])


def test_an_adapter_in_use_never_goes(module: LlamaForCausalLM, new_adapter: NewAdapter) -> None:
    one, two = new_adapter("a", 1), new_adapter("b", 2)
    adapters = Adapters(module, 1)
    assert adapters.load(one, set())
    assert not adapters.load(two, {one})
    assert adapters.load(two, set())
    assert len(adapters) == 1


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reweigh(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = directory / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def rename(directory: Path, old: str, new: str) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for key in [key for key in weights if old in key]:
            weights[key.replace(old, new)] = weights.pop(key)

    reweigh(directory, change)


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda at: edit(at, peft_type="IA3"), "it is IA3, not LORA"),
        (lambda at: edit(at, use_dora=True), "it uses use_dora"),
        (lambda at: edit(at, rank_pattern={"q_proj": 2}), "it uses rank_pattern"),
        (lambda at: edit(at, modules_to_save=["lm_head"]), "it uses modules_to_save"),
        (lambda at: edit(at, a_new_idea={"strength": 1}), "it uses a_new_idea"),
        (lambda at: edit(at, bias="all"), "it changes biases"),
        (lambda at: edit(at, init_lora_weights="pissa"), "changes the base model"),
        (lambda at: edit(at, r=0), "its rank is not"),
        (lambda at: edit(at, r=10**400, lora_alpha=0.5), "its rank is not"),
        (lambda at: edit(at, lora_alpha="8"), "its alpha is no number"),
        (lambda at: edit(at, lora_alpha=10**400), "its alpha is no number"),
        (lambda at: edit(at, r=8), "shapes that do not fit"),
        (lambda at: (at / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda at: (at / "adapter_config.json").write_text("[1]"), "cannot be read"),
        (lambda at: (at / "adapter_config.json").unlink(), "cannot be read"),
        (lambda at: (at / "adapter_model.safetensors").unlink(), "cannot be read"),
        (lambda at: (at / "adapter_model.safetensors").write_bytes(b"no"), "cannot be read"),
        (lambda at: reweigh(at, lambda w: w.pop(KEY)), "half of its weights"),
        (lambda at: reweigh(at, lambda w: w.clear()), "it adapts nothing"),
        (lambda at: rename(at, "layers.0.", "layers.9."), "which the model does not have"),
        (lambda at: rename(at, "0.self_attn.q_proj", "0.input_layernorm"), "is a LlamaRMSNorm"),
        (lambda at: rename(at, "lora_A.weight", "lora_A.bias"), "no part of a plain LoRA"),
    ],
)
def test_what_is_not_done_here_is_refused(
    module: LlamaForCausalLM,
    new_adapter: NewAdapter,
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    directory = new_adapter("a")
    damage(Path(directory))
    adapters = Adapters(module, 1)
    with pytest.raises(FtdError, match=reason) as caught:
        adapters.load(directory, set())
    assert caught.value.message.startswith("This adapter cannot be used: ")
    assert len(adapters) == 0


def test_a_refused_adapter_costs_nobody_a_place(
    module: LlamaForCausalLM, new_adapter: NewAdapter
) -> None:
    good, bad = new_adapter("a"), new_adapter("b")
    edit(Path(bad), use_dora=True)
    adapters = Adapters(module, 1)
    adapters.load(good, set())
    with pytest.raises(FtdError):
        adapters.load(bad, set())
    adapters.use([(good, 6)])
    assert len(adapters) == 1
    assert isinstance(module.model.layers[0].self_attn.q_proj, Adapted)


def test_half_precision_is_the_networks(network: Network, new_adapter: NewAdapter) -> None:
    module = network.module.to(torch.bfloat16)
    directory = new_adapter("a")
    adapters = Adapters(module, 1)
    adapters.load(directory, set())
    adapters.use([(directory, 3)])
    layer = module.model.layers[0].self_attn.q_proj
    assert layer(torch.zeros(1, 3, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16
