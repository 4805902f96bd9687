"""The check of a file, line by line: what is at fault, what is odd, and which format it has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ftd.core.dataset import MAX_FAULTS, Caution, Fault, Report
from ftd.core.example import Example, Format, read_example, recognize
from ftd.core.finding import Problem, quoted
from ftd.core.jsonline import BOM, LineError, hint, parse
from ftd.core.statistics import Statistics

MAX_KINDS = 100  # of cautions told apart; more are counted together, by code
MAX_LINES = 5  # line numbers kept of each kind

# Files of other sorts by their first bytes, and what to do about them.
_SIGNATURES: Mapping[bytes, str] = {
    b"\xff\xfe": "The file is in UTF-16: save it as UTF-8.",
    b"\xfe\xff": "The file is in UTF-16: save it as UTF-8.",
    b"\x1f\x8b": "The file is compressed (gzip): unpack it first.",
    b"\x28\xb5\x2f\xfd": "The file is compressed (zstd): unpack it first.",
    b"PK\x03\x04": "The file is a zip archive: unpack it first.",
    b"PAR1": "The file is in Parquet format: export it as JSONL.",
}


class Line(NamedTuple):
    """A line as it lies in the file; of one that is too long, `data` is only the beginning."""

    number: int  # from 1
    offset: int  # of its first byte
    length: int  # in bytes, line end included
    data: bytes


class Inspection:
    """Takes a file's lines in order and keeps what it finds, in bounded memory.

    The first line that is not blank decides: if it is no JSON dictionary, the file is not JSONL,
    `not_jsonl` says so, and the rest need not be read. If it only passes a limit, it is a fault.
    The first line with a known format decides what format the others must have.
    """

    def __init__(self, *, depth: int, line_bytes: int) -> None:
        self.not_jsonl: str | None = None
        self._depth = depth
        self._line_bytes = line_bytes
        self._format: Format | None = None
        self._examples = 0  # bad ones included
        self._bad = 0
        self._faults: list[Fault] = []
        self._fault_count = 0
        self._cautions = _Cautions()
        self._blanks = _Kind("Blank lines between the examples are skipped.")
        self._trailing = 0  # blank lines since the last example: at the end they are no oddity
        self._lines = 0
        self._bytes = 0
        self._longest = 0

    def take(self, line: Line) -> Example | None:
        """The line's example; None for a blank or a bad line."""
        self._lines += 1
        self._bytes += line.length
        self._longest = max(self._longest, line.length)
        data = line.data
        if data.startswith(BOM):
            data = data.removeprefix(BOM)
            self._cautions.add("byte_order_mark", "", "A byte order mark is skipped.", line.number)
        if line.length == len(line.data) and not data.strip():
            self._trailing += 1
            return None
        if self._trailing:
            self._note_blanks(line)
        self._examples += 1
        try:
            example = self._read(line, data)
        except LineError as error:
            example = None
            self._unreadable(line, data, error)
        except MemoryError:  # tens of millions of elements in one line: the next one may be fine
            example = None
            self._unreadable(line, data, _too_large())
        self._bad += example is None
        return example

    def report(
        self,
        counted: Mapping[str, Any],
        repeats: tuple[Caution, ...] = (),
        overlap: int | None = None,
    ) -> Report:
        """What was found, with what was found out elsewhere: fields of Statistics, repeats."""
        if not self._examples:
            self.not_jsonl = _not_jsonl(1, b"", "The file is empty.")
        return Report(
            format=self._format,
            examples=self._examples - self._bad,
            lines=self._lines,
            faults=tuple(self._faults),
            fault_count=self._fault_count,
            warnings=self._cautions.told() + self._blanks.told("blank_line") + repeats,
            not_jsonl=self.not_jsonl,
            statistics=Statistics(
                bytes=self._bytes,
                longest_line=self._longest,
                blank_lines=self._lines - self._examples,
                bad_examples=self._bad,
                **counted,
            ),
            overlap=overlap,
        )

    def _read(self, line: Line, data: bytes) -> Example | None:
        if line.length > len(line.data):
            raise LineError(
                "line_too_long",
                f"line has {line.length} bytes, more than {self._line_bytes}",
                "Split the example, or end every example in a newline.",
                limit=True,
            )
        value, repeated = parse(data, depth=self._depth)
        if self._format is None:
            self._format = recognize(value)
        example, found = read_example(value, self._format)
        number = self._examples
        for key in repeated:
            text = f"Example {number} has the key '{quoted(key)}' twice: the last one counts."
            self._cautions.add("duplicate_key", quoted(key), text, line.number)
        for remark in found.remarks:
            text = f"Example {number}{remark.text}"
            self._cautions.add(remark.code, remark.subject, text, line.number)
        for problem in found.problems:
            self._fault(line, problem, _sentence(number, problem))
        return example

    def _unreadable(self, line: Line, data: bytes, error: LineError) -> None:
        if self._examples == 1 and not (error.limit and data.lstrip().startswith(b"{")):
            self.not_jsonl = _not_jsonl(line.number, line.data, _explain(line.data, error))
            return
        problem = Problem(code=error.code, path=error.path, text=error.reason, fix=error.fix)
        message = (
            f"Invalid file format. Example {self._examples} cannot be parsed. "
            f"Error: {error.reason} (line {line.number})"
        )
        self._fault(line, problem, message)

    def _fault(self, line: Line, problem: Problem, message: str) -> None:
        self._fault_count += 1
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(
                Fault(
                    line=line.number,
                    example=self._examples,
                    offset=line.offset,
                    path=problem.path,
                    code=problem.code,
                    message=message,
                    fix=problem.fix,
                )
            )

    def _note_blanks(self, line: Line) -> None:
        first = line.number - self._trailing
        for number in range(first, min(line.number, first + MAX_LINES)):
            self._blanks.add(number)
        self._blanks.count += max(0, self._trailing - MAX_LINES)
        self._trailing = 0


@dataclass(slots=True)
class _Kind:
    """One kind of oddity: its first case's message, how many there are, the first lines."""

    message: str
    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.lines) < MAX_LINES:
            self.lines.append(line)

    def told(self, code: str) -> tuple[Caution, ...]:
        if not self.count:
            return ()
        lines = tuple(self.lines)
        return (Caution(code=code, message=self.message, count=self.count, lines=lines),)


class _Cautions:
    """Oddities by code and subject; the first message of a kind stands for all of it."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def add(self, code: str, subject: str, message: str, line: int) -> None:
        kind = self._kinds.get((code, subject))
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                subject = ""
            kind = self._kinds.setdefault((code, subject), _Kind(message))
        kind.add(line)

    def told(self) -> tuple[Caution, ...]:
        return tuple(one for (code, _), kind in self._kinds.items() for one in kind.told(code))


def _too_large() -> LineError:
    return LineError(
        "line_too_large",
        "line needs more memory than the check may use",
        "Make the example smaller: it has too many elements.",
        limit=True,
    )


def _sentence(number: int, problem: Problem) -> str:
    """A problem in OpenAI's words, which existing matchers know."""
    if problem.code == "unexpected_format":
        return problem.text
    return f"Invalid file format. Example {number}{problem.text}"


def _not_jsonl(number: int, line: bytes, explanation: str) -> str:
    start = f"{hint(line)}..." if line else ""
    text = (
        "Expected file to have JSONL format, where every line is a valid JSON dictionary. "
        f'Line {number} is not a dictionary (HINT: line starts with: "{start}").'
    )
    return f"{text} {explanation}" if explanation else text


def _explain(line: bytes, error: LineError) -> str:
    """What the hint cannot say: the file is in an encoding or of a sort that is not text."""
    for signature, explanation in _SIGNATURES.items():
        if line.startswith(signature):
            return explanation
    if error.code in ("nul_byte", "invalid_utf8"):
        return f"The {error.reason}. {error.fix}"
    return error.fix if error.code == "invalid_json" and b"\r" in line.rstrip() else ""
