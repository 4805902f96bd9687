"""GGUF files become safetensors directories with the same numbers, words and template."""

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from ftd.core.errors import FtdError
from ftd.worker.models.check import check_directory
from ftd.worker.models.convert import check_header, convert
from ftd.worker.models.load import prove
from tests.worker.models.directories import HEADS, HIDDEN, INNER, TEMPLATE, write_json

WORDS = ["<eos>", *(chr(code) for code in range(33, 127)), "\u0120", "ab"]
NAMES = {
    "token_embd": (len(WORDS), HIDDEN),
    "blk.0.attn_q": (HIDDEN, HIDDEN),
    "blk.0.attn_k": (HIDDEN, HIDDEN),
    "blk.0.attn_v": (HIDDEN, HIDDEN),
    "blk.0.attn_output": (HIDDEN, HIDDEN),
    "blk.0.ffn_gate": (INNER, HIDDEN),
    "blk.0.ffn_up": (INNER, HIDDEN),
    "blk.0.ffn_down": (HIDDEN, INNER),
    "blk.0.attn_norm": (HIDDEN,),
    "blk.0.ffn_norm": (HIDDEN,),
    "output_norm": (HIDDEN,),
}


def write_gguf(path: Path, *, without: str = "", dtype: type[np.floating] = np.float32) -> Path:
    """A llama of one layer that knows single characters, as llama.cpp's converter would write."""
    writer = GGUFWriter(path, "llama")
    writer.add_license("mit")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3] + [1] * (len(WORDS) - 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    chance = np.random.default_rng(1)
    for name, shape in NAMES.items():
        if name != without:
            kind = dtype if len(shape) > 1 else np.float32
            writer.add_tensor(f"{name}.weight", chance.normal(0, 0.1, shape).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_float32_weights_keep_every_bit(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    convert(write_gguf(tmp_path / "tiny.gguf"), tmp_path / "model")
    checked = check_directory(tmp_path / "model")
    assert checked.facts.dtype == "float32"
    assert checked.facts.vocabulary == len(WORDS)
    assert checked.facts.license == "mit"
    assert checked.facts.has_chat_template
    assert (tmp_path / "model" / "chat_template.jinja").read_text() == TEMPLATE
    prove(tmp_path / "model", checked.facts)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    embedding = np.random.default_rng(1).normal(0, 0.1, NAMES["token_embd"]).astype(np.float32)
    assert np.array_equal(tensors["model.embed_tokens.weight"], embedding)


def test_other_weights_become_bfloat16(tmp_path: Path) -> None:
    convert(write_gguf(tmp_path / "tiny.gguf", dtype=np.float16), tmp_path / "model")
    assert check_directory(tmp_path / "model").facts.dtype == "bfloat16"
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.gguf", "model"}


def test_what_lies_beside_the_file_is_not_read(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}})
    write_json(tmp_path / "config.json", {"auto_map": {"AutoConfig": "x.Y"}})
    (tmp_path / "x.py").write_text("raise SystemExit")
    convert(write_gguf(tmp_path / "tiny.gguf"), tmp_path / "model")
    for name in check_directory(tmp_path / "model").files:
        assert b"auto_map" not in (tmp_path / "model" / name).read_bytes()


def test_a_file_without_all_weights_is_refused(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf", without="blk.0.ffn_up")
    with pytest.raises(FtdError, match=r"it has no model\.layers\.0\.mlp\.up_proj\.weight"):
        convert(gguf, tmp_path / "model")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf")
    gguf.write_bytes(gguf.read_bytes()[:-3000])
    with pytest.raises(FtdError, match="is cut off") as refused:
        convert(gguf, tmp_path / "model")
    assert refused.value.code == "broken_model"


def head(version: int, tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.gguf", b"", "is no GGUF file"),
        ("x.gguf", b"PK\x03\x04" + bytes(40), "is no GGUF file"),
        ("x.gguf", head(1, 1, 1), "has GGUF version 1"),
        ("x.gguf", head(3, 2**60, 1), "claims"),
        ("x.gguf", head(3, 1, 2**60), "claims"),
        ("x-00001-of-00002.gguf", head(3, 1, 1), "one part of a split"),
    ],
)
def test_a_head_that_lies_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FtdError, match=words):
        check_header(tmp_path / name)
