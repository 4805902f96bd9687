"""What no log shows: keys of any kind, and the words of errors that quote what was sent.

It is the last thing before a line is written, for what nobody thought of: no line is meant to hold
a key, a prompt or a row of training data.
"""

import re
import traceback
from collections.abc import Iterator
from textwrap import indent

HIDDEN = "[hidden]"
WITHHELD = "(its words may quote what was sent; log_level debug shows them)"

_KEYS = re.compile(
    r"\bftd-[A-Za-z0-9]{32,}"  # the home's own; core.keys says what ours look like
    r"|\bftd_[A-Za-z0-9]+_[A-Za-z0-9]{32,}"
    r"|\bhf_[A-Za-z0-9]{16,}"  # Hugging Face's
    r"|\bsk-[A-Za-z0-9_-]{16,}"  # OpenAI's, which clients send here by mistake
    r"|(?<=\bbearer )[^\s'\",]+",
    re.IGNORECASE,
)
# What Python, pydantic and json say of a value, they say with the value.
_QUOTING = (ValueError, LookupError)


def without_keys(text: str) -> str:
    """The text, with every key in it hidden."""
    return _KEYS.sub(HIDDEN, text)


def quotes(error: BaseException) -> bool:
    """Whether the words of an error may quote what was sent."""
    return isinstance(error, _QUOTING)


def trace(error: BaseException) -> str:
    """The traceback and those before it, as Python writes them, but for words that may quote."""
    return "\n".join(_lines(error, set()))


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _lines(before, seen)
        yield "which led to:"
    for frame in traceback.format_tb(error.__traceback__):
        yield frame.rstrip("\n")
    words = WITHHELD if quotes(error) else str(error)
    yield f"{type(error).__qualname__}: {words}"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            if id(one) not in seen:
                yield indent("\n".join(_lines(one, seen)), "  ")
