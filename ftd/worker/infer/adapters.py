"""LoRA adapters by token: one pass serves rows of different adapters and of the base alone.

Each adapted layer computes x A^T B^T for all active adapters at once: their A lie behind one
another as one wide A, so do their B, and a mask lets each token pass through the ranks of its own.
PEFT splits the batch by adapter instead and computes it in parts.

    every token one adapter       its own A and B, no mask
    adapters and base mixed       wide A and B, and a mask [tokens, ranks]
    no token with an adapter      nothing at all
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from ftd.core.errors import FtdError, invalid
from ftd.worker.models.adapter import (
    BEGINNINGS,
    CONFIG,
    MAX_ALPHA,
    MAX_CONFIG_BYTES,
    MAX_RANK,
    WEIGHTS,
)
from ftd.worker.models.configs import read_json
from ftd.worker.pretrained import REASON_CHARACTERS

# What may stand in adapter_config.json without changing what an adapter computes. Everything else
# must be empty there: each release of PEFT adds features, and one that is not known is not served.
_HARMLESS: Final = {
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode"),
    *("layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_version"),
    *("qalora_group_size", "revision", "target_modules", "task_type"),
    # and these are looked at
    *("bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "use_rslora"),
}
_PREFIX: Final = "base_model.model."


class Pair(NamedTuple):
    """A layer's part of an adapter: `down` [rank, in], `up` [rank, out], the scale in `up`."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True)
class _Active:
    """What a layer adds in this turn; without a mask to every token."""

    pair: Pair
    mask: Tensor | None


class Adapted(nn.Linear):
    """A linear layer of the base, its weights shared, with what the active adapters add."""

    active: _Active | None = None

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight = base.weight
        self.bias = base.bias

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- the name is torch's
        output = functional.linear(input, self.weight, self.bias)
        if self.active is None:
            return output
        flat = input.reshape(-1, self.in_features)
        narrow = functional.linear(flat, self.active.pair.down)
        if self.active.mask is not None:
            narrow = narrow * self.active.mask
        output.view(-1, self.out_features).addmm_(narrow, self.active.pair.up)
        return output


class Adapters:
    """The loaded adapters of one network, at most `limit`, the one used last at the end.

    `use` says before each turn which adapter each token has.
    """

    def __init__(self, module: nn.Module, limit: int) -> None:
        self._module = module
        self._limit = limit
        self._loaded: OrderedDict[str, dict[str, Pair]] = OrderedDict()
        self._layers: dict[str, Adapted] = {}
        self._wide: tuple[str, ...] = ()  # whose pairs lie behind one another in `_pairs`
        self._pairs: dict[str, tuple[Pair, tuple[int, ...]]] = {}  # by layer, with each one's rank
        self._runs: list[tuple[str | None, int]] | None = None  # what the layers are set to

    def __len__(self) -> int:
        return len(self._loaded)

    def load(self, directory: str, used: Collection[str]) -> bool:
        """Have the adapter in `directory` at hand; False when all places hold `used` ones.

        Raises FtdError for an adapter that does not fit or asks for what is not done here.
        """
        if directory in self._loaded:
            self._loaded.move_to_end(directory)
            return True
        unused = next((name for name in self._loaded if name not in used), None)
        full = len(self._loaded) >= self._limit
        if full and unused is None:
            return False
        pairs = _read(Path(directory), self._module)
        if full and unused is not None:
            self._drop(unused)
        self._runs = None
        self._loaded[directory] = pairs
        for name in pairs:
            if name not in self._layers:
                self._layers[name] = _replace(self._module, name)
        return True

    def use(self, runs: Sequence[tuple[str | None, int]]) -> None:
        """The coming pass has so many tokens of each adapter, in this order."""
        if runs == self._runs:
            return
        wanted = dict.fromkeys(adapter for adapter, _ in runs if adapter is not None)
        if not wanted:
            active: dict[str, _Active] = {}
        elif len(wanted) == 1 and all(adapter is not None for adapter, _ in runs):
            (only,) = wanted
            active = {name: _Active(pair, None) for name, pair in self._loaded[only].items()}
        else:
            active = self._mixed(list(wanted), runs)
        for name, layer in self._layers.items():
            layer.active = active.get(name)
        self._runs = list(runs)

    def _mixed(
        self, wanted: Sequence[str], runs: Sequence[tuple[str | None, int]]
    ) -> dict[str, _Active]:
        self._widen(wanted)
        masks: dict[tuple[int, ...], Tensor] = {}
        active = {}
        for name, (pair, ranks) in self._pairs.items():
            if ranks not in masks:
                masks[ranks] = self._mask(ranks, runs, pair.down)
            active[name] = _Active(pair, masks[ranks])
        return active

    def _widen(self, wanted: Sequence[str]) -> None:
        """Lay the pairs of `wanted` behind one another. What lies so already is left when it is not
        much more than is needed: rows leave one by one, and each copy is of all adapters."""
        if set(wanted) <= set(self._wide) and len(self._wide) <= 2 * len(wanted):
            return
        self._wide = tuple(wanted)
        self._pairs = {}
        for name in self._layers:
            pairs = [self._loaded[adapter].get(name) for adapter in wanted]
            if there := [pair for pair in pairs if pair is not None]:
                down, up = (torch.cat(half) for half in zip(*there, strict=True))
                ranks = tuple(0 if pair is None else len(pair.down) for pair in pairs)
                self._pairs[name] = Pair(down, up), ranks

    def _mask(
        self, ranks: Sequence[int], runs: Sequence[tuple[str | None, int]], like: Tensor
    ) -> Tensor:
        """[tokens, ranks]: 1 where the rank is of the token's adapter."""
        owners = [at for at, rank in enumerate(ranks) for _ in range(rank)]
        number = {adapter: at for at, adapter in enumerate(self._wide)}
        tokens = [number.get(adapter, -1) if adapter else -1 for adapter, _ in runs]
        lengths = torch.tensor([count for _, count in runs])
        chosen = torch.tensor(tokens).repeat_interleave(lengths)
        return (chosen[:, None] == torch.tensor(owners)[None, :]).to(like.device, like.dtype)

    def _drop(self, adapter: str) -> None:
        del self._loaded[adapter]
        if adapter in self._wide:
            self._wide, self._pairs = (), {}


def _replace(module: nn.Module, name: str) -> Adapted:
    base = module.get_submodule(name)
    assert isinstance(base, nn.Linear)
    layer = Adapted(base)
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)
    return layer


def _read(directory: Path, module: nn.Module) -> dict[str, Pair]:
    """The adapter's pairs by the names of the layers in `module`. Raises FtdError."""
    with _reading():
        config = read_json(directory / CONFIG, limit_bytes=MAX_CONFIG_BYTES)
        weights = load_file(directory / WEIGHTS)
    scale = _scale(config)
    halves: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        name, _, half = key.removeprefix(_PREFIX).rpartition(".lora_")
        if half not in ("A.weight", "B.weight"):
            raise _refused(f"it holds {key}, which is no part of a plain LoRA adapter")
        halves.setdefault(name, {})[half] = weight
    if not halves:
        raise _refused("it adapts nothing")
    rank = config["r"]
    return {name: _pair(module, name, half, rank, scale) for name, half in halves.items()}


def _scale(config: dict[str, Any]) -> float:
    """What the product of an adapter's matrices counts. Refuses what is no plain LoRA."""
    if config.get("peft_type") != "LORA":
        raise _refused(f"it is {config.get('peft_type')}, not LORA")
    for name, value in sorted(config.items()):
        if value and name not in _HARMLESS:
            raise _refused(f"it uses {name}")
    if config.get("bias", "none") != "none":
        raise _refused("it changes biases")
    if (beginning := config.get("init_lora_weights")) not in BEGINNINGS:
        raise _refused(f"it began as {beginning}, which changes the base model")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise _refused(f"its rank is not 1 to {MAX_RANK:,}")
    if not isinstance(alpha, int | float) or abs(alpha) > MAX_ALPHA:
        raise _refused("its alpha is no number of any use")
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _pair(module: nn.Module, name: str, halves: dict[str, Tensor], rank: int, scale: float) -> Pair:
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        raise _refused(f"it adapts {name}, which the model does not have") from None
    if type(layer) not in (nn.Linear, Adapted):
        raise _refused(f"it adapts {name}, which is a {type(layer).__name__}")
    assert isinstance(layer, nn.Linear)
    if len(halves) != 2:
        raise _refused(f"half of its weights for {name} are missing")
    down, up = halves["A.weight"], halves["B.weight"]
    if down.shape != (rank, layer.in_features) or up.shape != (layer.out_features, rank):
        raise _refused(f"its weights for {name} have shapes that do not fit")
    up = up.mT.float() * scale
    return Pair(down.to(layer.weight).contiguous(), up.to(layer.weight).contiguous())


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise _refused(f"it cannot be read: {reason[:REASON_CHARACTERS]}") from error


def _refused(reason: str) -> FtdError:
    return invalid(f"This adapter cannot be used: {reason}.", code="invalid_model")
