"""How many values a text of JSON holds, counted before anybody makes them.

A parser makes 60 bytes of memory of two of the text, and keeps the loop waiting though it runs in a
thread.
"""

import re
from itertools import islice

# What stands between values, and one of them or its beginning; it matches anything, and backtracks
# never, so that counting takes no longer for any bytes.
_VALUE = re.compile(rb"""[\s,:\]}]*+(?:"[^"]*+"?|[^\s"\[\]{},:]++|[\[{])?""")

_STRING = re.compile(rb'"[^"]*+"')


def holds_more(most: int, text: bytes) -> bool:
    """Whether there are more strings, numbers, objects and arrays than that, keys included."""
    if len(text) <= most:
        return False
    return next(islice(_VALUE.finditer(_unescaped(text)), most, None), None) is not None


def keys(text: bytes) -> int:
    """How many keys the objects of a text of JSON have, in all: one that is there twice is two."""
    return _STRING.sub(b"", _unescaped(text)).count(b":")


def _unescaped(text: bytes) -> bytes:
    """As long as it takes for no quote to end a string but its own."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"")
