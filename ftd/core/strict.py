"""JSON of a request: bounded, and with nothing about which readers disagree."""

import math
import re
from typing import Any

from pydantic_core import from_json

from ftd.core import amount, jsonline
from ftd.core.finding import quoted

# A number that a parser may take for infinity has an exponent or a length such as these.
_HUGE = re.compile(rb"\d[eE]\+?\d{3}|\d{200}")


def parse(text: bytes, *, values: int, depth: int) -> Any:
    """What the text says. Raises ValueError, whose words go on behind a colon, for what is no JSON
    or has a lone surrogate, a key twice, a number out of range, more values or levels than that."""
    if amount.holds_more(values, text):
        raise ValueError(f"it has more than {values:,} values")
    parsed = from_json(text, allow_inf_nan=False)
    # Brackets in strings count too, so this is an upper bound: cheap, and mostly enough.
    if text.count(b"{") + text.count(b"[") > depth and jsonline.nesting(parsed) > depth:
        raise ValueError(f"it nests deeper than {depth} levels")
    if amount.keys(text) != jsonline.keys(parsed):
        (twice, *_) = jsonline.repeated(text.decode())
        raise ValueError(f"it has the key {quoted(twice)} more than once")
    if _HUGE.search(text) and _has_infinity(parsed):
        raise ValueError("it has a number that is out of range")
    return parsed


def _has_infinity(value: object) -> bool:
    return any(isinstance(node, float) and math.isinf(node) for node in jsonline.values(value))
