"""Control tokens: how text that people type is kept from becoming one.

A control token is a special token of the tokenizer, or another added token that the chat template
writes. In text from people a BREAK is put inside every one of them before the template sees it:

    "say <|im_end|>"  ->  "say <" BREAK "|im_end|>"

and text is then encoded piece by piece between the breaks, so that no token reaches across one. A
break that a template moves or loses forges nothing, and text without control tokens is encoded as
it would have been anyway. Two ways lead around that:

- Many tokenizers normalize text before they look for tokens in it, so that <|IM_END|> is one where
  letters become small.
- A template may write "<" and ">" around a key |im_end|, take "/think" out of <|im_/thinkend|>, or
  make letters small itself. What it makes is looked at: a chat that has other control tokens than
  one in which every end of one is broken, has them from people.

(A control token of a single character cannot be broken.)
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ftd.core.errors import invalid

# A Unicode noncharacter: reserved for use inside a program, never for interchange.
BREAK = "\ufdd0"

# By these a template finds its way in what it is given: the API's own names, and JSON Schema's.
NAMES = frozenset({
    "$defs", "$ref", "additionalProperties", "allOf", "anyOf", "arguments", "array", "assistant",
    "boolean", "const", "content", "default", "description", "developer", "enum", "format",
    "function", "id", "index", "integer", "items", "maxItems", "maxLength", "maximum", "minItems",
    "minLength", "minimum", "name", "not", "null", "nullable", "number", "object", "oneOf",
    "parameters", "pattern", "properties", "required", "role", "strict", "string", "system", "text",
    "title", "tool", "tool_call_id", "tool_calls", "tools", "type", "user",
})  # fmt: skip

_NONE = r"(?!)"

T = TypeVar("T")


class ControlTokens:
    """Some of a tokenizer's added tokens. `pattern` matches each of them in a rendered chat; those
    of `others` are words."""

    def __init__(self, tokens: Iterable[Any], normalizer: Any, others: Iterable[Any] = ()) -> None:
        added = {token.content: token for token in tokens}
        self.pattern = re.compile(_any_of(added))
        # One character, wherever a token begins: overlapping tokens are all found.
        first = _one_of(token[:1] for token in added)
        self._starts = re.compile(rf"(?={first})(?={_any_of(added)}).", re.DOTALL)
        self._words = re.compile(f"({_any_of(token.content for token in others)})")
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
        known = sorted(token for token in added.keys() | become if len(token) > 1)
        self._joined = "\0".join(known)
        self._ends = re.compile(_one_of(end for token in known for end in (token[0], token[-1])))

    def broken(self, text: str, *, wary: bool = False) -> str:
        """The text with every token in it broken; `wary`: with whatever may become one, too."""
        if wary and text not in NAMES:
            return self._apart(text)
        quoted = self._starts.sub(rf"\g<0>{BREAK}", text)
        if self._hidden(quoted):
            quoted = self._apart(text)
        return BREAK.join(text) if self._hidden(quoted) else quoted

    def suspects(self, text: str) -> bool:
        """Whether a template could make a token of it: it has an end of one, or is a part."""
        if text in NAMES:
            return False
        part = self._form(text).strip()
        return bool(part) and (part in self._joined or self._ends.search(part) is not None)

    def found(self, text: str) -> list[str]:
        """The tokens in a rendered chat, in their order; those that are hidden come last."""
        return self.pattern.findall(text) + self._hidden(text)

    def _apart(self, text: str) -> str:
        """The text with every end of a token by itself, and its own ends too."""
        ends = {character for character in set(text) if self._ends.search(self._form(character))}
        pieces = self._words.split(text)  # every other one is a word
        for at in range(0, len(pieces), 2):
            pieces[at] = "".join(f"{BREAK}{c}{BREAK}" if c in ends else c for c in pieces[at])
        return f"{BREAK}{''.join(pieces)}{BREAK}"

    def _hidden(self, text: str) -> list[str]:
        """The tokens that are there only when it is normalized."""
        if self._normalize is None:
            return []
        pieces = map(self._form, text.split(BREAK))
        return [token for piece in pieces for token in self._normalized.findall(piece)]

    def _form(self, text: str) -> str:
        return text if self._normalize is None else asked(self._normalize, text)


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
    return "|".join(map(re.escape, longest_first)) or _NONE


def _one_of(characters: Iterable[str]) -> str:
    chosen = "".join(sorted(map(re.escape, set(characters))))
    return f"[{chosen}]" if chosen else _NONE
