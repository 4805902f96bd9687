"""Judges an adapter's directory before PEFT reads it: a plain LoRA adapter, and nothing besides.

A trainer wrote it, or somebody's tool did. PEFT takes names in its configuration for modules to
import, models to fetch and regular expressions to try on every layer, and falls back to a pickle
where there are no safetensors.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ftd.core.errors import FtdError, invalid
from ftd.worker.models.configs import read_json
from ftd.worker.models.weights import read_header

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
MAX_RANK = 4096
MAX_ALPHA = 1e6
MAX_TARGETS = 10_000

# What may have a value: notes, of which nothing is done, and what is read here. All else must be
# empty, as each release of PEFT adds features. (`auto_mapping` is for a class that guesses.)
_NOTES: Final = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_core"}
    | {"peft_version", "qalora_group_size", "revision", "task_type"}
)
_READ: Final = frozenset(
    {"bias", "init_lora_weights", "lora_alpha", "lora_dropout", "peft_type", "r", "target_modules"}
    | {"use_rslora"}
)
# Beginnings that leave the base as it is. PEFT goes through them when it loads, too: PiSSA and
# others would take their part away from the base's weights, each time.
BEGINNINGS: Final = (True, False, None, "gaussian", "orthogonal", "eva")
_MODULE = re.compile(r"[A-Za-z0-9_.]{1,200}\Z")
_WEIGHT = re.compile(r"base_model\.model\.[A-Za-z0-9_.]{1,400}\.lora_[AB]\.weight\Z")


def check_adapter(directory: Path) -> None:
    """Refuse what is no plain LoRA adapter in safetensors. Raises FtdError."""
    try:
        config = read_json(directory / CONFIG, limit_bytes=MAX_CONFIG_BYTES)
        header = read_header(directory / WEIGHTS)
    except FileNotFoundError as error:
        raise _refused(f"it has no {Path(str(error.filename)).name}") from error
    except FtdError as error:
        raise _refused(error.message.rstrip(".")) from error
    _check_config(config)
    for name in header:
        if not _WEIGHT.match(name):
            raise _refused(f"it holds {name[:200]!a}, which is no part of a plain LoRA adapter")


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _refused("it is no LoRA adapter")
    for key, value in sorted(config.items()):
        if value and key not in _NOTES | _READ:
            raise _refused(f"it uses {key[:200]!a}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not _is_number(rank, MAX_RANK) or not isinstance(rank, int) or rank < 1:
        raise _refused(f"its rank is not 1 to {MAX_RANK:,}")
    if not _is_number(alpha, MAX_ALPHA) or not _is_number(config.get("lora_dropout", 0), 1):
        raise _refused("its alpha or dropout is no number of any use")
    beginning = config.get("init_lora_weights")
    if not isinstance(beginning, str | bool | None) or beginning not in BEGINNINGS:
        raise _refused(f"it began as {str(beginning)[:200]!a}, which changes the base model")
    if config.get("bias", "none") != "none":
        raise _refused("it changes biases")
    targets = config.get("target_modules")
    if targets == "all-linear":
        return
    if not isinstance(targets, list) or not 1 <= len(targets) <= MAX_TARGETS:
        raise _refused("its target_modules are no list of names")
    if not all(isinstance(target, str) and _MODULE.match(target) for target in targets):
        raise _refused("its target_modules are no plain names")


def _is_number(value: object, limit: float) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) <= limit
    )


def _refused(reason: str) -> FtdError:
    return invalid(f"This adapter cannot be used: {reason}.", code="invalid_model")
