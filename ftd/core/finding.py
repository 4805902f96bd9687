"""What is found in one example, before anyone knows its line number."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

MAX_FAULTS_PER_EXAMPLE = 8
MAX_REMARKS_PER_EXAMPLE = 32
MAX_QUOTED = 64  # characters of a user's word in one of our sentences
MAX_KEYS = 64  # looked at for a misspelt one


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


class EnoughError(Exception):
    """An example has MAX_FAULTS_PER_EXAMPLE faults: nobody wants to hear of more."""


class Findings:
    """The problems and remarks of one example, as its reader meets them."""

    __slots__ = ("problems", "remarks")

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.remarks: list[Remark] = []

    def add(self, problem: Problem) -> None:
        """Raises EnoughError, so that a line of a million faults costs no more than a few."""
        self.problems.append(problem)
        if len(self.problems) == MAX_FAULTS_PER_EXAMPLE:
            raise EnoughError

    def fault(self, code: str, path: str, text: str, fix: str) -> None:
        """Raises EnoughError, as `add` does."""
        self.add(Problem(code=code, path=path, text=text, fix=fix))

    def remark(self, code: str, subject: str, text: str) -> None:
        if len(self.remarks) < MAX_REMARKS_PER_EXAMPLE:
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

    keys = [key[:MAX_QUOTED] for key in islice(given, MAX_KEYS)]
    near = difflib.get_close_matches(wanted, keys, n=1)
    return f" Rename '{quoted(near[0])}' to '{wanted}'." if near else ""
