"""Text to token ids, such that what people type never becomes a control token: control.py."""

import re
import secrets
from typing import Any

from transformers import PreTrainedTokenizerFast

from ftd.worker.control import BREAK, ControlTokens, asked

KEPT = frozenset({"id", "tool_call_id"})  # templates ask for their length
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

# Texts to stand in for what came before: few tokens reach across a line break, or past a digit.
_ANCHORS = ("\n", "0")


class Encoder:
    """A tokenizer, asked only for plain encodings: it never adds a token by itself.

    `control` matches every control token in a rendered chat, `special` the special ones alone;
    `opening` is what the tokenizer puts before a text of its own accord (a BOS token, or nothing).
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        added = list(tokenizer.added_tokens_decoder.values())
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalizer = None if backend is None else backend.normalizer
        # White space is ordinary text to a template, whatever the tokenizer calls it.
        written = [
            token
            for token in added
            if not token.content.isspace() and _writes(template, token.content)
        ]
        special = [token for token in added if token.special]
        words = [token for token in written if not token.special]
        self._special = ControlTokens(special, normalizer, words)
        self._control = ControlTokens([*special, *words], normalizer)
        self.special: re.Pattern[str] = self._special.pattern
        self.control: re.Pattern[str] = self._control.pattern
        self.eos: int | None = tokenizer.eos_token_id
        self.opening: list[int] = _opening(tokenizer)
        self._bare = _bare(tokenizer)
        self._tokenizer: Any = tokenizer if self._bare is None else None
        self._anchors = {anchor: self._plain(anchor) for anchor in _ANCHORS}
        self._marks_starts = self._plain("a") != self._anchored("a")

    def identity(self) -> str:
        """Two encoders with the same one give the same ids."""
        inner = secrets.token_hex() if self._bare is None else self._bare.to_str()
        known = (self.special.pattern, self.control.pattern, self.eos, self.opening)
        return f"{known}{inner}"

    def quote(self, value: Any, *, assistant: bool = False, wary: bool = False) -> Any:
        """The value with every control token in its strings broken, keys of dicts included; `wary`:
        with whatever a template may make one of, too.

        An assistant may write the added tokens that are not special, such as <think>: they are
        words of its own.
        """
        tokens = self._special if assistant else self._control

        def quoted(value: Any, wary: bool) -> Any:
            if isinstance(value, str):
                return tokens.broken(value, wary=wary)
            if isinstance(value, dict):
                return {
                    quoted(key, wary): quoted(item, wary and key not in KEPT)
                    for key, item in value.items()
                }
            if isinstance(value, list | tuple):
                return [quoted(item, wary) for item in value]
            return value

        return quoted(value, wary)

    def suspects(self, value: Any) -> bool:
        """Whether a template could make a control token of a string in it, or of a key."""
        if isinstance(value, str):
            return self._control.suspects(value)
        if isinstance(value, dict):
            return any(self.suspects(item) for pair in value.items() for item in pair)
        return isinstance(value, list | tuple) and any(map(self.suspects, value))

    def controls(self, text: str) -> list[str]:
        """The control tokens that a rendered chat has."""
        return self._control.found(text)

    def ids(self, text: str, *, continues: bool = False) -> list[int]:
        """The ids of rendered text; `continues` when other text stands before it."""
        first, *others = text.split(BREAK)
        ids = self._continued(first) if continues else self._plain(first)
        for piece in others:
            ids += self._continued(piece)
        return ids

    def _continued(self, text: str) -> list[int]:
        """Tokenizers of the SentencePiece family mark the start of a text; here is none."""
        return self._anchored(text) if self._marks_starts else self._plain(text)

    def _anchored(self, text: str) -> list[int]:
        """The ids of text behind a first anchor that no token joins to it."""
        for anchor, before in self._anchors.items():
            ids = self._plain(anchor + text)
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return self._plain(text)

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = []
        if not text:
            return ids
        if self._bare is not None:
            ids = asked(self._bare.encode_batch_fast, [text], add_special_tokens=False)[0].ids
        else:
            encode = self._tokenizer.encode
            ids = asked(encode, text, add_special_tokens=False, verbose=False)
        return ids


def _writes(template: str, token: str) -> bool:
    """Whether the template has the token, or what it writes around a role in it."""
    return token in template or any(
        all(part in template for part in token.split(role)) for role in ROLES if role in token
    )


def _bare(tokenizer: Any) -> Any:
    """The tokenizers.Tokenizer inside, which knows the same ids without the wrapper, None where
    the wrapper does more than ask it.

    The wrapper takes as long again for a short text, and is slow to send to another process. It
    has been asked once before, and left the inner one without truncation and padding.
    """
    plain = (
        isinstance(tokenizer, PreTrainedTokenizerFast)
        and type(tokenizer)._encode_plus is PreTrainedTokenizerFast._encode_plus  # noqa: SLF001
        and type(tokenizer).encode is PreTrainedTokenizerFast.encode
        and not tokenizer.split_special_tokens
    )
    return tokenizer.backend_tokenizer if plain else None


def _opening(tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer.encode("a", verbose=False)
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []
