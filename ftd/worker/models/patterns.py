"""Which regular expressions a tokenizer may have: those that no text holds up for long.

Oniguruma, which runs them, goes back and tries again. How often is a matter of form: a repetition
of what repeats itself, (a+)+, tries every way to cut a text into runs; where something must follow
two repetitions, a*a*b, each is tried with each. Behind one of them it may, a*b: then a text takes
at worst the square of its length. Published tokenizers have nothing else.
"""

import re
from dataclasses import dataclass

MAX_CHARACTERS = 4000
MAX_GROUPS = 20  # within one another
MAX_WAYS = 100  # in which one place may match without repetitions
MAX_ENDLESS_BEFORE = 1  # repetitions before what must match

_SHORT = 8  # times; what may be repeated more often is as good as endless
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PLAIN_ESCAPES = frozenset("pPsSdDwWbBAzZnrtfveahHGxu")  # no references, calls, control characters
_WHOLE_ESCAPE = re.compile(r"\\(?:[pPx]\{[^}]*\}|.)", re.DOTALL)
# Flags, groups and looks around; not comments, conditions, nor the flag that allows for comments.
_OPENING = re.compile(r"\((?:\?(?:[imsu-]*:|>|(?P<around>=|!|<=|<!)|(?P<flags>[imsu-]+\))))?")
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(?P<least>\d{0,9})(?P<comma>,?)(?P<most>\d{0,9})\})[+?]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A character, group or sequence: in how many `ways` it matches besides those that its
    `endless` repetitions make, and how many of these stand before something in it that must
    match; None when nothing must."""

    ways: int = 1
    endless: int = 0
    before: int | None = 0

    @property
    def varies(self) -> bool:
        return self.ways > 1 or self.endless > 0

    def then(self, other: "_Part") -> "_Part":
        before = self.before
        if other.before is not None:
            before = max(before or 0, self.endless + other.before)
        return _Part(
            ways=self.ways * other.ways, endless=self.endless + other.endless, before=before
        )

    def either(self, other: "_Part") -> "_Part":
        known = [before for before in (self.before, other.before) if before is not None]
        return _Part(
            ways=self.ways + other.ways,
            endless=max(self.endless, other.endless),
            before=max(known, default=None),
        )


_NOTHING = _Part(before=None)


class _Wild(Exception):
    """The expression is of no form that is known to be tame."""


def is_tame(pattern: str) -> bool:
    """Whether an expression is of a form that no text holds up; False also for rare syntax."""
    escapes = _ESCAPE.findall(pattern)
    if len(pattern) > MAX_CHARACTERS or any(
        char.isalnum() and char not in _PLAIN_ESCAPES for char in escapes
    ):
        return False
    try:
        _, end = _alternatives(pattern, 0, depth=0)
    except _Wild:
        return False
    return end == len(pattern)


def _alternatives(pattern: str, at: int, depth: int) -> tuple[_Part, int]:
    """What is read up to a closing bracket or the end. Alternatives of the whole expression are
    tried one after another, and those of a group each with all that follows it."""
    if depth > MAX_GROUPS:
        raise _Wild
    found: _Part | None = None
    while True:
        part, at = _sequence(pattern, at, depth)
        found = part if found is None or depth == 0 else found.either(part)
        if pattern[at : at + 1] != "|":
            return found, at
        at += 1


def _sequence(pattern: str, at: int, depth: int) -> tuple[_Part, int]:
    whole = _NOTHING
    while at < len(pattern) and pattern[at] not in "|)":
        part, at = _element(pattern, at, depth)
        quantifier = _QUANTIFIER.match(pattern, at)
        if quantifier is not None:
            part, at = _repeated(part, quantifier), quantifier.end()
            if _QUANTIFIER.match(pattern, at):
                raise _Wild
        whole = whole.then(part)
        if whole.ways > MAX_WAYS or (whole.before or 0) > MAX_ENDLESS_BEFORE:
            raise _Wild
    return whole, at


def _element(pattern: str, at: int, depth: int) -> tuple[_Part, int]:
    """A group with its brackets, flags, or one character, escape or class."""
    if pattern[at] != "(":
        return _Part(), _after(pattern, at)
    opening = _OPENING.match(pattern, at)
    if opening is None or pattern.startswith("?", opening.end()):
        raise _Wild
    if opening["flags"] is not None:
        return _NOTHING, opening.end()
    part, at = _alternatives(pattern, opening.end(), depth + 1)
    if pattern[at : at + 1] != ")":
        raise _Wild
    if opening["around"] is not None:  # it is looked at to its end, each time anew
        part = _Part(ways=part.ways, endless=part.endless, before=part.endless)
    return part, at + 1


def _repeated(part: _Part, quantifier: re.Match[str]) -> _Part:
    least, most = _times(quantifier)
    if (most is None or most > 1) and part.varies:
        raise _Wild
    endless = most is None or most - least > _SHORT
    ways = part.ways if most is None or endless else part.ways + most - least
    return _Part(
        ways=ways,
        endless=1 if endless else part.endless,
        before=None if least == 0 else part.before,
    )


def _times(quantifier: re.Match[str]) -> tuple[int, int | None]:
    """How often at least and at most; None is without end."""
    sign = quantifier[0][0]
    if sign != "{":
        return (1 if sign == "+" else 0), (1 if sign == "?" else None)
    least, most = quantifier["least"], quantifier["most"]
    if not quantifier["comma"]:
        return int(least or 1), int(least or 1)
    return int(least or 0), int(most) if most else None


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
