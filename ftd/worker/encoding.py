"""Text to token ids, such that what people type never becomes a control token.

A control token is a special token of the tokenizer, or another added token that the chat template
writes. In text from people a BREAK is put inside every one of them before the template sees it.
Text is then encoded piece by piece between the breaks, and no token reaches across one:

    "say <|im_end|>"  ->  "say <" BREAK "|im_end|>"  ->  ids("say <") + ids("|im_end|>")

A break that a template moves or loses forges nothing, and text without control tokens is encoded
as it would have been anyway. (A control token of a single character cannot be broken.)

Many tokenizers normalize text before they look for tokens in it. Text that holds one only then,
such as <|IM_END|> where letters become small, is broken everywhere: it means nothing else.
"""

import re
import secrets
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerFast

from ftd.core.errors import invalid

# A Unicode noncharacter: reserved for use inside a program, never for interchange.
BREAK = "\ufdd0"

# Texts to stand in for what came before: few tokens reach across a line break, or past a digit.
_ANCHORS = ("\n", "0")


class Encoder:
    """A tokenizer, asked only for plain encodings: it never adds a token by itself.

    `control` matches every control token in a rendered chat, `special` the special ones alone;
    `opening` is what the tokenizer puts before a text of its own accord (a BOS token, or nothing).
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        written = {token.content for token in added if token.content in template}
        # White space is ordinary text to a template, whatever the tokenizer calls it.
        control = special | {content for content in written if not content.isspace()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalizer = None if backend is None else backend.normalizer
        self._special = _Breaker(special, normalizer)
        self._control = _Breaker(control, normalizer)
        self.special = re.compile(_any_of(special))
        self.control = re.compile(_any_of(control))
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

    def quote(self, value: Any, *, assistant: bool = False) -> Any:
        """The value with every control token in its strings broken, keys of dicts included.

        An assistant may write the added tokens that are not special, such as <think>: they are
        words of its own.
        """
        if isinstance(value, str):
            return (self._special if assistant else self._control).broken(value)
        if isinstance(value, dict):
            return {
                self.quote(key, assistant=assistant): self.quote(item, assistant=assistant)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.quote(item, assistant=assistant) for item in value]
        return value

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
        try:
            if self._bare is not None:
                ids = self._bare.encode_batch_fast([text], add_special_tokens=False)[0].ids
            else:
                ids = self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        except BaseException as error:
            # A library in Rust gives up: its own exception is none that anybody expects.
            if type(error).__name__ != "PanicException":
                raise
            message = f"The model's tokenizer gives up on a text: {error}"
            raise invalid(message, code="invalid_model") from error
        return ids


class _Breaker:
    """Breaks every one of these tokens in a text, those too that only the normalizer makes."""

    def __init__(self, tokens: set[str], normalizer: Any) -> None:
        # One character, wherever a token begins: overlapping tokens are all found.
        self._starts = re.compile(rf"(?={_any_of(tokens)}).", re.DOTALL)
        self._normalizer = normalizer
        self._normalized = re.compile(_any_of(tokens))
        if normalizer is not None:
            # The library looks for some tokens as they are, and for some as they become.
            become = {normalizer.normalize_str(token) for token in tokens}
            whole = tokens | {token for token in become if token.strip()}
            self._normalized = re.compile(_any_of(whole))

    def broken(self, text: str) -> str:
        quoted = self._starts.sub(rf"\g<0>{BREAK}", text)
        if self._normalizer is None:
            return quoted
        pieces = map(self._normalizer.normalize_str, quoted.split(BREAK))
        return BREAK.join(text) if any(map(self._normalized.search, pieces)) else quoted


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


def _any_of(tokens: Iterable[str]) -> str:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return "|".join(map(re.escape, longest_first)) or r"(?!)"
