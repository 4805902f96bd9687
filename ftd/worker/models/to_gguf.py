"""Turns a safetensors directory into one GGUF file, for llama.cpp and all that is built on it.

The names, the order of rotated weights and the vocabulary's encoding are those of llama.cpp's
convert_hf_to_gguf.py; weights keep the type in which they are stored, vectors become float32 as
llama.cpp wants them. What cannot be converted exactly is refused: a file that answers a little
differently is worse than none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

from ftd.worker.models.refusal import shown, unsupported
from ftd.worker.models.vocabulary import Vocabulary, read_vocabulary

# Class -> llama.cpp's name of the architecture.
ARCHITECTURES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_PERMUTED = frozenset({"llama"})  # llama.cpp rotates pairs of neighbours there, others halves

_KINDS = {
    torch.float32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    torch.float16: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    torch.bfloat16: (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A model directory, opened."""

    directory: Path
    architecture: str  # in llama.cpp's words
    config: Any
    tensors: Mapping[str, Path]  # name -> the file that holds it

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self.tensors[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor


def write_gguf(model: Path, into: Path, *, name: str, license_: str | None) -> None:
    """Convert the directory `model` to the new file `into`. Raises FtdError, naming what it is
    that cannot be converted. One weight is in memory at a time."""
    source = _open(model)
    vocabulary = read_vocabulary(model, source.config.vocab_size)
    kind, file_type = _kind(source)
    writer = gguf.GGUFWriter(into, source.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    if license_:
        writer.add_license(license_)
    writer.add_file_type(file_type)
    _describe(writer, source.config)
    _add_vocabulary(writer, vocabulary)
    names = dict(_names(source))
    for ours, theirs in names.items():
        _announce(writer, theirs, source.read(ours), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for ours, theirs in names.items():
        tensor = _arranged(theirs, source.read(ours), source)
        writer.write_tensor_data(_array(tensor, kind))
    writer.close()


def _open(model: Path) -> _Source:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    (architecture, *_) = config.architectures or ("an unknown architecture",)
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise unsupported(
            f"{shown(architecture)} cannot be converted to GGUF; these can: {known}. Export it as "
            "merged and convert it by llama.cpp's convert_hf_to_gguf.py."
        )
    scaling = config.rope_parameters.get("rope_type", "default")
    if scaling != "default":
        raise unsupported(
            f"this {architecture} scales its positions ({shown(scaling)}), which is not converted "
            "to GGUF; export it as merged and convert it by llama.cpp's convert_hf_to_gguf.py."
        )
    unusual = ("attention_bias", "mlp_bias", "use_sliding_window")
    if config.hidden_act != "silu" or any(getattr(config, key, False) for key in unusual):
        raise unsupported(
            f"this {architecture} is no usual one: it has the activation "
            f"{shown(config.hidden_act)}, biases, or a window; it is not converted to GGUF."
        )
    tensors = {}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors.update(dict.fromkeys(opened.keys(), file))
    return _Source(
        directory=model,
        architecture=ARCHITECTURES[architecture],
        config=config,
        tensors=tensors,
    )


def _kind(source: _Source) -> tuple[Any, Any]:
    """The type of the matrices, which is that of the embedding."""
    dtype = source.read("model.embed_tokens.weight").dtype
    if dtype not in _KINDS:
        raise unsupported(f"weights of {shown(dtype)} are not converted to GGUF.")
    return _KINDS[dtype]


def _describe(writer: Any, config: Any) -> None:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.splitter)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    for add, token in (
        (writer.add_bos_token_id, vocabulary.bos),
        (writer.add_eos_token_id, vocabulary.eos),
        (writer.add_unk_token_id, vocabulary.unknown),
        (writer.add_pad_token_id, vocabulary.padding),
    ):
        if token is not None:
            add(token)
    writer.add_add_bos_token(vocabulary.begins)
    writer.add_add_eos_token(vocabulary.ends)
    writer.add_add_space_prefix(False)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def _names(source: _Source) -> Iterator[tuple[str, str]]:
    """Each tensor's name and llama.cpp's. A tied head is the embedding, and not written twice."""
    architecture = next(
        key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == source.architecture
    )
    table = gguf.get_tensor_name_map(architecture, source.config.num_hidden_layers)
    for name in source.tensors:
        if name == "lm_head.weight" and source.config.tie_word_embeddings:
            continue
        theirs = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise unsupported(f"its weight {shown(name)} has no place in a GGUF file.")
        yield name, theirs


def _announce(writer: Any, name: str, tensor: torch.Tensor, kind: Any) -> None:
    if tensor.ndim <= 1 or kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), 4 * tensor.numel())
        return
    writer.add_tensor_info(
        name,
        (*tensor.shape[:-1], 2 * tensor.shape[-1]),
        np.dtype(np.uint8),
        2 * tensor.numel(),
        raw_dtype=kind,
    )


def _arranged(name: str, tensor: torch.Tensor, source: _Source) -> torch.Tensor:
    """A rotated weight with the two halves of each head's rows in turns, where llama.cpp rotates
    neighbours."""
    if source.architecture not in _PERMUTED:
        return tensor
    if ".attn_q." in name:
        heads = source.config.num_attention_heads
    elif ".attn_k." in name:
        heads = source.config.num_key_value_heads
    else:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _array(tensor: torch.Tensor, kind: Any) -> "np.ndarray[Any, Any]":
    if tensor.ndim <= 1 or kind == gguf.GGMLQuantizationType.F32:
        return tensor.float().contiguous().numpy()
    dtype = torch.float16 if kind == gguf.GGMLQuantizationType.F16 else torch.bfloat16
    return tensor.to(dtype).contiguous().view(torch.uint8).numpy()
