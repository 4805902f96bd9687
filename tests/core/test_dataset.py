import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.dataset import (
    MIN_EXAMPLES,
    Caution,
    Fault,
    Format,
    Report,
    first_error,
    too_few,
)
from ftd.core.job import JobError
from ftd.core.statistics import RepeatedReply, Statistics

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
COUNT = st.integers(0, 2**40)
SHARE = st.floats(0, 1)
FAULTS = st.builds(
    Fault, line=COUNT, example=COUNT, offset=COUNT, path=TEXT, code=TEXT, message=TEXT, fix=TEXT
)
CAUTIONS = st.builds(
    Caution, code=TEXT, message=TEXT, count=COUNT, lines=st.lists(COUNT, max_size=5).map(tuple)
)
REPLIES = st.none() | st.builds(RepeatedReply, text=TEXT, count=COUNT, share=SHARE)
REPORTS = st.builds(
    Report,
    format=st.sampled_from([None, *Format]),
    examples=COUNT,
    lines=COUNT,
    faults=st.lists(FAULTS, max_size=3).map(tuple),
    fault_count=COUNT,
    warnings=st.lists(CAUTIONS, max_size=3).map(tuple),
    not_jsonl=st.none() | TEXT,
    statistics=st.builds(Statistics, turns=COUNT, refusal_share=SHARE, most_repeated_reply=REPLIES),
    overlap=st.none() | COUNT,
)


def report(code: str, message: str) -> Report:
    fault = Fault(line=2, example=2, path="messages", code=code, message=message, fix="Mend it.")
    return Report(faults=(fault,), fault_count=1)


def is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


@given(report=REPORTS)
def test_a_report_survives_json(report: Report) -> None:
    values = report.to_json()
    assert is_plain(values)
    assert Report.from_json(json.loads(json.dumps(values))) == report


def test_a_report_of_another_release_is_read() -> None:
    assert Report.from_json({}) == Report()
    values = report("data_type", "Bad.").to_json()
    values |= {"later": 1, "statistics": {"turns": 3, "later": 2}}
    values["faults"][0]["later"] = 3
    read = Report.from_json(values)
    assert read.statistics == Statistics(turns=3)
    assert read.faults[0].code == "data_type"


def test_a_report_of_plain_fields() -> None:
    values = report("unrecognized_role", "Bad.").to_json()
    assert values["faults"] == [
        {
            "line": 2,
            "example": 2,
            "offset": 0,
            "path": "messages",
            "code": "unrecognized_role",
            "message": "Bad.",
            "fix": "Mend it.",
        }
    ]
    assert values["warnings"] == []
    assert values["format"] is None


def test_a_good_file_is_no_error() -> None:
    assert first_error(Report(examples=10), "training_file") is None


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            "message_missing_key",
            "Invalid file format. Example 100, message 2 Discriminator 'role' is missing in value",
        ),
        (
            "invalid_json",
            "Invalid file format. Example 3 cannot be parsed. Error: line contains invalid json: x",
        ),
        (
            "unexpected_format",
            "Unexpected file format, expected either prompt/completion pairs or chat messages.",
        ),
    ],
)
def test_a_bad_example_is_the_jobs_error_in_openais_words(code: str, text: str) -> None:
    assert first_error(report(code, text), "training_file") == JobError(
        code="invalid_training_file",
        message=f"The job failed due to an invalid training file. {text}",
        param="training_file",
    )
    assert first_error(report(code, text), "validation_file") == JobError(
        code="invalid_validation_file",
        message=f"The job failed due to an invalid validation file. {text}",
        param="validation_file",
    )


def test_a_file_that_turns_out_to_be_no_jsonl_is_an_error() -> None:
    error = first_error(Report(not_jsonl="Expected file to have JSONL format."), "training_file")
    assert error is not None
    assert error.code == "invalid_training_file"
    assert error.message.endswith("Expected file to have JSONL format.")


def test_a_file_that_could_not_be_checked_fails_its_job() -> None:
    unreadable = Report.unreadable("The checking process ended with status -9.")
    assert unreadable.fault_count == 1
    assert Report.from_json(unreadable.to_json()) == unreadable
    error = first_error(unreadable, "training_file")
    assert error is not None
    assert error.code == "invalid_training_file"
    assert error.message.endswith("The checking process ended with status -9.")


def test_too_few_examples_in_openais_words() -> None:
    assert too_few(7, "training_file") == JobError(
        code="invalid_n_examples",
        message="Training file has 7 example(s), but must have at least 10 examples",
        param="training_file",
    )
    assert MIN_EXAMPLES["validation_file"] == 1
    assert too_few(0, "validation_file").message.startswith("Validation file has 0 example(s)")
