"""An adapter is its trainer's word: one that asks PEFT for more than LoRA is not read by it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.worker.models.adapter import check_adapter
from ftd.worker.models.merge import merge
from tests.security.canary import Canary
from tests.worker.models.directories import change_json, write_json, write_raw, write_safetensors

CONFIG = {
    "auto_mapping": None,
    "base_model_name_or_path": "tiny",
    "bias": "none",
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "peft_type": "LORA",
    "r": 2,
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
}
_LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
SHAPES = {f"{_LAYER}.lora_A.weight": (2, 8), f"{_LAYER}.lora_B.weight": (8, 2)}

Spoil = Callable[[Path, Canary], object]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    directory = tmp_path / "adapter"
    directory.mkdir()
    write_json(directory / "adapter_config.json", CONFIG)
    write_safetensors(directory / "adapter_model.safetensors", SHAPES)
    return directory


def config(**changes: object) -> Spoil:
    return lambda adapter, _: change_json(adapter / "adapter_config.json", **changes)


def whole(text: str) -> Spoil:
    return lambda adapter, _: (adapter / "adapter_config.json").write_text(text)


def only_a_pickle(adapter: Path, canary: Canary) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(canary.pickled())


def a_pickle_by_another_name(adapter: Path, canary: Canary) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(canary.pickled())


def a_link(name: str) -> Spoil:
    def spoil(adapter: Path, _: Canary) -> None:
        (adapter / name).unlink()
        (adapter / name).symlink_to("/etc/passwd")

    return spoil


def a_pipe(adapter: Path, _: Canary) -> None:
    (adapter / "adapter_config.json").unlink()
    os.mkfifo(adapter / "adapter_config.json")


def another_weight(name: str) -> Spoil:
    return lambda adapter, _: write_safetensors(
        adapter / "adapter_model.safetensors", {**SHAPES, name: (2, 2)}
    )


REFUSED: dict[str, Spoil] = {
    "another library": config(megatron_config={"x": 1}),
    "another kind": config(peft_type="PROMPT_TUNING"),
    "no kind": config(peft_type=None),
    "a pickle": only_a_pickle,
    "a pickle that is called safetensors": a_pickle_by_another_name,
    "a link to the configuration": a_link("adapter_config.json"),
    "a link to the weights": a_link("adapter_model.safetensors"),
    "a pipe": a_pipe,
    "layers by a regular expression": config(target_modules="(.*)*$"),
    "layers by regular expressions": config(target_modules=["(a+)+$"]),
    "no layers": config(target_modules=[]),
    "a million layers": config(target_modules=["q_proj"] * 10**6),
    "exceptions by a regular expression": config(exclude_modules="(.*)*$"),
    "layers by a pattern": config(layers_pattern="(.*)*$"),
    "ranks by a pattern": config(rank_pattern={"(.*)*$": 4}),
    "scales by a pattern": config(alpha_pattern={"(.*)*$": 4}),
    "modules that are saved whole": config(modules_to_save=["lm_head"]),
    "parameters": config(target_parameters=["x"]),
    "tokens": config(trainable_token_indices=[1]),
    "a rank of 10^9": config(r=10**9),
    "a rank of none": config(r=0),
    "a rank that is no number": config(r="2"),
    "a scale without end": config(lora_alpha=1e300),
    "a scale that is NaN": whole(json.dumps({**CONFIG, "lora_alpha": float("nan")})),
    "a scale of 10^999": lambda adapter, _: (adapter / "adapter_config.json").write_text(
        json.dumps(CONFIG).replace('"lora_alpha": 4', '"lora_alpha": 1e999')
    ),
    "a beginning that takes from the base": config(init_lora_weights="pissa_niter_999999999"),
    "a beginning that nobody knows": config(init_lora_weights=["evil"]),
    "biases": config(bias="all"),
    "what the next release may add": config(run_this="evil"),
    "a key twice": whole('{"peft_type": "LORA", "peft_type": "evil"}'),
    "a deep configuration": whole('{"a":' * 100_000 + "1" + "}" * 100_000),
    "a configuration of 1 GB": lambda adapter, _: os.truncate(
        adapter / "adapter_config.json", 2**30
    ),
    "a weight that is none of LoRA's": another_weight("base_model.model.lm_head.weight"),
    "a weight of another place": another_weight("../../evil.lora_A.weight"),
    "weights that overlap": lambda adapter, _: write_raw(
        adapter / "adapter_model.safetensors",
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in SHAPES},
        bytes(8),
    ),
}


def test_a_plain_adapter_is_merged(adapter: Path, model: Path, tmp_path: Path) -> None:
    check_adapter(adapter)
    merge(model, adapter, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").exists()


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused(
    kind: str, adapter: Path, model: Path, canary: Canary, tmp_path: Path
) -> None:
    REFUSED[kind](adapter, canary)
    with pytest.raises(FtdError, match="cannot be used") as refused:
        merge(model, adapter, tmp_path / "merged")
    assert refused.value.code == "invalid_model"
    assert refused.value.message.isascii()
    assert canary.sings
    assert not (tmp_path / "merged").exists()


def test_a_module_to_import_and_a_model_to_fetch_are_notes(
    adapter: Path, model: Path, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text(canary.code())
    monkeypatch.syspath_prepend(tmp_path)
    evil = {"base_model_class": "Evil", "parent_library": "evil"}
    config(auto_mapping=evil, base_model_name_or_path="someone/evil")(adapter, canary)
    merge(model, adapter, tmp_path / "merged")
    assert canary.sings


def test_a_pickle_beside_the_weights_is_left_alone(
    adapter: Path, model: Path, canary: Canary, tmp_path: Path
) -> None:
    for name in ("adapter_model.bin", "rng_state.pth", "training_args.bin"):
        (adapter / name).write_bytes(canary.pickled())
    merge(model, adapter, tmp_path / "merged")
    assert canary.sings
