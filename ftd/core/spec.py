"""The whole of what a worker is told: one file, complete, resolved, the same for every attempt.

Whatever decides bits (threads, dtype, attention, token budget) is resolved before the first
attempt and kept here, so that a second attempt computes what the first one would have.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TOKENS = "tokens"  # below a run's out/: what a trainer makes of its files, and needs to its end
CHECKPOINTS = "checkpoints"  # beside it: what a trainer publishes, each as step-<N>


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lora(_Spec):
    """A low-rank adapter (Hu et al. 2021). `targets` names modules, or "all-linear"."""

    rank: int = Field(16, ge=1, le=512)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class Optimizer(_Spec):
    """AdamW with linear warm-up and cosine decay; `learning_rate` is the peak."""

    learning_rate: float = Field(gt=0)
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)


class TrainSpec(_Spec):
    """One attempt of one supervised job. Paths are relative to the run directory."""

    version: Literal[1] = 1
    job: str
    attempt: int = Field(ge=1)
    seed: int = Field(ge=0, le=0x7FFFFFFF)
    model: str = "in/model"
    model_name: str = "base"  # what people call it; an adapter says that it belongs to it
    adapter: str | None = None  # go on from this PEFT adapter: same rank and targets
    training_file: str = "in/training.jsonl"
    validation_file: str | None = None
    n_epochs: int = Field(ge=1, le=50)
    batch_size: int = Field(ge=1, le=256)
    optimizer: Optimizer
    lora: Lora | None  # None: every weight is trained
    context_tokens: int = Field(ge=8)  # longer examples are cut from the end
    micro_batch_tokens: int = Field(ge=8)  # tokens of one forward pass, at the most
    memory_bytes: int | None = Field(None, ge=0)  # of the device; None: as if it never ran out
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    threads: int = Field(ge=1)
    resume: str | None = None  # a published checkpoint to go on from
    resume_else: tuple[str, ...] = ()  # older ones, newest first, for when that one is damaged
    checkpoint_every_steps: int = Field(0, ge=0)  # between the ends of epochs; 0: none by steps
    checkpoint_every_s: float = Field(0.0, ge=0)  # and by the clock, which decides no bit


class ServeSpec(_Spec):
    """What an inference worker serves, and how much at once. Paths as in a TrainSpec."""

    version: Literal[1] = 1
    model: str = "in/model"
    model_name: str
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    threads: int = Field(ge=1)
    context_tokens: int = Field(ge=8)  # prompt and answer together
    rows: int = Field(ge=1)  # choices decoded together
    queue: int = Field(ge=1)  # choices that run or wait; more are refused
    adapters: int = Field(ge=1)  # kept loaded
    cache_tokens: int = Field(ge=0)  # kept of finished requests, for those that go on from them
