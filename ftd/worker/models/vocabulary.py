"""A byte-level BPE tokenizer as llama.cpp wants to hear of it.

llama.cpp has the ways in which tokenizers split text before they merge by heart, and knows each by
a name (llama-vocab.cpp). A tokenizer that splits in another way is refused: it would read the same
text as other tokens.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from ftd.worker.models.refusal import unsupported

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The regular expression of a split -> llama.cpp's name for it.
_SPLITS: Mapping[str, str] = {_WORDS % r"\p{N}{1,3}": "llama-bpe", _WORDS % r"\p{N}": "qwen2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Tokens by id with their kinds, merges in order, and what llama.cpp calls its splitter."""

    splitter: str
    tokens: Sequence[str]
    kinds: Sequence[int]
    merges: Sequence[str]
    bos: int | None
    eos: int | None
    unknown: int | None
    padding: int | None
    begins: bool  # a text is given a bos token
    ends: bool  # and an eos token
    template: str | None


def read_vocabulary(model: Path, size: int) -> Vocabulary:
    """The vocabulary of a model directory, filled up to the `size` of the model's embedding.

    Raises FtdError for a tokenizer that is no byte-level BPE, or splits in an unknown way.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        model, local_files_only=True, trust_remote_code=False
    )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused("it has no fast form")
    document = json.loads(backend.to_str())
    splitter = _splitter(document)
    tokens, kinds = _tokens(document, size)
    ids = tokenizer("a")["input_ids"]
    return Vocabulary(
        splitter=splitter,
        tokens=tokens,
        kinds=kinds,
        merges=[_merge(pair) for pair in document["model"]["merges"]],
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        unknown=tokenizer.unk_token_id,
        padding=tokenizer.pad_token_id,
        begins=ids[0] == tokenizer.bos_token_id,
        ends=ids[-1] == tokenizer.eos_token_id,
        template=tokenizer.chat_template,
    )


def _splitter(document: Mapping[str, Any]) -> str:
    bpe = document["model"]
    if bpe["type"] != "BPE" or bpe.get("byte_fallback"):
        raise _refused(f"it is no byte-level BPE but {bpe['type']}")
    if not bpe["merges"]:
        raise _refused("it merges nothing, which llama.cpp takes for a fault")
    normalizer = document.get("normalizer")
    if normalizer is not None and normalizer != {"type": "NFC"}:
        raise _refused("it changes text before it reads it")
    stages = document.get("pre_tokenizer") or {}
    found = stages.get("pretokenizers", [stages]) if isinstance(stages, dict) else []
    match [_plain(stage) for stage in found]:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            name = "gpt-2"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]:
            name = "smollm"
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if pattern in _SPLITS:
            name = _SPLITS[pattern]
        case _:
            raise _refused("it splits text in a way that llama.cpp has no name for")
    if normalizer is not None and name != "qwen2":
        raise _refused("it changes text before it reads it")
    return name


def _plain(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {"use_regex": True, **stage}


def _tokens(document: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Tokens by id; ids that the tokenizer has no word for are named and never made."""
    tokens = [f"[PAD{index}]" for index in range(size)]
    kinds = [int(gguf.TokenType.UNUSED)] * size
    for word, index in document["model"]["vocab"].items():
        tokens[index], kinds[index] = word, int(gguf.TokenType.NORMAL)
    for added in document.get("added_tokens", ()):
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    return tokens, kinds


def _merge(pair: Sequence[str] | str) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def _refused(why: str) -> Exception:
    return unsupported(
        f"the tokenizer cannot be converted to GGUF: {why}. Export the model as merged and convert "
        "it by llama.cpp's convert_hf_to_gguf.py."
    )
