"""ftd's trainer as a subject: a run directory, `python -m ftd.worker.train`, and what it told."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import child
from ftd.core.spec import Lora, Optimizer, TrainSpec
from ftd.core.wire import Notice, Step, decode_fact

LEARNING_RATE = 2e-4
RANK, ALPHA = 16, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Of one run: its steps, the moments at which they ended, and peaks of memory."""

    steps: list[Step]
    ends_s: list[float]
    peak_bytes: int
    peak_device_bytes: int

    @property
    def losses(self) -> list[float]:
        return [step.train_loss for step in self.steps if step.train_loss is not None]

    def tokens_per_s(self, first: int = 1) -> float:
        """Input tokens a second, from the end of step `first` to the end of the last one."""
        tokens = sum(step.tokens for step in self.steps[first:])
        return tokens / (self.ends_s[-1] - self.ends_s[first - 1])


def spec(**changes: Any) -> TrainSpec:
    """LoRA on all linear layers, float32, one epoch in batches of 8, constant but for `changes`."""
    settings: dict[str, Any] = {
        "job": "bench",
        "attempt": 1,
        "seed": 42,
        "n_epochs": 1,
        "batch_size": 8,
        "optimizer": Optimizer(learning_rate=LEARNING_RATE),
        "lora": Lora(rank=RANK, alpha=ALPHA),
        "context_tokens": 4096,
        "micro_batch_tokens": 8192,
        "device": "cpu",
        "dtype": "float32",
        "threads": 2,
    }
    return TrainSpec(**(settings | changes))


def prepare(root: Path, model: Path, data: bytes, given: TrainSpec) -> Path:
    """Lay out a run directory; the model is linked, never copied."""
    (root / "in").mkdir(parents=True)
    (root / "in" / "model").symlink_to(model.resolve())
    (root / "in" / "training.jsonl").write_bytes(data)
    (root / "spec.json").write_text(given.model_dump_json())
    return root


def train(root: Path, *options: str) -> Trained:
    """Do the job of a run directory, from start to end, in a process of its own."""
    threads = TrainSpec.model_validate_json((root / "spec.json").read_bytes()).threads
    command = [sys.executable, "-m", "ftd.worker.train", str(root / "spec.json")]
    ended = child.run([*command, "--root", str(root), *options], threads=threads)
    told = [(decode_fact(line.text), line.at_s) for line in ended.lines]
    steps = [(fact, at_s) for fact, at_s in told if isinstance(fact, Step)]
    device = [fact.data for fact, _ in told if isinstance(fact, Notice) and fact.data]
    return Trained(
        steps=[step for step, _ in steps],
        ends_s=[at_s for _, at_s in steps],
        peak_bytes=ended.peak_bytes,
        peak_device_bytes=int(device[-1].get("peak_device_bytes") or 0),
    )
