"""The model that is trained: a base loaded from its directory, with an adapter or bare.

Precision: under float32 everything is in it. Under bfloat16 a frozen base is held in bfloat16, and
what is trained in float32 under autocast, because a step of 1e-5 is lost in the 8 bits of a
bfloat16 weight; so full fine-tuning keeps the whole model in float32.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from ftd.core.errors import invalid
from ftd.core.memory import Shape
from ftd.core.spec import Lora, TrainSpec
from ftd.worker import pretrained
from ftd.worker.models.adapter import check_adapter
from ftd.worker.train.compute.proof import quickest
from ftd.worker.train.compute.scoring import Scorer

# The directories that `save` makes, one or the other.
ADAPTER: Final = "adapter"
MODEL: Final = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network, its tokenizer, and how it is computed."""

    network: nn.Module
    tokenizer: Any
    name: str  # what people call the base
    scorer: Scorer

    @property
    def device(self) -> torch.device:
        return self.scorer.device

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

    def shape(self) -> Shape:
        """Its size, for an estimate of memory. What a configuration does not have, or has otherwise
        for each layer, counts as nothing or as the largest."""
        config = self.network.config.get_text_config()  # type: ignore[operator, union-attr]

        def size(name: str) -> int:
            try:
                value = getattr(config, name, None) or 0
            except RuntimeError:  # transformers: layers differ in it
                return 0
            return max(value) if isinstance(value, (list, tuple)) else value

        heads, hidden = size("num_attention_heads"), size("hidden_size")
        width = size("head_dim") or hidden // max(1, heads)
        frozen = [weight for weight in self.network.parameters() if not weight.requires_grad]
        return Shape(
            layers=size("num_hidden_layers"),
            hidden=hidden,
            queries=heads * width,
            keys=(size("num_key_value_heads") or heads) * width,
            inner=size("intermediate_size"),
            frozen_bytes=sum(weight.numel() * weight.element_size() for weight in frozen),
            trained=sum(weight.numel() for weight in self.trainable().values()),
            element_bytes=2 if self.scorer.autocast else 4,
            thrifty=self.scorer.thrifty,
        )

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


def load(spec: TrainSpec, root: Path, loader: pretrained.Loader = pretrained.load) -> Model:
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
    tokenizer, network = loader(base, device, dtype)
    if spec.lora is not None:
        network = _adapted(network, spec.lora, adapter)
    return Model(
        network=network.train(),
        tokenizer=tokenizer,
        name=spec.model_name,
        scorer=quickest(network, device, autocast=mixed),
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
    check_adapter(adapter)
    with pretrained.loading("adapter"):
        config = LoraConfig.from_pretrained(str(adapter), local_files_only=True)
    if config.r != lora.rank:
        raise invalid(
            f"The adapter to go on from has rank {config.r}; this job asks for {lora.rank}.",
            code="invalid_model",
        )
    config.lora_dropout = lora.dropout
    with pretrained.loading("adapter"):
        return PeftModel.from_pretrained(
            network, adapter, is_trainable=True, config=config, local_files_only=True
        )


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
