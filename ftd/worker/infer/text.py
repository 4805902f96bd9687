"""Tokens to text, as they come: what is told never has to be taken back.

    right:  decode(window + [token])[len(decode(window)):]      a token's text depends on the last
    wrong:  decode([token])                                     half a character, a lost space

Text is held back while a token may yet change it: a character that is not complete, and the
beginning of a stop sequence. Joined, the pieces are exactly what the tokenizer decodes.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # what tokenizers of the SentencePiece family write for a space
_CONTEXT = 8  # tokens of a prompt that may have a say in how its first continuation is written


class Vocabulary:
    """A tokenizer's tokens, each by itself and in sequence. Read only, so threads may share it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, without the special ones among them."""
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def id(self, token: str) -> int | None:
        """The id of a token of exactly this text, or None."""
        found: int | None = self._added.get(token)
        return found

    def special(self, token: int) -> bool:
        """Whether decode leaves it out."""
        return token in self._special

    def loose(self, token: int) -> bool:
        """Whether the token is a single byte, whose text depends on the bytes behind it."""
        return self._bytewise and _BYTE.fullmatch(self._name(token)) is not None

    def bytes(self, token: int) -> bytes:
        """What the token stands for in a text, in UTF-8; not always whole characters."""
        name = self._name(token)
        if token in self._texts:
            return name.encode()
        if self._bytelevel and all(letter in self._letters for letter in name):
            return bytes(self._letters[letter] for letter in name)
        if self._bytewise and (byte := _BYTE.fullmatch(name)):
            return bytes([int(byte[1], 16)])
        return (name.replace(_SPACE, " ") if self._spaced else name).encode()

    def _name(self, token: int) -> str:
        # Models have more rows than their tokenizers have tokens.
        return self._tokenizer.convert_ids_to_tokens(token) or ""

    @cached_property
    def _texts(self) -> dict[int, str]:
        """Added tokens: written as they are."""
        return {at: str(token) for at, token in self._tokenizer.added_tokens_decoder.items()}

    @cached_property
    def _added(self) -> dict[str, int]:
        return {text: at for at, text in self._texts.items()}

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self._tokenizer.all_special_ids) | {
            at for at, token in self._tokenizer.added_tokens_decoder.items() if token.special
        }

    @cached_property
    def _letters(self) -> dict[str, int]:
        """The letters in which byte-level vocabularies write bytes (GPT-2's)."""
        return {letter: byte for byte, letter in bytes_to_unicode().items()}

    @cached_property
    def _bytelevel(self) -> bool:
        return self._shows(["\u0120"]) == " "

    @cached_property
    def _bytewise(self) -> bool:
        return self._shows(["<0x41>"]) == "A"

    @cached_property
    def _spaced(self) -> bool:
        return self._shows(["a", _SPACE + "b"]) == "a b"

    def _shows(self, names: list[str]) -> str | None:
        """How the tokenizer's own decoder writes such tokens."""
        decoder = getattr(getattr(self._tokenizer, "backend_tokenizer", None), "decoder", None)
        return None if decoder is None else decoder.decode(names)


class Detokenizer:
    """One answer's text, token by token. With `before`, the answer goes on from that prompt."""

    def __init__(self, vocabulary: Vocabulary, before: Sequence[int] = ()) -> None:
        self._vocabulary = vocabulary
        self._window = list(before[-_CONTEXT:])  # decoding begins here
        self._told = vocabulary.decode(self._window).rstrip(_BROKEN) if before else ""
        self._fresh = len(self._window)  # from here on the window's tokens are not told

    def push(self, token: int) -> str:
        """The text that is certain now and was not before."""
        if self._vocabulary.special(token):
            return ""  # decoding joins the bytes before it to those behind it
        self._window.append(token)
        if self._vocabulary.loose(token):
            return ""
        text = self._vocabulary.decode(self._window)
        if text.endswith(_BROKEN) or len(text) <= len(self._told):
            return ""
        new = text[len(self._told) :]
        self._window = self._window[self._fresh :]
        self._fresh = len(self._window)
        self._told = self._vocabulary.decode(self._window)
        return new

    def end(self) -> str:
        """What was held back: no token follows, or none that belongs to this text."""
        new = self._vocabulary.decode(self._window)[len(self._told) :]
        self._window, self._told, self._fresh = [], "", 0
        return new


class Stops:
    """Cuts text before a sequence: the one of several that is complete first, wherever the pieces
    are parted."""

    def __init__(self, sequences: Iterable[str]) -> None:
        self._sequences = [sequence for sequence in sequences if sequence]
        self._held = ""
        self.hit = False

    @property
    def held(self) -> int:
        """Characters that were pushed and not yet told."""
        return len(self._held)

    def push(self, text: str) -> str:
        """The text that is certain now. Once `hit`, nothing more is."""
        if self.hit or not self._sequences:
            return "" if self.hit else text
        text = self._held + text
        found = [(at + len(each), at) for each in self._sequences if (at := text.find(each)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, sequence) for sequence in self._sequences)
        certain = len(text) - keep
        self._held = text[certain:]
        return text[:certain]

    def end(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, sequence: str) -> int:
    """How much of the end of `text` is the beginning of `sequence`, but not all of it."""
    for length in range(min(len(text), len(sequence) - 1), 0, -1):
        if text.endswith(sequence[:length]):
            return length
    return 0
