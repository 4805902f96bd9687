"""A tiny model directory written by hand, for tests to take in or to spoil."""

import json
import math
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN, INNER, VOCABULARY, HEADS = 8, 16, 12, 2

CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "dtype": "float32",
}
_LAYER = "model.layers.0"
SHAPES: Mapping[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
    f"{_LAYER}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    f"{_LAYER}.self_attn.k_proj.weight": (HIDDEN, HIDDEN),
    f"{_LAYER}.self_attn.v_proj.weight": (HIDDEN, HIDDEN),
    f"{_LAYER}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    f"{_LAYER}.mlp.gate_proj.weight": (INNER, HIDDEN),
    f"{_LAYER}.mlp.up_proj.weight": (INNER, HIDDEN),
    f"{_LAYER}.mlp.down_proj.weight": (HIDDEN, INNER),
    f"{_LAYER}.input_layernorm.weight": (HIDDEN,),
    f"{_LAYER}.post_attention_layernorm.weight": (HIDDEN,),
    "model.norm.weight": (HIDDEN,),
    "lm_head.weight": (VOCABULARY, HIDDEN),
}
PARAMETERS = sum(math.prod(shape) for shape in SHAPES.values())

_WORDS = ["<eos>", "<unk>", "What", "is", "the", "capital", "of", "France", "?", "Paris", ".", "!"]
TOKENIZER: Mapping[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {
        "type": "WordLevel",
        "vocab": {word: number for number, word in enumerate(_WORDS)},
        "unk_token": "<unk>",
    },
}
TOKENIZER_CONFIG: Mapping[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<eos>{% endfor %}"


def write_model(directory: Path) -> Path:
    """A whole model that transformers loads: 1 layer, random weights, a dozen words."""
    directory.mkdir()
    write_json(directory / "config.json", CONFIG)
    write_json(directory / "generation_config.json", {"eos_token_id": 0})
    write_json(directory / "tokenizer.json", TOKENIZER)
    write_json(directory / "tokenizer_config.json", TOKENIZER_CONFIG)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    (directory / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Tiny\n")
    write_safetensors(directory / "model.safetensors", SHAPES)
    return directory


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def change_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON object in a file; a value of None removes the key."""
    document = {**json.loads(path.read_text()), **changes}
    write_json(path, {key: value for key, value in document.items() if value is not None})


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A float32 file of small random numbers, the same for the same names."""
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (at, end)}
        at = end
    chance = random.Random(str(sorted(shapes)))
    data = struct.pack(f"<{at // 4}f", *(chance.gauss(0, 0.1) for _ in range(at // 4)))
    write_raw(path, header, data)


def write_raw(path: Path, header: object, data: bytes) -> None:
    """A safetensors file with this header, true or not. A header of bytes is taken as it is."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def write_shards(directory: Path, count: int = 2) -> None:
    """Spread the weights over `count` files with an index, in place of the one file."""
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for number in range(count):
        shard = f"model-{number + 1:05}-of-{count:05}.safetensors"
        names = list(SHAPES)[number::count]
        write_safetensors(directory / shard, {name: SHAPES[name] for name in names})
        weight_map.update(dict.fromkeys(names, shard))
    write_json(
        directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map}
    )
