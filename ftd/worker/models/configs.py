"""Reads a model's JSON files with the standard library and refuses what would run or fetch code."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ftd.worker.models import tree
from ftd.worker.models.refusal import broken, shown, unsafe, unsupported

# Read by transformers or by tools that come after us, wherever they lie in a document.
CONFIGS = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "processor_config.json",
        "preprocessor_config.json",
    }
)
MAX_CONFIG_BYTES = 16 * 2**20
MAX_DEPTH = 32
MAX_VALUES = 2**22  # of a document: each takes a hundred bytes of memory, and three of a file

# Keys that make a loader run Python from the directory or the hub, or read other weights than
# those that were checked. CVE-2026-4372 was `_attn_implementation_internal`.
_CODE_KEYS = frozenset(
    {
        "auto_map",
        "auto_mapping",
        "custom_generate",
        "custom_pipelines",
        "kernel_config",
        "use_kernels",
        "transformers_weights",
        "init_inputs",
        "gguf_file",
        "tokenizer_object",
        "_attn_implementation_internal",
        "_experts_implementation_internal",
    }
)
# Keys whose value names another model, or a file of the tokenizer. `_name_or_path` and its like
# only tell where a model was once, and are in most configurations.
_PLACE_KEYS = re.compile(
    r"(?!_?((base_)?model_)?name_or_path\Z).*(name_or_path|(model|repo|hub)_id|_tower"
    r"|backbone|_checkpoint|_ur[il]|(vocab|merges|tokenizer|spm|sp_model)_file)\Z"
)
# transformers takes any of its classes for a tokenizer's, and any name in torch for a dtype.
_TOKENIZER_CLASS = re.compile(r"[A-Za-z0-9_]{0,80}(Tokenizer|TokenizerFast|Backend)\Z")
_DTYPE = re.compile(r"(torch\.)?b?float[0-9]{1,2}(_e[0-9]m[0-9]\w*)?\Z|auto\Z", re.ASCII)
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# In these, text is for people and for the model, and may begin with anything.
_WORDY = frozenset({"tokenizer_config.json", "special_tokens_map.json"})
# Keys whose value may be the name of a kernel on the hub.
_KERNEL_KEYS = frozenset({"attn_implementation", "experts_implementation"})
_KERNELS = frozenset({"eager", "sdpa", "flash_attention_2", "batched_mm", "grouped_mm"})
_QUANTISED_KEYS = frozenset({"quantization_config", "compression_config"})

_ARCHITECTURE = re.compile(r"[A-Za-z0-9_]{1,80}ForCausalLM\Z")
_MODEL_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,80}\Z")

# What older families call the same thing.
_HIDDEN_SIZE = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_VOCABULARY = ("vocab_size",)

# A tensor is made of products of these: far above every published model, far below a bomb.
_BOUNDS = (
    (re.compile(r"(partial_rotary_factor|rotary_pct)\Z"), 1),
    (re.compile(r".*(vocab_size|positions|position_embeddings|seq_len|seq_length)\Z"), 2**27),
    (re.compile(r".*(_size|_dim|_rank|n_embd|d_model|n_inner|d_ff)\Z"), 2**22),
    (re.compile(r"n_layers?\Z|num_(hidden_)?layers\Z"), 2**10),
    (re.compile(r"(num|n)_.*"), 2**17),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What config.json says of a causal language model."""

    architecture: str
    model_type: str
    context_tokens: int
    hidden_size: int
    layers: int
    vocabulary: int


def read_config(directory: Path) -> Config:
    """Read config.json, already known to be harmless. Raises FtdError."""
    document = read_json(directory / "config.json")
    check_bounds(document)
    for key in ("dtype", "torch_dtype"):
        if not _DTYPE.match(str(document.get(key) or "auto")):
            raise unsupported(f"config.json: {key} is {shown(document[key])}, which is no float's.")
    return Config(
        architecture=_architecture(document),
        model_type=_model_type(document),
        context_tokens=_number(document, _CONTEXT),
        hidden_size=_number(document, _HIDDEN_SIZE),
        layers=_number(document, _LAYERS),
        vocabulary=_number(document, _VOCABULARY),
    )


def check_harmless(path: Path) -> None:
    """Refuse a JSON document that would make a loader run code, fetch, or unpack. FtdError."""
    for key, value in items(read_json(path), path.name):
        if key in _CODE_KEYS and value:
            raise unsafe(
                f"{path.name} has the key {shown(key)}, which makes a loader run or fetch code. "
                "Only models of transformers' own classes are taken; if this is one, remove the "
                "key."
            )
        if key == "tokenizer_class" and value and not _TOKENIZER_CLASS.match(str(value)):
            raise unsafe(f"{path.name}: tokenizer_class {shown(value)} is no tokenizer's.")
        if key.lstrip("_") in _KERNEL_KEYS and value is not None and str(value) not in _KERNELS:
            raise unsafe(f"{path.name}: {key} {shown(value)} may name code on the hub.")
        if key in _QUANTISED_KEYS and value is not None:
            raise unsupported(
                f"{path.name} has a {key}: quantised weights cannot be trained. Take the model's "
                "unquantised release, or its .gguf file."
            )
        if key.endswith("_token_id") and not _is_token(value):
            raise broken(f"{path.name}: {shown(key)} is {shown(value)}, which is no token.")
        if isinstance(value, str) and value:
            _check_place(key, value, path.name)


def _is_token(value: object) -> bool:
    """Of a list each part is looked at by itself."""
    return value is None or isinstance(value, list) or (isinstance(value, int) and value < 2**27)


def _check_place(key: str, value: str, file: str) -> None:
    address = file not in _WORDY and _ADDRESS.match(value)
    elsewhere = _PLACE_KEYS.match(key) and not (key.endswith("_file") and _FILE_NAME.match(value))
    if address or elsewhere:
        raise unsafe(
            f"{file}: {shown(key)} is {shown(value)}, which leads out of the directory. A model is "
            "taken as it lies there, and nothing else is fetched or read for it."
        )


def read_json(path: Path, *, limit_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object from a file. Raises FtdError when it is anything else, or too large."""
    with tree.opened(path) as file:
        text = file.read(limit_bytes + 1)
    if len(text) > limit_bytes:
        raise broken(f"{path.name} is larger than {limit_bytes:,} bytes.")
    return parse_json(text, path.name)


def parse_json(text: bytes, name: str) -> dict[str, Any]:
    """A JSON object in which no key is twice: readers disagree about which one counts. NaN and
    Infinity are no JSON, and no sizes, however they are written."""
    if text.count(b",") > MAX_VALUES:
        raise broken(f"{name} has more than {MAX_VALUES:,} values.")
    try:
        document = json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number
        )
    except RecursionError:
        raise broken(f"{name} is nested too deeply.") from None
    except ValueError as error:
        raise broken(f"{name} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise broken(f"{name} is not a JSON object.")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        ((twice, _), *_) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return document


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def items(value: object, file: str, key: str = "", depth: int = 1) -> Iterator[tuple[str, object]]:
    """Every key and value of a document, at whatever depth; an element of a list has its key.

    Raises FtdError for a document that is nested deeper than MAX_DEPTH levels.
    """
    if depth > MAX_DEPTH:
        raise broken(f"{file} is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, dict):
        for name, child in value.items():
            yield name, child
            yield from items(child, file, name, depth + 1)
    elif isinstance(value, list):
        for child in value:
            yield key, child
            yield from items(child, file, key, depth + 1)


def check_bounds(document: Mapping[str, Any], file: str = "config.json") -> None:
    """Refuse sizes that no model has, wherever they stand. Raises FtdError."""
    for key, value in items(document, file):
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        limit = next((limit for pattern, limit in _BOUNDS if pattern.match(key)), None)
        if limit is not None and not -1 <= value <= limit:
            raise broken(f"{file}: {shown(key)} is {value}; at most {limit:,} is allowed.")


def _architecture(document: Mapping[str, Any]) -> str:
    match document.get("architectures"):
        case [str(name)] if _ARCHITECTURE.match(name):
            return name
        case other:
            raise unsupported(
                f"config.json: architectures is {shown(other)}; one causal language model, as in "
                "['LlamaForCausalLM'], can be trained here."
            )


def _model_type(document: Mapping[str, Any]) -> str:
    name = document.get("model_type")
    if not isinstance(name, str) or not _MODEL_TYPE.match(name):
        raise broken(f"config.json: model_type is {shown(name)}; it must name a model family.")
    return name


def _number(document: Mapping[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        value = document.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise broken(f"config.json has no positive {names[0]}.")
