"""What is found in one example, before anyone knows its line number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_QUOTED = 64  # characters of a user's word in one of our sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an example cannot be trained.

    `text` continues "Example N", for example " is missing key 'messages'."; `path` is a key path
    such as messages[2].role, empty for the whole example.
    """

    code: str
    path: str = ""
    text: str
    fix: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Something odd that does not stop training; told once per (code, subject), and counted.

    `text` continues "Example N".
    """

    code: str
    subject: str
    text: str


class Findings:
    """The problems and remarks of one example, as its reader meets them."""

    __slots__ = ("problems", "remarks")

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.remarks: list[Remark] = []

    def fault(self, code: str, path: str, text: str, fix: str) -> None:
        self.problems.append(Problem(code=code, path=path, text=text, fix=fix))

    def remark(self, code: str, subject: str, text: str) -> None:
        self.remarks.append(Remark(code, quoted(subject), text))


@dataclass(frozen=True, slots=True)
class Place:
    """One message of an example, as faults name it: by number in texts, by index in paths."""

    found: Findings
    index: int

    def fault(self, code: str, key: str, text: str, fix: str) -> None:
        path = f"messages[{self.index}]" + (f".{key}" if key else "")
        self.found.fault(code, path, f", message {self.index + 1} {text}", fix)

    def wrong_type(self, key: str, value: object, wanted: str) -> None:
        self.fault(
            "data_type",
            key,
            f"Key '{key}' must be {wanted}, not {kind(value)}",
            f"Make it {wanted}.",
        )


def quoted(word: object) -> str:
    """A user's word, printable and short enough for a sentence."""
    text = word if isinstance(word, str) else repr(word)
    text = "".join(c if c.isprintable() else "?" for c in text[: MAX_QUOTED + 1])
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "..."


def kind(value: object) -> str:
    """What JSON calls the type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return "a number"
    return "an array" if isinstance(value, list) else "an object"


def meant(given: Mapping[str, Any], wanted: str) -> str:
    """A sentence that names a misspelt key, or nothing."""
    import difflib  # only a faulty file pays for it

    near = difflib.get_close_matches(wanted, [key[:MAX_QUOTED] for key in given], n=1)
    return f" Rename '{quoted(near[0])}' to '{wanted}'." if near else ""
