"""The check of a fine-tune file, as a program: a file goes in, a report comes out.

    python -m ftd.worker.validate FILE --line-bytes N --json-depth N [--against TRAINING_FILE]

prints ftd.core.dataset.Report as one JSON object and exits 0, whatever the data says; it exits
with another status only when the check itself could not be done.

The file is streamed and never held. Memory is bounded by the longest line that may be read (a few
times `--line-bytes`) plus three ledgers, each of up to 32 MiB and a temporary file beyond that:
24 bytes per example, 16 per assistant reply and 16 per system prompt. To name duplicates, a 256th
of the examples is looked at at a time, at about 150 bytes for each different one.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ftd.core.dataset import Caution, Report
from ftd.core.example import Example, fingerprint, is_blank, parse_example
from ftd.core.inspection import MAX_LINES, Inspection, Line
from ftd.core.statistics import MAX_REPLY, Counts, RepeatedReply, share, words_of
from ftd.worker import repeats
from ftd.worker.ledger import MEMORY_BYTES, Ledger
from ftd.worker.lines import Lines

_MASK = 2**64 - 1


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        report = check(
            options.file,
            line_bytes=options.line_bytes,
            depth=options.json_depth,
            against=options.against,
        )
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(report.to_json()) + "\n")
    return 0


def check(
    path: Path,
    *,
    line_bytes: int,
    depth: int,
    against: Path | None = None,
    ledger_bytes: int = MEMORY_BYTES,
) -> Report:
    """Read the file once, and again only where something seems to repeat.

    With `against`, count the examples that the other file has too. Raises OSError.
    """
    inspection = Inspection(depth=depth, line_bytes=line_bytes)
    with _Survey(ledger_bytes) as survey, Lines(path, line_bytes) as lines:
        for line in lines:
            example = inspection.take(line)
            if inspection.not_jsonl is not None:
                return inspection.report({})
            if example is not None:
                survey.add(example, line)
        twice = _Cases(
            repeats.duplicates(survey.examples, lambda a, b: _equal(lines.at(a), lines.at(b)))
        )
        cautions = twice.told("duplicate_example", "The example on line {} occurs before.")
        overlap = None
        if against is not None:
            with Lines(against, line_bytes) as theirs, Ledger(2, ledger_bytes) as others:
                both = _Cases(_shared(survey, lines, theirs, others))
            cautions += both.told("overlap", "The example on line {} is in the training file too.")
            overlap = both.count
        counted = {**survey.statistics(lines), "duplicates": twice.count}
        return inspection.report(counted, cautions, overlap)


class _Survey:
    """Every example's statistics, and ledgers of what may repeat."""

    def __init__(self, ledger_bytes: int) -> None:
        self.examples = Ledger(3, ledger_bytes)  # fingerprint, offset, line
        self._replies = Ledger(2, ledger_bytes)  # hash, offset of the example
        self._systems = Ledger(2, ledger_bytes)
        self._counts = Counts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for ledger in (self.examples, self._replies, self._systems):
            ledger.close()

    def add(self, example: Example, line: Line) -> None:
        words = words_of(example)
        self._counts.add(example, words)
        self.examples.add(fingerprint(example), line.offset, line.number)
        for reply in words.replies:
            self._replies.add(_hash(reply), line.offset)
        if words.system is not None:
            self._systems.add(_hash(words.system), line.offset)

    def statistics(self, lines: Lines) -> dict[str, Any]:
        """Fields of ftd.core.statistics.Statistics."""
        counted = self._counts.values()
        reply = repeats.commonest(self._replies)
        system = repeats.commonest(self._systems)
        with_system = self._counts.examples - counted["without_system"]
        return {
            **counted,
            "distinct_replies": reply.distinct,
            "most_repeated_reply": _repeated(reply, counted["replies"], lines),
            "system_prompts": system.distinct,
            "common_system_share": share(system.count, with_system),
        }


def _hash(text: str) -> int:
    return hash(text) & _MASK


def _repeated(reply: repeats.Commonest, replies: int, lines: Lines) -> RepeatedReply | None:
    """The reply in words, found again in the example that has it first."""
    if reply.count < 2:
        return None
    words = words_of(parse_example(lines.at(reply.offset)))
    text = next(text for text in words.replies if _hash(text) == reply.hash)
    return RepeatedReply(
        text=text[:MAX_REPLY], count=reply.count, share=share(reply.count, replies)
    )


def _shared(survey: _Survey, lines: Lines, theirs: Lines, others: Ledger) -> Iterator[int]:
    """The lines of examples that the other file has too; `others` takes note of its examples.

    A bad line of it holds none.
    """
    for line in theirs:
        if line.length == len(line.data) and not is_blank(line.data):
            with suppress(ValueError, MemoryError):
                others.add(fingerprint(parse_example(line.data)), line.offset)
    yield from repeats.shared(
        survey.examples, others, lambda a, b: _equal(theirs.at(a), lines.at(b))
    )


def _equal(one: bytes, other: bytes) -> bool:
    """Whether two lines that were valid hold the same example."""
    return one.strip() == other.strip() or parse_example(one) == parse_example(other)


class _Cases:
    """Line numbers in any order: how many, and the lowest few."""

    def __init__(self, lines: Iterable[int]) -> None:
        self.count = 0
        self.lowest: list[int] = []
        for line in lines:
            self.count += 1
            self.lowest = sorted([*self.lowest, line])[:MAX_LINES]

    def told(self, code: str, message: str) -> tuple[Caution, ...]:
        if not self.count:
            return ()
        text = message.format(self.lowest[0])
        return (Caution(code=code, message=text, count=self.count, lines=tuple(self.lowest)),)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ftd.worker.validate", allow_abbrev=False)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--line-bytes", type=_positive, required=True, metavar="N")
    parser.add_argument("--json-depth", type=_positive, required=True, metavar="N")
    parser.add_argument("--against", type=Path, metavar="TRAINING_FILE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
