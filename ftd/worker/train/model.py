"""The model that is trained: a base loaded from its directory, with an adapter or bare.

Precision: on a CPU everything is float32. Under bfloat16 a frozen base is held in bfloat16, and
what is trained in float32 under autocast, because a step of 1e-5 is lost in the 8 bits of a
bfloat16 weight; so full fine-tuning keeps the whole model in float32.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from ftd.core.errors import invalid
from ftd.core.spec import Lora, TrainSpec
from ftd.worker import pretrained
from ftd.worker.train.data import Row
from ftd.worker.train.packing import Padded, pad, split

# The directories that `save` makes, one or the other.
ADAPTER: Final = "adapter"
MODEL: Final = "model"

# What starting a pass (forward and backward) is worth in tokens. CPU: measured, 24 on one core and
# 38 on two, with 135M parameters. CUDA: an estimate, 30 ms of kernel launches at 30,000 tokens/s.
PASS_TOKENS = {"cpu": 32, "cuda": 1024}

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Sums over the scored tokens of a pass, scalars on the device: `nll` in nats (with its
    gradient) and `hits` of the likeliest token, each token counting by its weight."""

    nll: Tensor
    hits: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network, its tokenizer, and where and how it computes."""

    network: nn.Module
    tokenizer: Any
    name: str  # what people call the base
    device: torch.device
    autocast: bool  # compute in bfloat16

    @property
    def pass_tokens(self) -> int:
        return PASS_TOKENS[self.device.type]

    @property
    def contents(self) -> Literal["adapter", "model"]:
        """What is trained and saved: an adapter, or every weight."""
        return ADAPTER if isinstance(self.network, PeftModel) else MODEL

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name, in a fixed order."""
        return {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        }

    def score(self, padded: Padded) -> Score:
        """One forward pass. Only scored positions go through the language model's head."""
        scored = torch.from_numpy(padded.scored).to(self.device)
        targets = torch.from_numpy(padded.targets).to(self.device)
        weights = torch.from_numpy(padded.weights).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            logits: Tensor = self.network(
                input_ids=torch.from_numpy(padded.ids).to(self.device),
                logits_to_keep=scored,  # its own forward, so soft caps and scales are applied
                use_cache=False,
            ).logits
        logits = logits.float()
        nll = functional.cross_entropy(logits, targets, reduction="none")
        hits = (logits.detach().argmax(dim=-1) == targets) * weights
        return Score(nll=(nll * weights).sum(), hits=hits.sum())

    def save(self, directory: Path) -> None:
        """Write `directory`/adapter as PEFT reads it, or `directory`/model as transformers does.

        An adapter is never given the base's config.json: with one, transformers takes its
        directory for a whole model and finds no weights.
        """
        if self.contents == ADAPTER:
            _save_adapter(self.network, self.name, directory / ADAPTER)
        else:
            self.network.save_pretrained(directory / MODEL)  # type: ignore[operator]
        self.tokenizer.save_pretrained(directory / self.contents)


class Budget:
    """How many padded tokens a pass may have: fewer after each time that memory ran out.

    Smaller passes leave the batch as it is, for its sums are taken over all of them. What was
    learnt holds for the rest of the run.
    """

    def __init__(self, model: Model, tokens: int, warn: Callable[[str], None]) -> None:
        self.tokens = tokens
        self._model = model
        self._warn = warn

    def fit(self, rows: Sequence[Row], work: Callable[[list[Padded]], T]) -> T:
        """What `work` makes of these rows in passes that fit; it is begun anew with smaller ones
        when the device runs out of memory. Raises FtdError when a single row does not fit."""
        while True:
            parts = split(rows, self.tokens, self._model.pass_tokens)
            try:
                return work([pad(part) for part in parts])
            except torch.OutOfMemoryError as error:
                shortage = str(error)
            # Out here the exception is gone, and with it the frames that held on to tensors.
            self._shrink(parts, shortage)

    def _shrink(self, parts: list[list[Row]], shortage: str) -> None:
        shared = [len(part) * len(part[0].ids) for part in parts if len(part) > 1]
        if not shared:
            longest = max(len(part[0].ids) for part in parts)
            raise invalid(
                f"The device's memory is too small for an example of {longest:,} tokens, even "
                "alone. A smaller model, shorter examples or a lower limit of context would fit.",
                code="out_of_memory",
            )
        self.tokens = max(shared) // 2
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        _log.warning("out of memory: %s", shortage)
        self._warn(
            f"The device ran out of memory; going on with {self.tokens:,} tokens at a time. "
            "The batch size stays."
        )


def load(spec: TrainSpec, root: Path) -> Model:
    """The model that `spec` trains; with `spec.resume`, as that checkpoint left it.

    Its paths lie under `root`. The caller has seeded torch: a new adapter begins with random
    numbers. Raises FtdError for what cannot be loaded.
    """
    device = pretrained.device(spec.device)
    resume = root / spec.resume if spec.resume is not None else None
    base = root / spec.model
    adapter = root / spec.adapter if spec.adapter is not None else None
    if resume is not None:
        base, adapter = (base, resume / ADAPTER) if spec.lora else (resume / MODEL, None)
    if adapter is not None and spec.lora is None:
        raise invalid("An adapter cannot be the base of full fine-tuning.", code="invalid_model")
    mixed = spec.dtype == "bfloat16"
    half = mixed and spec.lora is not None
    dtype = torch.bfloat16 if half else torch.float32
    tokenizer, network = pretrained.load(base, device, dtype)
    if spec.lora is not None:
        network = _adapted(network, spec.lora, adapter)
    return Model(
        network=network.train(),
        tokenizer=tokenizer,
        name=spec.model_name,
        device=device,
        autocast=mixed,
    )


def _adapted(network: Any, lora: Lora, adapter: Path | None) -> Any:
    """`network`, frozen, with a new adapter or the one saved in `adapter`; PEFT keeps it in
    float32 whatever the base is held in."""
    if adapter is None:
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        with pretrained.loading("adapter"):
            return get_peft_model(
                network,
                LoraConfig(
                    task_type="CAUSAL_LM",
                    r=lora.rank,
                    lora_alpha=lora.alpha,
                    lora_dropout=lora.dropout,
                    target_modules=targets,
                ),
            )
    with pretrained.loading("adapter"):
        config = LoraConfig.from_pretrained(str(adapter))
    if config.r != lora.rank:
        raise invalid(
            f"The adapter to go on from has rank {config.r}; this job asks for {lora.rank}.",
            code="invalid_model",
        )
    config.lora_dropout = lora.dropout
    with pretrained.loading("adapter"):
        return PeftModel.from_pretrained(network, adapter, is_trainable=True, config=config)


def _save_adapter(network: Any, base: str, directory: Path) -> None:
    directory.mkdir()
    weights = get_peft_model_state_dict(network, save_embedding_layers=False)
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.copy(network.peft_config["default"])
    config.base_model_name_or_path = base
    config.inference_mode = True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # the same job, the same bytes
    config.save_pretrained(directory)
