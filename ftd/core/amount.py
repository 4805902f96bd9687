"""How many values a text of JSON holds, counted before anybody makes them.

A parser makes 60 bytes of memory of two of the text, and keeps the loop waiting though it runs in a
thread.
"""

import re
from itertools import islice

# What stands between values, and one of them or its beginning; it matches anything, and backtracks
# never, so that counting takes no longer for any bytes.
_VALUE = re.compile(rb"""[\s,:\]}]*+(?:"[^"]*+"?|[^\s"\[\]{},:]++|[\[{])?""")


def holds_more(most: int, text: bytes) -> bool:
    """Whether there are more strings, numbers, objects and arrays than that, keys included."""
    if len(text) <= most:
        return False
    # Then no quote ends a string but its own.
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return next(islice(_VALUE.finditer(unescaped), most, None), None) is not None
