"""Models, and adapters as PEFT saves them, to compare with: no test changes them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from ftd.worker import pretrained
from ftd.worker.infer import model
from ftd.worker.infer.model import Network
from tests.starter import starter_model
from tests.tiny import tiny_config

NewAdapter = Callable[..., str]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def network_of(module: Any, context_tokens: int = 8192) -> Network:
    """The module itself, made ready; `copy` it before to keep one to compare with."""
    with torch.inference_mode():
        return model.prepare(module.eval(), None, context_tokens)


@pytest.fixture(scope="session")
def plain() -> LlamaForCausalLM:
    """The tiny model as transformers has it."""
    torch.manual_seed(7)
    return LlamaForCausalLM(tiny_config()).eval()


@pytest.fixture
def network(plain: LlamaForCausalLM) -> Network:
    """The tiny model, ready to answer."""
    return network_of(copy.deepcopy(plain))


def save_adapter(base: Any, directory: Path, seed: int, size: float = 1.0, **changes: Any) -> str:
    """A random adapter that says something, made by PEFT; its directory."""
    torch.manual_seed(seed)
    settings = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    config = LoraConfig(**(settings | {"init_lora_weights": False} | changes))
    with pretrained.loading("adapter"):
        tuned = get_peft_model(copy.deepcopy(base), config)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data *= size
    tuned.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def new_adapter(plain: LlamaForCausalLM, tmp_path: Path) -> NewAdapter:
    """Makes an adapter of the tiny model."""

    def make(name: str, seed: int = 0, **changes: Any) -> str:
        return save_adapter(plain, tmp_path / name, seed, **changes)

    return make


def tuned(base: Any, directory: str) -> Any:
    """The reference: PEFT on a model of its own."""
    with pretrained.loading("adapter"):
        return PeftModel.from_pretrained(copy.deepcopy(base), directory).eval()


@pytest.fixture(scope="session")
def starter() -> Any:
    """SmolLM2 as transformers has it."""
    return AutoModelForCausalLM.from_pretrained(starter_model(), dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def starter_adapters(starter: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three that change what it says and leave it able to speak."""
    home = tmp_path_factory.mktemp("adapters")
    return [
        save_adapter(starter, home / name, seed, size=0.35, r=16, lora_alpha=16)
        for seed, name in enumerate("abc")
    ]


@pytest.fixture(scope="session")
def starter_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(starter_model())
