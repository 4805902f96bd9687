"""An adapter folded into its base: one directory of safetensors that plain transformers loads."""

import gc
import shutil
from pathlib import Path
from typing import Any

from ftd.worker.models.adapter import check_adapter
from ftd.worker.models.weights import INDEX, SINGLE
from ftd.worker.pretrained import loading

CONFIG = "config.json"
CARD = "README.md"


def merge(base: Path, adapter: Path, into: Path) -> None:
    """Write base + adapter to the new directory `into`. Raises FtdError.

    On the CPU, in the dtype in which the base is stored: each product of the adapter is computed in
    float32, and it and its sum with the base's weight are rounded to that. Tokenizer, chat
    template, licence and generation settings are the base's, byte for byte. Takes as much memory as
    the base has bytes, and the largest of its weights in float32.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    check_adapter(adapter)
    with loading("model"):
        network: Any = AutoModelForCausalLM.from_pretrained(
            base,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    with loading("adapter"):
        tuned: Any = PeftModel.from_pretrained(network, adapter, local_files_only=True)
        merged: Any = tuned.merge_and_unload(safe_merge=True)
    into.mkdir()
    merged.save_pretrained(into)
    del network, tuned, merged
    gc.collect()  # a conversion may follow, and wants the memory
    for file in sorted(base.iterdir()):
        if not _is_ours(file):
            (into / file.name).unlink(missing_ok=True)
            shutil.copyfile(file, into / file.name)


def _is_ours(file: Path) -> bool:
    """Whether a file of the base is written anew: weights, and what speaks of them."""
    return file.suffix == ".safetensors" or file.name in (SINGLE, INDEX, CONFIG, CARD)
