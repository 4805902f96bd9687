"""Control tokens: how text that people type is kept from becoming one.

A control token is a special token of the tokenizer, or another added token that the chat template
writes. In text from people a BREAK is put inside every one of them before the template sees it:

    "say <|im_end|>"  ->  "say <" BREAK "|im_end|>"

and text is then encoded piece by piece between the breaks, so that no token reaches across one. Two
ways lead around that, and both are rare; a text that takes one is broken everywhere:

- Many tokenizers normalize text before they look for tokens in it, so that <|IM_END|> is one where
  letters become small.
- A template that writes "<" and ">" around a key makes a token of the key |im_end|. Such a text is
  no token, but may be a part of one: `overlaps` tells, and what the template makes of it shows.

(A control token of a single character cannot be broken.)
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ftd.core.errors import invalid

# A Unicode noncharacter: reserved for use inside a program, never for interchange.
BREAK = "\ufdd0"

# By these a template finds its way in what it is given, so they are never broken: the API's own
# names, and JSON Schema's.
NAMES = frozenset({
    "$defs", "$ref", "additionalProperties", "allOf", "anyOf", "arguments", "array", "assistant",
    "boolean", "const", "content", "default", "description", "developer", "enum", "format",
    "function", "id", "index", "integer", "items", "maxItems", "maxLength", "maximum", "minItems",
    "minLength", "minimum", "name", "not", "null", "nullable", "number", "object", "oneOf",
    "parameters", "pattern", "properties", "required", "role", "strict", "string", "system", "text",
    "title", "tool", "tool_call_id", "tool_calls", "tools", "type", "user",
})  # fmt: skip
_END = "\0"  # between tokens, where they are looked for

T = TypeVar("T")


class ControlTokens:
    """Some of a tokenizer's added tokens. `pattern` matches each of them in a rendered chat."""

    def __init__(self, tokens: Iterable[Any], normalizer: Any) -> None:
        added = {token.content: token for token in tokens}
        self.pattern = re.compile(_any_of(added))
        # One character, wherever a token begins: overlapping tokens are all found.
        self._starts = re.compile(rf"(?={_any_of(added)}).", re.DOTALL)
        self._normalize: Callable[[str], str] | None = normalizer and normalizer.normalize_str
        become: set[str] = set()
        if self._normalize is not None:
            # The library looks for some tokens as they become; its model may know all as they are.
            forms = [
                asked(self._normalize, content)
                for content, token in added.items()
                if token.normalized
            ]
            become = {text for text in (*added, *forms) if len(text.strip()) > 1}
        self._normalized = re.compile(_any_of(become))
        known = added.keys() | become
        self._joined = _END + _END.join(sorted(known)) + _END
        self._longest = max(map(len, known), default=0)
        self._heads = re.compile(rf"(?={_any_of({text[:2] for text in known if len(text) > 1})})")
        self._tails = re.compile(rf"(?={_any_of({text[-2:] for text in known if len(text) > 1})})")

    def broken(self, text: str, *, wary: bool = False) -> str:
        """The text with every token in it broken; `wary`: with every part of one broken, too."""
        if wary and self.overlaps(text):
            return BREAK.join(text)
        quoted = self._starts.sub(rf"\g<0>{BREAK}", text)
        return BREAK.join(text) if self._hidden(quoted) else quoted

    def overlaps(self, text: str) -> bool:
        """Whether text before and behind it could make a token of two of its characters or more."""
        if text in NAMES:
            return False
        if self._normalize is not None:
            text = asked(self._normalize, text)
        if 1 < len(text) <= self._longest and text in self._joined:
            return True
        head, tail = text[: self._longest], text[-self._longest :]
        return any(
            _END + tail[found.start() :] in self._joined for found in self._heads.finditer(tail)
        ) or any(
            head[: found.start() + 2] + _END in self._joined for found in self._tails.finditer(head)
        )

    def found(self, text: str) -> list[str]:
        """The tokens in a rendered chat, in their order; those that are hidden come last."""
        return self.pattern.findall(text) + self._hidden(text)

    def _hidden(self, text: str) -> list[str]:
        """The tokens that are there only when it is normalized."""
        if self._normalize is None:
            return []
        pieces = [asked(self._normalize, piece) for piece in text.split(BREAK)]
        return [token for piece in pieces for token in self._normalized.findall(piece)]


def asked(library: Callable[..., T], *args: object, **options: object) -> T:
    """What a library in Rust answers. Raises INVALID where it gives up, which is no Exception."""
    try:
        return library(*args, **options)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        message = f"The model's tokenizer gives up on a text: {error}"
        raise invalid(message, code="invalid_model") from error


def _any_of(texts: Iterable[str]) -> str:
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return "|".join(map(re.escape, longest_first)) or r"(?!)"
