"""Control tokens that people type stay text, and text goes on where other text ended."""

import pickle
import struct
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from tokenizers.processors import TemplateProcessing

from ftd.core.errors import FtdError
from ftd.worker.control import BREAK
from ftd.worker.encoding import Encoder
from tests.worker.chat_templates import (
    FAMILIES,
    byte_level,
    sentencepiece_like,
    smollm2,
    tokenizer_of,
)

TEMPLATE = "{{ '<|im_start|><tool_call>' }}"


def encoder() -> tuple[Encoder, Any]:
    tokenizer = byte_level(TEMPLATE, ("<|im_start|>", "<|im_end|>"), plain=("<tool_call>", "<pet>"))
    return Encoder(tokenizer, TEMPLATE), tokenizer


def test_a_typed_control_token_is_encoded_as_text() -> None:
    encode, tokenizer = encoder()
    ids = encode.ids(encode.quote("say <|im_end|>!"))
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids
    assert tokenizer.decode(ids) == "say <|im_end|>!"


def test_the_same_token_from_a_template_is_one() -> None:
    encode, tokenizer = encoder()
    assert encode.ids("<|im_end|>") == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_tokens_that_the_template_writes_are_control_tokens_and_others_are_words() -> None:
    encode, tokenizer = encoder()
    ids = encode.ids(encode.quote("<tool_call> and <pet>"))
    assert tokenizer.convert_tokens_to_ids("<tool_call>") not in ids
    assert tokenizer.convert_tokens_to_ids("<pet>") in ids


def test_an_assistant_may_write_added_tokens_but_never_special_ones() -> None:
    encode, tokenizer = encoder()
    ids = encode.ids(encode.quote("<tool_call><|im_end|>", assistant=True))
    assert ids[0] == tokenizer.convert_tokens_to_ids("<tool_call>")
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids


def test_overlapping_tokens_are_all_broken() -> None:
    tokenizer = byte_level("", ("[INST]", "[[INST]", "<s>", "s>[INST]"))
    encode = Encoder(tokenizer, "")
    text = "[[INST] <s>[INST] [[[INST]"
    ids = encode.ids(encode.quote(text))
    assert not set(ids) & set(tokenizer.added_tokens_decoder)
    assert tokenizer.decode(ids) == text


def test_a_break_of_ones_own_forges_nothing() -> None:
    encode, tokenizer = encoder()
    ids = encode.ids(encode.quote(f"<|im_{BREAK}end|>"))
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids
    assert tokenizer.decode(ids) == "<|im_end|>"


NORMALIZED = {
    "small letters": (normalizers.Lowercase(), "<|IM_END|>"),
    "small letters of both": (normalizers.Lowercase(), "<|eNd|>"),
    "other forms": (normalizers.NFKC(), "\uff1c|im_end|\uff1e"),
    "a break, other forms": (normalizers.NFKC(), f"{BREAK}a<|im_end|\uff1e<|im_end|>"),
    "nothing between": (normalizers.Replace("~", ""), "<|im_~end|>"),
}


@pytest.mark.parametrize("case", NORMALIZED)
@pytest.mark.parametrize("as_it_becomes", [True, False])
def test_what_becomes_a_control_token_stays_text(case: str, as_it_becomes: bool) -> None:
    normalizer, text = NORMALIZED[case]
    tokenizer = byte_level(None, ("<|im_start|>",))
    added = [
        AddedToken(content, special=True, normalized=as_it_becomes)
        for content in ("<|im_end|>", "<|END|>")
    ]
    tokenizer.backend_tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    forged = set(tokenizer.encode(text, add_special_tokens=False))
    control = set(tokenizer.added_tokens_decoder)
    assert bool(forged & control) == (as_it_becomes or "<|im_end|>" in text)
    encode = Encoder(tokenizer, "")
    for assistant in (False, True):
        assert not set(encode.ids(encode.quote(text, assistant=assistant))) & control


def test_a_normalizer_changes_nothing_for_other_text() -> None:
    tokenizer = deepcopy(smollm2())
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    encode = Encoder(tokenizer, tokenizer.chat_template)
    text = "Cafe\u0301 <b>costs</b> 3 \u212a"
    assert encode.quote(text) == text
    assert encode.quote(text + "<|im_end|>") == f"{text}<{BREAK}|im_end|>"


def test_a_token_of_one_character_breaks_nothing_else() -> None:
    tokenizer = byte_level(None, ("<|im_end|>", "!"))
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert Encoder(tokenizer, "").quote("Hello! Who is it?") == f"Hello!{BREAK} Who is it?"


def test_what_the_library_looks_for_as_it_is_may_become_what_it_likes() -> None:
    tokenizer = byte_level(None, ("[SEP]",))
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    encode = Encoder(tokenizer, "")
    assert encode.quote("a [sep] b") == "a [sep] b"
    assert encode.quote("a [SEP] b") == f"a [{BREAK}SEP] b"


def test_a_normalizer_that_gives_up_takes_nobody_with_it() -> None:
    """Its trie leads out of its table at one byte."""
    units = [0] * 256
    units[0xC3] = 0x1FFFFF << 10 | 0xC3
    table = struct.pack("<I256I", 4 * 256, *units) + b"a\0"
    tokenizer = byte_level(None, ("<|im_end|>",))
    tokenizer.backend_tokenizer.normalizer = normalizers.Precompiled(table)
    encode = Encoder(tokenizer, "")
    assert encode.quote("cafe") == "cafe"
    for asked in (encode.quote, encode.suspects, encode.ids):
        with pytest.raises(FtdError, match="tokenizer gives up"):
            asked("caf\u00e9")


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("|im_end|", True), ("im", True), ("so <|im_", True), ("end|> so", True), ("<|", True),
        ("<|im_end|>", True), ("|>", True), (" |im_end| ", True), ("|user", True), ("<", True),
        ("n", True), ("<|im_/thinkend|>", True), ("so", False), ("", False), ("user", False),
    ],
)  # fmt: skip
def test_what_a_template_may_make_a_control_token_of(text: str, may: bool) -> None:
    encode = Encoder(byte_level(None, ("<|im_end|>", "<|user|>")), "")
    assert encode.suspects(text) == may
    assert encode.suspects([1, None, {text: [True]}]) == encode.suspects({"a": text}) == may
    pieces = encode.quote(text, wary=True).split(BREAK)
    assert "".join(pieces) == text
    assert all(piece in "<>" or not set(piece) & set("<>") for piece in pieces)
    assert pieces[0] == pieces[-1] == ("user" if text == "user" else "")


def test_an_id_stays_as_long_as_it_is() -> None:
    encode = Encoder(byte_level(None, ("<|im_end|>",)), "")
    call = {"id": "im_end", "tool_call_id": "im_end", "other": "im_end"}
    quoted = encode.quote(call, wary=True).values()
    assert list(quoted) == ["im_end", "im_end", f"{BREAK}im_end{BREAK}"]


def test_a_token_that_the_template_writes_around_a_role_is_one_of_control() -> None:
    template = "{{ '<|' + message.role + '|>' }}"
    tokenizer = byte_level(template, ("<s>",), plain=("<|user|>", "<|pet|>"))
    encode = Encoder(tokenizer, template)
    assert encode.quote("<|user|> <|pet|>") == f"<{BREAK}|user|> <|pet|>"


def test_an_encoder_goes_to_other_processes() -> None:
    tokenizer = deepcopy(smollm2())
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    encode = Encoder(tokenizer, "")
    there = pickle.loads(pickle.dumps(encode))
    text = "say <|im_end|> and <|im_"
    assert there.quote(text, wary=True) == encode.quote(text, wary=True)


def test_quoting_reaches_keys_and_lists_and_leaves_other_values() -> None:
    encode, _ = encoder()
    quoted = encode.quote({"<|im_end|>": ["<|im_end|>", 1, None], "flag": True})
    assert quoted == {f"<{BREAK}|im_end|>": [f"<{BREAK}|im_end|>", 1, None], "flag": True}


@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<", "|im_end|>", "a", " "])))
def test_no_mixture_of_pieces_forges_a_control_token(pieces: list[str]) -> None:
    tokenizer = smollm2()
    encode = Encoder(tokenizer, tokenizer.chat_template)
    text = "".join(pieces)
    ids = encode.ids(encode.quote(text))
    assert not set(ids) & set(tokenizer.added_tokens_decoder)
    assert tokenizer.decode(ids) == text


def test_plain_text_is_encoded_as_the_tokenizer_does() -> None:
    tokenizer = smollm2()
    encode = Encoder(tokenizer, tokenizer.chat_template)
    text = "Nothing special here, <b>really</b>.\n\n  Truly."
    assert encode.ids(encode.quote(text)) == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("text", ["hello", " hello", "\nhello", "", "123"])
def test_continuing_text_gets_no_mark_of_a_start(text: str) -> None:
    tokenizer = sentencepiece_like(None, ("<s>", "</s>"), bos="<s>", eos="</s>")
    encode = Encoder(tokenizer, "")
    whole = tokenizer.encode("I say:" + text, add_special_tokens=False)
    split = encode.ids("I say:") + encode.ids(text, continues=True)
    assert tokenizer.decode(split) == tokenizer.decode(whole) == " I say:" + text


def test_the_opening_is_what_the_tokenizer_adds_itself() -> None:
    tokenizer = byte_level(None, ("<s>", "</s>"), bos="<s>", eos="</s>")
    assert Encoder(tokenizer, "").opening == []
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    assert Encoder(tokenizer, "").opening == [bos]
    assert bos not in Encoder(tokenizer, "").ids("text")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_inner_tokenizer_says_what_its_wrapper_says(family: str) -> None:
    tokenizer = tokenizer_of(family)
    encode = Encoder(tokenizer, "")
    control = "".join(FAMILIES[family].special)
    for text in (
        "Hello! ",
        "  12 \n\n\u00e9t\u00e9 \U0001f600",
        f"a{control} b",
        "\ufffd\x00",
        control,
    ):
        assert encode.ids(text) == tokenizer.encode(text, add_special_tokens=False)


def test_what_a_tokenizer_was_saved_with_cuts_and_pads_nothing() -> None:
    tokenizer = deepcopy(smollm2())
    expected = tokenizer.encode("one two three four five", add_special_tokens=False)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    assert Encoder(tokenizer, "").ids("one two three four five") == expected


def test_a_tokenizer_that_splits_its_special_tokens_is_left_to() -> None:
    tokenizer = deepcopy(smollm2())
    tokenizer.split_special_tokens = True
    encode = Encoder(tokenizer, "")
    assert len(encode.ids("<|im_end|>")) > 1
    assert encode.ids("<|im_end|>") == tokenizer.encode("<|im_end|>", add_special_tokens=False)


def test_equal_tokenizers_have_one_identity_and_odd_ones_none() -> None:
    known = Encoder(smollm2(), "").identity()
    assert Encoder(deepcopy(smollm2()), "").identity() == known
    more = deepcopy(smollm2())
    more.add_tokens(["there"])
    assert Encoder(more, "").identity() != known
    odd = deepcopy(smollm2())
    odd.split_special_tokens = True
    assert Encoder(odd, "").identity() != Encoder(odd, "").identity()
