"""Turns a GGUF file into a safetensors directory, once, so that it trains like any other model."""

import functools
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftd.worker.models import gguf_header, tree
from ftd.worker.models.refusal import shown, unsupported

_LICENSE = re.compile(r"[A-Za-z0-9._+-]{1,100}\Z")


def check_header(gguf: Path) -> None:
    """Refuse what is no GGUF file of version 2 or 3, before a library reads it. FtdError."""
    import gguf as library

    sizes = {int(kind): size for kind, size in library.GGML_QUANT_SIZES.items()}
    gguf_header.check_header(gguf, sizes)


def convert(gguf: Path, into: Path) -> None:
    """Write the model in `gguf` to the new directory `into`. Raises FtdError.

    Weights become bfloat16: half the bytes of float32 and what GPUs train in. Its rounding (1 part
    in 256) is far below that of 4-bit quantisation: the starter's next-token distributions move by
    1e-4 nats. A file whose weights are all float32 keeps them as they are. Quantisation, if there
    was any, is gone; tokenizer, chat template and generation settings are kept.
    """
    check_header(gguf)
    into.mkdir()
    try:
        with _remembering():
            _write(gguf.resolve(), into)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the file's; transformers raises OSError without a number
        raise unsupported(f"{shown(gguf.name)} cannot be converted: {shown(error)}") from error


@contextmanager
def _remembering() -> Iterator[None]:
    """Parse the file once, and build the table of tensor names once.

    transformers does the first for the tokenizer, the configuration and the weights, the second
    for every module of the model; each costs seconds and gives the same every time. With this the
    starter converts in half the time.
    """
    import gguf as library

    reader, name_map = library.GGUFReader, library.get_tensor_name_map
    library.GGUFReader = functools.lru_cache(maxsize=1)(reader)
    library.get_tensor_name_map = functools.lru_cache(name_map)
    try:
        yield
    finally:
        library.GGUFReader, library.get_tensor_name_map = reader, name_map


def _write(gguf: Path, into: Path) -> None:
    import gguf as library
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # From a directory of its own: beside the file may lie configurations that nobody checked.
    with tempfile.TemporaryDirectory(dir=into.parent) as alone:
        link = Path(alone, "model.gguf")
        link.symlink_to(gguf)
        reader = library.GGUFReader(str(link))
        kinds = {tensor.tensor_type for tensor in reader.tensors}
        whole = kinds == {library.GGMLQuantizationType.F32}
        tokenizer = AutoTokenizer.from_pretrained(
            alone, gguf_file=link.name, local_files_only=True, trust_remote_code=False
        )
        model, report = AutoModelForCausalLM.from_pretrained(
            alone,
            gguf_file=link.name,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32 if whole else torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    if missing := report["missing_keys"]:
        raise ValueError(f"it has no {min(missing)}")
    for ours in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(ours, None)
    tokenizer.save_pretrained(into)
    model.save_pretrained(into)
    (into / "README.md").write_text(_card(gguf, _license(reader)))


def _license(reader: Any) -> str | None:
    field = reader.get_field("general.license")
    value = field.contents() if field else None
    return value if isinstance(value, str) and _LICENSE.match(value) else None


def _card(gguf: Path, license_: str | None) -> str:
    front = f"---\nlicense: {license_}\n---\n" if license_ else ""
    return f"{front}Converted from {gguf.name!a}, sha256 {tree.file_sha256(gguf)}.\n"
