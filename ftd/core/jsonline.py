"""Strict JSON of one line: what every reader on earth agrees on, or a clear reason why not.

Python's reader takes more than JSON (NaN, numbers without end, nesting until the stack is full,
halves of characters). What we let pass is read again by trainers, templates and other tools, so
here it is a fault that says where and why.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from ftd.core.finding import kind, quoted

BOM = b"\xef\xbb\xbf"
MAX_DIGITS = 4300  # of an integer: CPython's own limit, which an environment variable may lift
MAX_DEPTH = 200  # where nobody says otherwise
MAX_REPEATED = 8  # keys named, give or take one object's
HINT_CHARACTERS = 20

_Hook: TypeAlias = Callable[[list[tuple[str, Any]]], dict[str, Any]]  # makes an object of its pairs


class LineError(ValueError):
    """A line that is not strict JSON. `code` is machine-readable, `fix` says what to do.

    `limit`: the line may well be JSON, but it passes a bound of ours or of sense. `path` is the
    key path at fault, where there is one.
    """

    def __init__(
        self, code: str, reason: str, fix: str, *, limit: bool = False, path: str = ""
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.fix = fix
        self.limit = limit
        self.path = path


class Parsed(NamedTuple):
    value: dict[str, Any]
    repeated: list[str]  # the names of keys that an object has more than once; the last one won


def parse(line: bytes, *, depth: int = MAX_DEPTH) -> Parsed:
    """The JSON object that the line is. Raises LineError."""
    text = _decoded(line)
    try:
        value, repeated = _decode(text)
    except json.JSONDecodeError as error:
        raise _not_json(error, line) from None
    except RecursionError:
        raise _too_deep(depth) from None
    # Brackets in strings count too, so this is an upper bound: cheap, and mostly enough.
    if line.count(b"{") + line.count(b"[") > depth and nesting(value) > depth:
        raise _too_deep(depth)
    if b"\\ud" in line or b"\\uD" in line:
        _refuse_surrogates(value)
    if not isinstance(value, dict):
        raise LineError(
            "not_a_dictionary",
            f"line is not a JSON dictionary but {kind(value)}",
            "Write every example as one JSON object on one line.",
        )
    return Parsed(value, repeated)


def nesting(value: Any) -> int:
    """How many objects and arrays lie inside each other; 0 for a scalar."""
    depth = 0
    level = [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
    return depth


def values(value: Any) -> Iterator[Any]:
    """The value, and all that lie in it."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def keys(value: Any) -> int:
    """How many keys its objects have, in all."""
    return sum(len(node) for node in values(value) if isinstance(node, dict))


def repeated(text: str) -> list[str]:
    """The keys that an object of this JSON has more than once: some, where they are many."""
    names: list[str] = []
    json.loads(text, object_pairs_hook=_naming(names))
    return names


def hint(line: bytes) -> str:
    """The beginning of a line for people: one printable line of bounded length."""
    text = line[: 4 * HINT_CHARACTERS].decode("utf-8", "replace").rstrip()[:HINT_CHARACTERS]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _RepeatedKeyError(Exception):
    """The way out of the fast decoder."""


def _decode(text: str) -> tuple[Any, list[str]]:
    """Duplicate keys are rare: only a line that has some pays for naming them."""
    try:
        return _DECODER.decode(text), []
    except _RepeatedKeyError:
        names: list[str] = []
        return _decoder(_naming(names)).decode(text), names


def _naming(names: list[str]) -> _Hook:
    """Lets the last value of a key win, and puts the keys that come more than once into `names`."""

    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = Counter(key for key, _ in pairs)
        if len(names) < MAX_REPEATED:
            names.extend(key for key, count in seen.items() if count > 1)
        return dict(pairs)

    return read


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _RepeatedKeyError
    return value


def _decoded(line: bytes) -> str:
    if b"\0" in line:
        raise LineError(
            "nul_byte",
            f"line contains a NUL byte at byte {line.index(0) + 1}",
            "Remove the NUL bytes, or save the file as UTF-8 if it is in another encoding.",
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(
            "invalid_utf8",
            f"line is not valid UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1}",
            "Save the file as UTF-8.",
        ) from None


def _too_deep(depth: int) -> LineError:
    return LineError(
        "too_deep",
        f"line nests deeper than {depth} levels",
        "Flatten the example, or write the nested part as a string of JSON.",
        limit=True,
    )


def _not_json(error: json.JSONDecodeError, line: bytes) -> LineError:
    fix = "Write the example as one JSON object on one line."
    if error.msg == "Extra data":
        fix = "Write one JSON object per line: something follows the first one."
        if b"\r" in line:
            fix = "End lines in LF or CR LF: a CR alone does not end a line."
    elif error.pos >= len(error.doc.rstrip()):
        fix = "The line breaks off: write each example on one line, complete."
    elif line.lstrip()[:2] in (b"{'", b"['"):
        fix = "Quote with double quotes: this looks like a printed Python dict."
    return LineError("invalid_json", f"line contains invalid json: {error}", fix)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise LineError(
            "invalid_number",
            f"line contains an integer of {len(digits)} digits",
            f"Write the number as a string: at most {MAX_DIGITS} digits are read.",
            limit=True,
        )
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise LineError(
            "invalid_number",
            f"line contains a number out of range: {digits[:40]}",
            "Write a number that a 64-bit float can hold, or a string.",
            limit=True,
        )
    return value


def _constant(name: str) -> float:
    raise LineError(
        "invalid_number",
        f"line contains invalid json: {name} is no JSON number",
        "Replace it by null, a number or a string.",
        limit=True,
    )


def _decoder(hook: _Hook) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=hook,
        parse_int=_integer,
        parse_float=_real,
        parse_constant=_constant,
    )


_DECODER = _decoder(_unique)


def _refuse_surrogates(value: Any) -> None:
    for path, text in _strings(value):
        if not _encodes(text):
            raise LineError(
                "lone_surrogate",
                "line contains half of a surrogate pair",
                r"Write the whole character: \uD83D\uDE00 together are one, \uD83D alone is none.",
                limit=True,
                path=path,
            )


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Every string of a value and its key path; keys themselves under their parent's path."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, str):
            yield path, node
        elif isinstance(node, list):
            waiting += [(f"{path}[{index}]", child) for index, child in enumerate(node)]
        elif isinstance(node, dict):
            yield from ((path, key) for key in node)
            waiting += [(_key(path, key), child) for key, child in node.items()]


def _key(path: str, key: str) -> str:
    return f"{path}.{quoted(key)}" if path else quoted(key)
