"""Run directories for whole attempts at jobs on the tiny model."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from ftd.core.spec import Lora, Optimizer, TrainSpec
from ftd.core.wire import Fact, Notice, Step, Stop
from ftd.worker.report import Asked
from ftd.worker.train.loop import attempt
from ftd.worker.train.prepare import Run, prepare
from tests.tiny import chats, tiny_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and its tokenizer as `save_pretrained` leaves them. Read only."""
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny(model_directory: Path) -> LlamaForCausalLM:
    """The tiny model, for looking at: no test trains it."""
    return LlamaForCausalLM.from_pretrained(model_directory).eval()


@dataclass
class Job:
    """A run directory with its spec; what is told while it runs is kept in `facts`."""

    root: Path
    spec: TrainSpec
    facts: list[Fact] = field(default_factory=list)
    asked: Asked = field(default_factory=Asked)
    stop_after: tuple[int, bool] | None = None  # a step, and whether to save

    def run(self) -> list[Fact]:
        self.facts.append(attempt(self.spec, self.root, self.hear, self.asked))
        return self.facts

    def prepared(self) -> Run:
        return prepare(self.spec, self.root, self.hear, self.asked)

    def hear(self, fact: Fact) -> None:
        self.facts.append(fact)
        if self.stop_after and isinstance(fact, Step) and fact.step == self.stop_after[0]:
            self.asked.ask(Stop(save=self.stop_after[1]))

    def told(self, kind: type[Any]) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def warnings(self) -> list[str]:
        return [notice.message for notice in self.told(Notice) if notice.level == "warn"]

    def file(self, name: str) -> bytes:
        return (self.root / "out" / name).read_bytes()


@pytest.fixture
def new_job(tmp_path: Path, model_directory: Path) -> Callable[..., Job]:
    """Makes a run directory with 10 training examples, and with `validation` others to check."""

    def make(name: str = "run", validation: int = 0, data: bytes | None = None, **spec: Any) -> Job:
        root = tmp_path / name
        (root / "out").mkdir(parents=True)
        shutil.copytree(model_directory, root / "in" / "model")
        (root / "in" / "training.jsonl").write_bytes(chats(10) if data is None else data)
        if validation:
            (root / "in" / "validation.jsonl").write_bytes(chats(validation, first=100))
        settings: dict[str, Any] = {
            "job": "ftjob-1",
            "attempt": 1,
            "seed": 42,
            "n_epochs": 2,
            "batch_size": 4,
            "optimizer": Optimizer(learning_rate=1e-2),
            "lora": Lora(rank=4, alpha=8, dropout=0.1),
            "context_tokens": 64,
            "micro_batch_tokens": 256,
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "validation_file": "in/validation.jsonl" if validation else None,
        }
        return Job(root, TrainSpec(**(settings | spec)))

    return make
