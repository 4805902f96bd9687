"""Which regular expressions a tokenizer may have: those that no text can hold up.

Oniguruma, which runs them, goes back and tries again. How often is a matter of form: a repetition
of what repeats itself, (a+)+, tries every way to cut a text into runs; k repetitions behind one
another try the text's length to the power of k. Published tokenizers have neither.
"""

import re
from dataclasses import dataclass

MAX_CHARACTERS = 4000
MAX_ENDLESS = 3  # repetitions in one alternative

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PLAIN_ESCAPES = frozenset("pPsSdDwWbBAzZnrtfveahHGxu")  # no references, calls, control characters
_WHOLE_ESCAPE = re.compile(r"\\(?:[pPx]\{[^}]*\}|.)", re.DOTALL)
# Flags, groups and looks around; not comments, conditions, nor the flag that allows for comments.
_OPENING = re.compile(r"\((?:\?(?:[imsu-]*:|=|!|<=|<!|>|(?P<flags>[imsu-]+\))))?")
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\})[+?]?")


@dataclass(slots=True)
class _Part:
    """A group, or a single character; `endless` repetitions in the worst of its alternatives."""

    endless: int = 0
    worst: int = 0
    varies: bool = False  # may match in more ways than one
    repeated: bool = False

    def next_alternative(self) -> None:
        self.worst = max(self.worst, self.endless)
        self.endless = 0
        self.varies = True

    def close(self) -> None:
        self.endless = max(self.worst, self.endless)


def is_tame(pattern: str) -> bool:
    """Whether an expression is of a form that no text can hold up; False also for rare syntax."""
    escapes = _ESCAPE.findall(pattern)
    if len(pattern) > MAX_CHARACTERS or any(
        char.isalnum() and char not in _PLAIN_ESCAPES for char in escapes
    ):
        return False
    groups = [_Part()]
    last: _Part | None = None  # what a quantifier would repeat
    at = 0
    while at < len(pattern):
        found = None
        if pattern[at] == "(":
            found = _OPENING.match(pattern, at)
            if found is None or pattern.startswith("?", found.end()):
                return False
            if found["flags"] is None:
                groups.append(_Part())
            last = None
        elif pattern[at] == ")":
            if len(groups) == 1:
                return False
            last = groups.pop()
            last.close()
            groups[-1].endless += last.endless
            groups[-1].varies |= last.varies
        elif pattern[at] == "|":
            groups[-1].next_alternative()
            last = None
        elif last is not None and (found := _QUANTIFIER.match(pattern, at)):
            if not _repeat(groups[-1], last, found):
                return False
        else:
            last = _Part()
        at = _after(pattern, at) if found is None else found.end()
    groups[0].close()
    return len(groups) == 1 and groups[0].endless <= MAX_ENDLESS


def _repeat(group: _Part, part: _Part, quantifier: re.Match[str]) -> bool:
    """Repeat the last part of a group; False where that may take for ever."""
    if part.repeated:
        return False
    least, comma, most = quantifier["least"], quantifier["comma"], quantifier["most"]
    if comma is None:
        endless, times = quantifier[0][0] != "?", 1
        fixed = False
    else:
        endless = bool(comma) and not most
        times = int(most or least or 1)
        fixed = not comma
    if endless and part.varies:
        return False
    group.endless += 1 if endless else part.endless * (times - 1)
    group.varies |= not fixed
    part.repeated = True
    return group.endless <= MAX_ENDLESS


def _after(pattern: str, at: int) -> int:
    """Behind the character, escape or class of characters that begins here."""
    if pattern[at] == "\\":
        escape = _WHOLE_ESCAPE.match(pattern, at)
        return len(pattern) if escape is None else escape.end()
    if pattern[at] != "[":
        return at + 1
    depth = 0
    while at < len(pattern):
        depth += {"[": 1, "]": -1}.get(pattern[at], 0)
        at += 2 if pattern[at] == "\\" else 1
        if depth == 0:
            break
    return at
