"""A report on a page, from the JSON that the check really writes."""

from dataclasses import replace

import pytest

from ftctl import report
from ftd.api.grpc import convert
from ftd.core.dataset import MIN_EXAMPLES, Caution, Fault, Format, Report, too_few
from ftd.core.file import File, FileStatus
from ftd.core.statistics import RepeatedReply, Statistics
from ftd.v1 import files_pb2

FILE = File(
    seq=1,
    id="file-1",
    project="default",
    purpose="fine-tune",
    filename="a.jsonl",
    bytes=1,
    sha256="",
    created_at=1,
    status=FileStatus.PROCESSED,
)


def message(found: Report | None, status: FileStatus = FileStatus.PROCESSED) -> files_pb2.File:
    kept = None if found is None else found.to_json()
    return convert.file(replace(FILE, status=status, report=kept))


def fault(line: int, path: str = "") -> Fault:
    return Fault(
        line=line, example=line, path=path, code="x", message=f"Fault {line}.", fix="Mend it."
    )


def test_a_file_whose_check_still_runs_has_no_report() -> None:
    assert report.fields(message(None)) == ()


def test_the_statistics_that_matter_before_training() -> None:
    found = Report(
        format=Format.CHAT,
        examples=1000,
        overlap=3,
        warnings=(Caution(code="x", message="An odd key.", count=2),),
        statistics=Statistics(
            turns=3000,
            characters=123456,
            duplicates=7,
            most_repeated_reply=RepeatedReply(text="No.", count=50, share=0.05),
            refusals=20,
            refusal_share=0.02,
            without_system=250,
            without_system_share=0.25,
            system_prompts=4,
        ),
    )
    shown = {name: value for name, value in report.fields(message(found)) if value}
    assert shown == {
        "Format": "chat",
        "Examples": "1,000",
        "Turns": "3,000",
        "Characters": "123,456",
        "Duplicates": "7",
        "Repeated": "50 (5% of replies)",
        "": "No.",
        "Refusals": "20 (2% of replies)",
        "No system": "250 (25% of examples)",
        "Systems": "4",
        "Overlap": "3",
        "Warnings": "An odd key.",
    }


def test_the_first_faults_in_full_and_the_rest_counted() -> None:
    found = Report(faults=tuple(fault(n, "messages[0]") for n in range(1, 101)), fault_count=1234)
    failure = report.failure("a.jsonl", message(found, FileStatus.ERROR))
    first, second, *_, last = failure.message.splitlines()
    assert first == "a.jsonl has 1,234 faults:"
    assert second == "  line 1, messages[0]: Fault 1. Mend it."
    assert last == "  and 1,229 more"


def test_a_line_is_numbered_once() -> None:
    """The message is OpenAI's, with two more numbers of its own."""
    told = (
        "Invalid file format. Example 7 cannot be parsed. Error: line contains invalid json: "
        "Expecting ',' delimiter: line 1 column 79 (char 78) (line 7)"
    )
    found = Report(faults=(replace(fault(7), message=told),), fault_count=1)
    failure = report.failure("a.jsonl", message(found, FileStatus.ERROR))
    assert failure.message.splitlines()[1] == (
        "  line 7: Invalid file format. Example 7 cannot be parsed. Error: line contains invalid "
        "json: Expecting ',' delimiter: column 79. Mend it."
    )


@pytest.mark.parametrize("examples", [0, 9, 10])
def test_too_few_examples_in_the_words_of_the_job(examples: int) -> None:
    said = report.too_few(message(Report(examples=examples)))
    least = MIN_EXAMPLES["training_file"]
    assert said == ("" if examples >= least else too_few(examples, "training_file").message)


def test_nothing_is_said_of_a_file_whose_check_still_runs_or_found_faults() -> None:
    assert report.too_few(message(None, FileStatus.UPLOADED)) == ""
    assert report.too_few(message(Report(examples=1), FileStatus.ERROR)) == ""


def test_a_fault_of_the_whole_file_names_no_line() -> None:
    found = Report.unreadable("The check failed.")
    failure = report.failure("a.jsonl", message(found, FileStatus.ERROR))
    assert failure.message.splitlines() == [
        "a.jsonl has 1 fault:",
        "  The check failed. Upload the file again.",
    ]
