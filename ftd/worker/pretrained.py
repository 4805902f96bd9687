"""Loads what people registered: safetensors of a local directory, never code that comes along."""

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ftd.core.errors import FtdError, Kind, invalid

# transformers imports a family's code when it loads the first model of it; these are loaded with
# the program, so that an upgrade of the library cannot change it between start and assignment.
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "smollm3")
for _family in _FAMILIES:
    importlib.import_module(f"transformers.models.{_family}.modeling_{_family}")
transformers_logging.disable_progress_bar()

REASON_CHARACTERS = 300  # of a library's error, in a message for people

# Tokenizer and network of a directory, on a device, in a dtype: `load` or `draw`.
Loader = Callable[[Path, torch.device, torch.dtype], tuple[Any, Any]]


def device(kind: str) -> torch.device:
    """The device that this process was given. Raises FtdError when CUDA cannot use it."""
    if kind == "cuda" and not torch.cuda.is_available():
        message = "The job was given a GPU, but CUDA cannot use it: see the driver's version."
        raise FtdError(Kind.INTERNAL, message, code="no_device")
    return torch.device(kind)


def load(directory: Path, at: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Tokenizer and network of a model directory. Raises FtdError for what does not load.

    Attention is transformers' own choice: sdpa, or eager where a model cannot do with that.
    """
    with loading("model"):
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        network = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            device_map={"": at} if at.type == "cuda" else None,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    return tokenizer, network


def draw(directory: Path, at: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """As `load`, of a directory without weights: they are drawn on the device, where they lie.

    The caller has seeded torch. No copy in another dtype or place is ever held.
    """
    with loading("model"):
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        with at:
            network = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return tokenizer, network


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """Whatever a library raises over files that it cannot use is the files' fault, said so."""
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for an attribute by its old name.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            warnings.filterwarnings("error", "Found missing adapter keys")
            yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        message = f"The {what} could not be loaded: {reason[:REASON_CHARACTERS]}"
        raise invalid(message, code="invalid_model") from error
