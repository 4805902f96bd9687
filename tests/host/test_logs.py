"""A log line is one event, whoever wrote the words in it."""

import logging
import sys

import pytest

from ftd.host.logs import Formatter

FORGED = "gone\n2026-01-01T00:00:00 ERROR ftd.audit key=admin"
STEERING = ["\x1b[2J", "\r", "\x9b1m", "\u202e", "\u2028", "\x00", "\ud800", "\u2066"]


def record(message: str, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "ftd.x", "msg": message, "levelname": "INFO", **fields})


@pytest.mark.parametrize("text", [FORGED, *STEERING], ids=ascii)
@pytest.mark.parametrize("journal", [False, True])
def test_an_event_is_one_line_of_printable_text(text: str, journal: bool) -> None:
    for made in (record(f"said {text}"), record("event", file=text, job=text)):
        line = Formatter(journal=journal).format(made)
        assert line.isprintable()
        assert "\n" not in line


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("text", [FORGED, *STEERING], ids=ascii)
def test_the_words_of_an_error_begin_no_event(text: str, journal: bool) -> None:
    try:
        raise OSError(text)
    except OSError:
        made = record("failed", exc_info=sys.exc_info())
    _, *trace = Formatter(journal=journal, words=True).format(made).split("\n")
    assert trace
    for line in trace:
        assert line.isprintable()
        assert line.removeprefix("<6>").startswith("  ")


def test_a_field_cannot_pass_for_two() -> None:
    line = Formatter(journal=False).format(record("event", file='a b" job=ftjob-1'))
    assert " file='a b\" job=ftjob-1'" in line
