"""Training data: what a file may hold, and the report on what one does hold.

A bad example never hides another: every one is counted, the first MAX_FAULTS faults are told in
full, each with OpenAI's leading text, its line, its key path and what to do.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar

from ftd.core.example import Chat, Completion, Example, Format, is_blank, parse_example
from ftd.core.job import JobError
from ftd.core.statistics import RepeatedReply, Statistics

__all__ = [
    "MAX_FAULTS",
    "MIN_EXAMPLES",
    "Caution",
    "Chat",
    "Completion",
    "Example",
    "Fault",
    "Format",
    "Report",
    "first_error",
    "is_blank",
    "parse_example",
    "too_few",
]

MAX_FAULTS = 100

# A training file needs OpenAI's ten; to be validated on, one example is enough.
MIN_EXAMPLES: Mapping[str, int] = {"training_file": 10, "validation_file": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with one example.

    `line` and `example` count from 1 (blank lines are lines, not examples); `offset` is the byte
    at which the line begins. 0 for both counts: the fault is the file's.
    """

    line: int
    example: int
    offset: int = 0
    path: str = ""  # a key path such as messages[2].role
    code: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """Something odd that does not stop training: `message` tells the first of `count` cases."""

    code: str
    message: str
    count: int
    lines: tuple[int, ...] = ()  # of the first few cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the check of a file found.

    `examples` are the valid ones. `not_jsonl` is the text with which an upload is refused: the
    reading ended there. `overlap` is the number of examples that another file has too, None
    where there was none to compare with.
    """

    format: Format | None = None
    examples: int = 0
    lines: int = 0
    faults: tuple[Fault, ...] = ()
    fault_count: int = 0
    warnings: tuple[Caution, ...] = ()
    not_jsonl: str | None = None
    statistics: Statistics = field(default_factory=Statistics)
    overlap: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, lists included; `from_json` of this and later releases reads them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Unknown fields are ignored, missing ones have their default."""
        known = _known(cls, values)
        known["format"] = Format(known["format"]) if known.get("format") else None
        known["faults"] = tuple(Fault(**_known(Fault, one)) for one in known.get("faults", ()))
        known["warnings"] = tuple(
            Caution(**{**_known(Caution, one), "lines": tuple(one.get("lines", ()))})
            for one in known.get("warnings", ())
        )
        counted = _known(Statistics, known.get("statistics", {}))
        if reply := counted.get("most_repeated_reply"):
            counted["most_repeated_reply"] = RepeatedReply(**_known(RepeatedReply, reply))
        known["statistics"] = Statistics(**counted)
        return cls(**known)

    @classmethod
    def unreadable(cls, message: str) -> Self:
        """The report of a file whose check failed through no fault of its data."""
        fault = Fault(
            line=0,
            example=0,
            code="validation_failed",
            message=message,
            fix="Upload the file again.",
        )
        return cls(faults=(fault,), fault_count=1)


def first_error(report: Report, param: str) -> JobError | None:
    """The error of a job whose `param` is a file with this report, None if it may be used.

    `param` is "training_file" or "validation_file".
    """
    text = report.not_jsonl or (report.faults[0].message if report.faults else None)
    if text is None:
        return None
    which = param.removesuffix("_file")
    message = f"The job failed due to an invalid {which} file. {text}"
    return JobError(code=f"invalid_{param}", message=message, param=param)


def too_few(examples: int, param: str) -> JobError:
    """The error of a job whose `param` has fewer than MIN_EXAMPLES[param] examples."""
    which = param.removesuffix("_file").capitalize()
    return JobError(
        code="invalid_n_examples",
        message=f"{which} file has {examples} example(s), but must have at least "
        f"{MIN_EXAMPLES[param]} examples",
        param=param,
    )


_T = TypeVar("_T")


def _known(cls: type[_T], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(cls)}  # type: ignore[arg-type]  # every caller's is one
    return {name: value for name, value in values.items() if name in names}
