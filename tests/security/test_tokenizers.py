"""A tokenizer is a program for a library that nothing interrupts: none makes much out of little."""

import base64
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from ftd.core.errors import FtdError
from ftd.worker.encoding import Encoder
from ftd.worker.models.add import add
from ftd.worker.models.patterns import is_tame
from tests.worker.chat_templates import byte_level
from tests.worker.models.directories import TOKENIZER, change_json, write_json

Spoil = Callable[[Path], object]

# Of published tokenizers: GPT-2, Llama 3, GPT-4o, Qwen, BLOOM, DeepSeek, CLIP, digits by three,
# Kimi, and what has possessive repetitions.
PUBLISHED = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+",
    (
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    (
        r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lo}&&[^\p{Han}]]*[\p{Ll}\p{Lo}&&[^\p{Han}]]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
    ),
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s+$",
    r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
)
ENDLESS = (
    *(r"(a+)+$", r"(a*)*$", r"(a|aa)+$", r"(?:a+b?)*c", r"((a)+)+", r"(a?){9,}", r"(a+){50}"),
    # what takes the third power of a text's length, and more
    *(r"a*a*b", r"\s*[\r\n]+x", r"a*b*$", r"a*b*(?!c)", r"a*(?:b*c)", r"(?:a*b*)c", r"a{2,}a+b"),
    *(r"a{0,999}a{0,999}b", r"a+a(?=a+b)", r"b?(?:a+\w*)(?!\w?)"),
    # and what has a thousand ways without any repetition
    *("a?" * 30 + "a" * 30, "(?:a|a)" * 20 + "b", r"((a{0,3}){0,3}){0,3}", r"(a{0,8}){8}"),
    *(r"a*a*a*a*b", r"(?:(?=a+)a)+x", r"(?<n>a+)+", r"(a)\1+", r"\g<0>", r"(?~ab)", r"a**"),
    # and what hides one from who reads it
    *((r"(?x)a # [" "\n" r"(a+)+ # ]"), r"(?#[)(a+)+(?#])", r"\c[(a+)+]", r"[\c[](a+)+]]"),
    *(r"(?(1)a+|b)+", ")", "(" * 50, "a" * 5000),
)


def stage(name: str, value: object) -> Spoil:
    return lambda model: change_json(model / "tokenizer.json", **{name: value})


def tokenizer_config(**changes: object) -> Spoil:
    return lambda model: change_json(model / "tokenizer_config.json", **changes)


def regex(pattern: str) -> Spoil:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return stage("pre_tokenizer", {**split, "invert": False})


def replacing(*contents: str) -> Spoil:
    steps = [
        {"type": "Replace", "pattern": {"String": "a"}, "content": content} for content in contents
    ]
    return stage("normalizer", {"type": "Sequence", "normalizers": steps})


def charsmap(longest: int) -> Spoil:
    blob = bytes(4) + b"\0" + longest * b"x" + b"\0"
    encoded = base64.b64encode(blob).decode()
    return stage("normalizer", {"type": "Precompiled", "precompiled_charsmap": encoded})


def vocabulary(**changes: object) -> Spoil:
    model: Any = TOKENIZER["model"]
    return stage("model", {**model, "vocab": {**model["vocab"], **changes}})


def added(count: int, **changes: object) -> Spoil:
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokens = [
        {"id": at, "content": f"<{at}>", "special": True, **token, **changes} for at in range(count)
    ]
    return stage("added_tokens", tokens)


PADDING = {
    "strategy": {"Fixed": 10**9},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<eos>",
}
BPE = {**TOKENIZER["model"], "type": "BPE", "merges": []}
REFUSED: dict[str, Spoil] = {
    "a regular expression without end": regex("(a+)+$"),
    "one in the normalizer": stage(
        "normalizer", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    ),
    "one in the decoder": stage(
        "decoder", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    ),
    "a hundred regular expressions": stage(
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": [{"x": {"Regex": "a"}} for _ in range(100)]},
    ),
    "a million letters for one": replacing(10**6 * "a"),
    "two for one, twenty times": replacing(*20 * ["aa"]),
    "a long beginning": stage("normalizer", {"type": "Prepend", "prepend": 10**5 * "a"}),
    "a map of characters to long texts": charsmap(10**5),
    "a map of characters that is none": stage(
        "normalizer", {"type": "Precompiled", "precompiled_charsmap": "!"}
    ),
    "padding to 10^9": stage("padding", PADDING),
    "padding to a multiple of 10^9": stage(
        "padding", {**PADDING, "strategy": "BatchLongest", "pad_to_multiple_of": 10**9}
    ),
    "a token of number 2^32 - 1": vocabulary(x=2**32 - 1),
    "a token below zero": vocabulary(x=-1),
    "a token that is very long": vocabulary(**{10**5 * "a": 11}),
    "a hundred thousand special tokens": added(10**5),
    "a special token that is very long": added(1, content=10**5 * "a"),
    "a special token of number 2^32 - 1": added(1, id=2**32 - 1),
    "a processor that adds a million": stage(
        "post_processor", {"type": "TemplateProcessing", "single": [{"x": 1}] * 10**6}
    ),
    "a tokenizer that is deep": lambda model: (model / "tokenizer.json").write_text(
        '{"a":' * 100_000 + "1" + "}" * 100_000
    ),
    "a word twice": lambda model: (model / "tokenizer.json").write_text(
        json.dumps(TOKENIZER).replace('"What": 2', '"What": 2, "What": 3')
    ),
    "words of any length in words of any length": stage(
        "model",
        {**TOKENIZER["model"], "type": "WordPiece", "max_input_chars_per_word": 10**9},
    ),
    "a long end of each word": stage("model", {**BPE, "end_of_word_suffix": 10**6 * "a"}),
    "a long beginning of each part": stage(
        "model", {**BPE, "continuing_subword_prefix": 10**6 * "a"}
    ),
    "words in a file of their own": lambda model: write_json(
        model / "vocab.json", {"a": 2**32 - 1}
    ),
    "a million values": lambda model: (model / "tokenizer.json").write_text(
        json.dumps({**TOKENIZER, "x": []}).replace('"x": []', f'"x": [{5 * 10**6 * "[],"}[]]')
    ),
    "another class than a tokenizer's": tokenizer_config(tokenizer_class="AutoModelForCausalLM"),
    "a function for a class": tokenizer_config(tokenizer_class="pipeline"),
    "a class of another library": tokenizer_config(tokenizer_class="os.system"),
}


# What only shows when it is tried, in a child: its words.
TRIED: dict[str, tuple[Spoil, str]] = {
    "a special token of the configuration that is very long": (
        tokenizer_config(added_tokens_decoder={"11": {"content": 10**5 * "x", "special": True}}),
        "token of more than 1,000 characters",
    ),
    "special tokens of the configuration by the thousand": (
        tokenizer_config(additional_special_tokens=[f"<{at}>" for at in range(20_000)]),
        "at most 16,384 added tokens",
    ),
    "special tokens of the configuration by the page": (
        tokenizer_config(additional_special_tokens=[f"{at:>900}" for at in range(2_000)]),
        "added tokens of 1,8",
    ),
}


def only(content: bytes) -> Spoil:
    """SentencePiece's file alone, and a class that reads it."""

    def spoil(model: Path) -> None:
        (model / "tokenizer.json").unlink()
        (model / "tokenizer.model").write_bytes(content)
        change_json(model / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")

    return spoil


TRIED |= {
    kind: (only(content), "the tokenizer does not (load|fit)")
    for kind, content in {
        "a SentencePiece file of nothing": b"",
        "a SentencePiece file of noise": bytes(range(256)) * 100,
        "a piece of 2^63 bytes": b"\x0a" + 8 * b"\xff" + b"\x7f" + b"x" * 100,
        "pieces within pieces": b"\x0a\x7f" * 10_000,
        "a pickle that is called SentencePiece's": pickle.dumps(print),
    }.items()
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused(kind: str, model: Path, shelf: Path, unseen: None) -> None:
    REFUSED[kind](model)
    with pytest.raises(FtdError) as refused:
        add(str(model), shelf / "evil")
    assert refused.value.code in ("unsafe_model", "broken_model")
    assert refused.value.message.isascii()
    assert not any(shelf.iterdir())


@pytest.mark.parametrize("kind", TRIED)
def test_it_is_refused_when_it_is_tried(kind: str, model: Path, shelf: Path) -> None:
    spoil, words = TRIED[kind]
    spoil(model)
    with pytest.raises(FtdError, match=words) as refused:
        add(str(model), shelf / "evil")
    assert refused.value.code in ("unsafe_model", "broken_model")
    assert not any(shelf.iterdir())


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_patterns_are_tame(pattern: str) -> None:
    assert is_tame(pattern)


@pytest.mark.parametrize("pattern", ENDLESS)
def test_patterns_without_end_are_not(pattern: str) -> None:
    assert not is_tame(pattern)


def test_a_pattern_that_holds_a_tokenizer_up_is_ended(
    model: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If its form is not known for what it is, trying it shows it: from outside, by its time."""
    monkeypatch.setattr("ftd.worker.models.tokenizer.is_tame", lambda _: True)
    monkeypatch.setattr("ftd.worker.models.load.TOKENIZER_SECONDS", 2.0)
    regex(r"(a|aa)+$")(model)
    began = time.monotonic()
    with pytest.raises(FtdError, match=r"did not end within 2 s|ended the process"):
        add(str(model), shelf / "evil")
    assert time.monotonic() - began < 30
    assert not any(shelf.iterdir())


def test_a_library_that_gives_up_takes_nobody_with_it() -> None:
    """Its exception is not one that threads expect: one that reads requests would end unheard."""
    tokenizer = byte_level(None, ("</s>",), eos="</s>")
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated"}
    raw["pre_tokenizer"] = {**split, "invert": False}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(raw))
    encoder = Encoder(tokenizer, "")
    with pytest.raises(FtdError, match="gives up"):
        encoder.ids(40 * "a" + "b")
