"""What the check of a training file found, for people.

The report is JSON of the daemon's; whatever this page leaves out, `files check -o json` has.
"""

import re
from collections.abc import Sequence

from ftctl.failure import Failure
from ftctl.objects import Object, struct
from ftctl.output import Fields, text
from ftd.v1 import files_pb2

SHOWN = 5  # faults; the rest is counted
MIN_EXAMPLES = 10  # of a job's training file; one to validate on may have fewer


# Where the JSON of a line goes wrong: its lines are the file's, and counted there.
_PLACE = re.compile(r"line 1 column (\d+) \(char \d+\)")


def faults(found: Sequence[Object], count: int) -> list[str]:
    """The first of `count` faults, one a line: where, what, and what to do."""
    lines = [_fault(fault) for fault in found[:SHOWN]]
    hidden = count - len(lines)
    return [*lines, f"and {hidden:,} more"] if hidden > 0 else lines


def failure(name: str, file: files_pb2.File) -> Failure:
    """A file that cannot be trained on, as the end of a command."""
    count, lines = _faults(struct(file.report))
    noun = "fault" if count == 1 else "faults"
    told = "".join(f"\n  {line}" for line in lines) or f" {file.status_details}"
    return Failure(f"{name} has {count:,} {noun}:{told}", hint="mend the file and try again")


def too_few(file: files_pb2.File) -> str:
    """In the words of the job that would fail of it, empty for a training file that will do."""
    examples = struct(file.report).get("examples")
    if file.status != "processed" or examples is None or examples >= MIN_EXAMPLES:
        return ""
    return (
        f"Training file has {examples} example(s), but must have at least {MIN_EXAMPLES} examples"
    )


def fields(file: files_pb2.File) -> Fields:
    """A report on a page, empty while the check runs."""
    report = struct(file.report)
    if not report:
        return ()
    _, lines = _faults(report)
    return (
        ("Format", text(report.get("format"))),
        ("Examples", text(report.get("examples"))),
        *_statistics(report.get("statistics") or {}),
        ("Overlap", text(report.get("overlap") or None)),
        ("Warnings", "\n".join(warning["message"] for warning in report.get("warnings") or ())),
        ("Faults", "\n".join(lines)),
    )


def _statistics(found: Object) -> Fields:
    """What the data is made of; what it has none of is left out."""
    reply = found.get("most_repeated_reply") or {}
    return (
        ("Turns", text(found.get("turns"))),
        ("Characters", text(found.get("characters"))),
        ("Duplicates", text(found.get("duplicates") or None)),
        ("Repeated", _part(reply, "count", "share", "replies")),
        ("", reply.get("text", "")),
        ("Refusals", _part(found, "refusals", "refusal_share", "replies")),
        ("No system", _part(found, "without_system", "without_system_share", "examples")),
        ("Systems", text(found.get("system_prompts") or None)),
    )


def _part(found: Object, count: str, share: str, whole: str) -> str:
    """`12 (3% of replies)`, or nothing of nothing."""
    return f"{found[count]:,} ({found.get(share, 0):.0%} of {whole})" if found.get(count) else ""


def _faults(report: Object) -> tuple[int, list[str]]:
    found = report.get("faults") or ()
    count = report.get("fault_count") or len(found)
    return count, faults(found, count)


def _fault(fault: Object) -> str:
    """`line 3, messages[1].role: what is wrong. What to do.`"""
    where = [f"line {fault['line']}"] if fault.get("line") else []
    where += [fault["path"]] if fault.get("path") else []
    message = _PLACE.sub(r"column \1", fault.get("message") or "")
    message = message.removesuffix(f" (line {fault.get('line')})")  # it begins with that
    told = [part.removesuffix(".") for part in (message, fault.get("fix")) if part]
    said = ". ".join(told) + "."
    return f"{', '.join(where)}: {said}" if where else said
