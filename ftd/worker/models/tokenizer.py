"""Judges a tokenizer by its JSON: what a short text could be made into, and how long that takes.

The `tokenizers` library does what the file says, in Rust, where nothing interrupts it. So a file
may not say: put a million letters for one, pad to a billion tokens, look for (a+)+.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from ftd.worker.models.configs import items
from ftd.worker.models.patterns import is_tame
from ftd.worker.models.refusal import broken, shown, unsafe

# Each far above that of every published tokenizer.
MAX_ID = 2**22
MAX_TOKEN_CHARACTERS = 1000
MAX_ADDED_TOKENS = 2**14  # people's text is searched for each
MAX_ADDED_CHARACTERS = 2**20  # of all of them
MAX_PARTS = 10_000
MAX_PATTERNS = 50
MAX_PADDING = 2**17
MAX_GROWTH = 64  # of a text, before it is cut into tokens
MAX_WORD_CHARACTERS = 200
MAX_AFFIX_CHARACTERS = 64  # of what is put before or behind each piece of a word

_STAGES = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")


def check_tokenizer(document: Mapping[str, Any], file: str = "tokenizer.json") -> None:
    """Refuse what makes much out of little, or takes long over it. Raises FtdError."""
    stages = {name: document.get(name) for name in _STAGES}
    parts = list(islice(items(stages, file), MAX_PARTS + 1))
    if len(parts) > MAX_PARTS:
        raise unsafe(f"{file} has more than {MAX_PARTS:,} parts besides its words.")
    _check_patterns([value for key, value in parts if key == "Regex"], file)
    _check_growth(parts, file)
    for key, value in parts:
        if key in ("Fixed", "pad_to_multiple_of") and _is_above(value, MAX_PADDING):
            raise unsafe(f"{file} pads to {value:,} tokens; at most {MAX_PADDING:,} are allowed.")
    added = document.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        raise broken(f"{file} has no list of at most {MAX_ADDED_TOKENS:,} added tokens.")
    characters = 0
    for token in added:
        match token:
            case {"id": int(number), "content": str(content)}:
                _check_words([(content, number)], file)
                characters += len(content)
            case _:
                raise broken(f"{file} has an added token without an id and content.")
    if characters > MAX_ADDED_CHARACTERS:
        raise broken(f"{file} has added tokens of {characters:,} characters.")
    _check_model(document.get("model"), file)


def check_vocabulary(document: Mapping[str, Any], file: str) -> None:
    """The same for a file that has words and their numbers alone."""
    _check_words(document.items(), file)


def _check_model(model: object, file: str) -> None:
    if not isinstance(model, dict):
        raise broken(f"{file} has no model.")
    if _is_above(model.get("max_input_chars_per_word"), MAX_WORD_CHARACTERS):
        raise unsafe(f"{file} looks for words of any length in words of any length.")
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(str(model.get(affix, ""))) > MAX_AFFIX_CHARACTERS:
            raise unsafe(f"{file} puts long texts for short ones.")
    match model.get("vocab"):
        case dict(words):
            _check_words(words.items(), file)
        case list(words):  # Unigram's, with the logarithms of how likely they are
            try:
                _check_words(((word, number) for number, (word, _) in enumerate(words)), file)
            except (TypeError, ValueError) as error:
                raise broken(f"{file} has a word without a score.") from error
        case _:
            raise broken(f"{file} has no vocabulary.")


def _check_words(words: Iterable[tuple[object, object]], file: str) -> None:
    for word, number in words:
        if not isinstance(word, str) or len(word) > MAX_TOKEN_CHARACTERS:
            raise broken(f"{file} has a token of more than {MAX_TOKEN_CHARACTERS:,} characters.")
        if not isinstance(number, int) or not 0 <= number < MAX_ID:
            raise broken(f"{file} gives {shown(word)} the number {shown(number)}.")


def _check_patterns(patterns: list[object], file: str) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise unsafe(f"{file} has {len(patterns):,} regular expressions.")
    for pattern in patterns:
        if not isinstance(pattern, str) or not is_tame(pattern):
            raise unsafe(
                f"{file}: the regular expression {shown(pattern)} may take for ever on a text "
                "that is made for it."
            )


def _check_growth(parts: list[tuple[str, object]], file: str) -> None:
    growth = 1
    for key, value in parts:
        if key in ("content", "prepend") and isinstance(value, str):
            growth *= max(1, len(value))
        elif key == "precompiled_charsmap" and isinstance(value, str):
            growth *= _longest(value, file)
        if growth > MAX_GROWTH:
            raise unsafe(f"{file} puts long texts for short ones.")


def _longest(charsmap: str, file: str) -> int:
    """Of the characters that SentencePiece puts for others: a trie and its size before them."""
    try:
        blob = base64.b64decode(charsmap, validate=True)
    except (binascii.Error, ValueError) as error:
        raise broken(f"{file} has a precompiled_charsmap that is no base64.") from error
    texts = blob[4 + int.from_bytes(blob[:4], "little") :]
    return max(1, *(len(text.decode(errors="replace")) for text in texts.split(b"\0")))


def _is_above(value: object, limit: int) -> bool:
    return isinstance(value, int | float) and value > limit
