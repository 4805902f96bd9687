from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ftd.worker.infer.text import Detokenizer, Stops, Vocabulary
from tests.starter import starter_model
from tests.tiny import byte_tokenizer

SAMPLES = [
    "Hello, world!",
    "  leading,\ttabs\n\nand trailing  ",
    "\u0633\u0644\u0627\u0645 \u062f\u0646\u06cc\u0627\u060c \u0686\u0637\u0648\u0631\u06cc\u061f",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family, \U0001f1ee\U0001f1f7 flag, e\u0301 accent",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "a \ufffd b",
    "def f(x):\n    return x  # \u00e9",
]


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer like Llama 2's: marks for spaces, bytes for what it has no piece for."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["\u2581", "\u2581the", "\u2581ca", "t", "a", "e", "\u00e9", ".", "\u2581\u2581"]
    vocabulary = {piece: at for at, piece in enumerate(pieces + words)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS: dict[str, Any] = {
    "starter": AutoTokenizer.from_pretrained(starter_model()),
    "bytes": byte_tokenizer(),
    "sentencepiece": sentencepiece(),
}
VOCABULARIES = {name: Vocabulary(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def pieces(name: str, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    text = Detokenizer(VOCABULARIES[name], before)
    return [*(text.push(token) for token in ids), text.end()]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_joined_pieces_are_the_text_and_none_ends_inside_a_character(
    name: str, sample: str
) -> None:
    ids = TOKENIZERS[name].encode(sample, add_special_tokens=False)
    told = pieces(name, ids)
    assert "".join(told) == TOKENIZERS[name].decode(ids, skip_special_tokens=True)
    assert "".join(told) == sample
    assert sum("\ufffd" in piece for piece in told) == ("\ufffd" in sample)


def test_a_special_token_parts_no_bytes() -> None:
    ids = [197, 131, 0, 131]  # <0xC2> <0x80> <unk> <0x80>: no character, all together
    assert "".join(pieces("sentencepiece", ids)) == "\ufffd" * 3


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_of_any_tokens_joined_pieces_are_what_the_tokenizer_decodes(
    name: str, data: st.DataObject
) -> None:
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    assert "".join(pieces(name, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(max_size=30))
def test_of_any_text_joined_pieces_are_the_text(name: str, text: str) -> None:
    ids = TOKENIZERS[name].encode(text, add_special_tokens=False)
    assert "".join(pieces(name, ids)) == TOKENIZERS[name].decode(ids, skip_special_tokens=True)


def test_words_come_one_by_one() -> None:
    ids = TOKENIZERS["starter"].encode("Paris is the capital.", add_special_tokens=False)
    assert pieces("starter", ids) == ["Paris", " is", " the", " capital", ".", ""]


def test_an_answer_that_goes_on_from_a_prompt_keeps_its_space() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    prompt = tokenizer.encode("the", add_special_tokens=False)
    answer = tokenizer.encode("cat", add_special_tokens=False)
    assert "".join(pieces("sentencepiece", answer)) == "cat"
    assert "".join(pieces("sentencepiece", answer, prompt)) == " cat"


def test_special_tokens_are_no_text() -> None:
    end = TOKENIZERS["bytes"].convert_tokens_to_ids("<|im_end|>")
    ids = TOKENIZERS["bytes"].encode("ab", add_special_tokens=False)
    assert pieces("bytes", [ids[0], end, ids[1], end]) == ["a", "", "b", "", ""]
    assert VOCABULARIES["bytes"].special(end)
    assert VOCABULARIES["bytes"].id("<|im_end|>") == end
    assert VOCABULARIES["bytes"].id("a") is None, "only added tokens are asked for"


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_the_bytes_of_tokens_are_those_of_the_text(name: str, sample: str) -> None:
    ids = TOKENIZERS[name].encode(sample, add_special_tokens=False)
    joined = b"".join(VOCABULARIES[name].bytes(token) for token in ids)
    space = b" " if name == "sentencepiece" else b""
    assert joined == space + sample.encode()


def test_a_token_that_the_tokenizer_does_not_know_is_empty() -> None:
    assert VOCABULARIES["bytes"].bytes(5000) == b""
    assert pieces("bytes", [5000]) == ["", ""]


def cut(sequences: Sequence[str], parts: Sequence[str]) -> tuple[str, bool]:
    stops = Stops(sequences)
    told = ""
    for part in parts:
        told += stops.push(part)
        assert not any(sequence in told for sequence in sequences)
    return told + ("" if stops.hit else stops.end()), stops.hit


def test_text_is_cut_before_a_stop_sequence_across_pieces() -> None:
    assert cut(["\n\n"], ["a\n", "b\n", "\nc"]) == ("a\nb", True)
    assert cut(["END"], ["the E", "N", "d E", "ND."]) == ("the ENd ", True)
    assert cut(["bc", "abcd"], ["ab", "cd"]) == ("a", True)
    assert cut(["abcd", "b"], ["xabc"]) == ("xa", True)
    assert cut(["END"], ["the EN"]) == ("the EN", False)
    assert cut([], ["any"]) == ("any", False)


def test_what_may_begin_a_stop_sequence_is_held_back() -> None:
    stops = Stops(["aab"])
    assert stops.push("xaa") == "x"
    assert stops.held == 2
    assert stops.push("a") == "a"
    assert stops.push("b.") == ""
    assert stops.hit
    assert stops.push("more") == ""


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.text("abc", max_size=4)),
)
def test_how_text_is_parted_does_not_change_where_it_is_cut(
    sequences: list[str], parts: list[str]
) -> None:
    text = "".join(parts)
    told, hit = cut(sequences, parts)
    assert (told, hit) == cut(sequences, [text])
    assert (told, hit) == cut(sequences, list(text))
    assert hit == any(sequence in text for sequence in sequences)
    assert text.startswith(told)
    if not hit:
        assert told == text
    else:
        assert any(text[len(told) :].startswith(sequence) for sequence in sequences)


def test_a_vocabulary_tells_bytes_from_words() -> None:
    assert VOCABULARIES["sentencepiece"].loose(3 + 0x41)
    assert not VOCABULARIES["sentencepiece"].loose(3 + 256)
    assert not any(VOCABULARIES["starter"].loose(token) for token in range(300))
