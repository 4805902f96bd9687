import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.dataset import MAX_FAULTS, Format, Report
from ftd.core.inspection import MAX_KINDS, MAX_LINES, Inspection, Line

CHAT = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
PAIR = b'{"prompt": "a", "completion": "b"}'
LINE_BYTES = 4096


def inspect(*lines: bytes) -> Report:
    """The report on a file of these lines, each with its line end."""
    inspection = Inspection(depth=16, line_bytes=LINE_BYTES)
    offset = 0
    for number, data in enumerate(lines, start=1):
        inspection.take(Line(number, offset, len(data), data[:LINE_BYTES]))
        if inspection.not_jsonl is not None:
            break
        offset += len(data)
    return inspection.report({})


def cautions(report: Report) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {one.code: (one.count, one.lines) for one in report.warnings}


def test_a_good_file() -> None:
    report = inspect(CHAT + b"\n", CHAT + b"\r\n", CHAT)
    assert (report.format, report.examples, report.lines) == (Format.CHAT, 3, 3)
    assert (report.faults, report.warnings, report.not_jsonl) == ((), (), None)
    assert report.statistics.bytes == 3 * len(CHAT) + 3
    assert report.statistics.longest_line == len(CHAT) + 2


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (b"{\n", "{..."),
        (b"[\n", "[..."),
        (b"prompt,completion\n", "prompt,completion..."),
        (b'{"a": 1,}\n', '{"a": 1,}...'),
        (b"{'messages': [{'role': 'user'}]}\n", "{'messages': [{'role..."),
        (b"\x1b[31mred\n", "\\x1b[31mred..."),
        (b'{"a": 1} {"a": 2}\n', '{"a": 1} {"a": 2}...'),
        (b"3\n", "3..."),
        (b"[" * 300 + b"\n", "[" * 20 + "..."),
        (b"x" * 5000, "x" * 20 + "..."),
    ],
)
def test_a_first_line_that_is_no_dictionary_is_refused_in_openais_words(
    line: bytes, hint: str
) -> None:
    report = inspect(line, CHAT)
    assert report.not_jsonl == (
        "Expected file to have JSONL format, where every line is a valid JSON dictionary. "
        f'Line 1 is not a dictionary (HINT: line starts with: "{hint}").'
    )
    assert (report.examples, report.faults) == (0, ())


def test_the_first_line_is_the_first_that_is_not_blank() -> None:
    report = inspect(b"\n", b" \r\n", b"hello\n")
    assert report.not_jsonl is not None
    assert 'Line 3 is not a dictionary (HINT: line starts with: "hello...")' in report.not_jsonl


@pytest.mark.parametrize(
    ("line", "explanation"),
    [
        (CHAT.decode().encode("utf-16"), "The file is in UTF-16: save it as UTF-8."),
        (CHAT.decode().encode("utf-16-le"), "NUL byte at byte 2. Remove the NUL bytes, or save"),
        (b"\x1f\x8b\x08\x00abc", "The file is compressed (gzip): unpack it first."),
        (b"PK\x03\x04abc", "The file is a zip archive: unpack it first."),
        (b"PAR1abc", "The file is in Parquet format: export it as JSONL."),
        (b'{"prompt": "caf\xe9"}', "not valid UTF-8: byte 0xe9 at byte 16. Save the file as UTF-8"),
        (CHAT + b"\r" + CHAT + b"\r", "End lines in LF or CR LF"),
    ],
)
def test_files_of_other_sorts_are_told_apart(line: bytes, explanation: str) -> None:
    report = inspect(line)
    assert report.not_jsonl is not None
    assert report.not_jsonl.startswith("Expected file to have JSONL format")
    assert explanation in report.not_jsonl
    assert report.not_jsonl.isprintable()


@pytest.mark.parametrize("lines", [(), (b"\n", b"\r\n"), (b"\xef\xbb\xbf",)])
def test_an_empty_file_is_no_jsonl(lines: tuple[bytes, ...]) -> None:
    report = inspect(*lines)
    assert report.not_jsonl is not None
    assert report.not_jsonl.endswith('(HINT: line starts with: ""). The file is empty.')


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"prompt": NaN}', "invalid_number"),
        (b'{"prompt": ' + b"[" * 50 + b"]" * 50 + b"}", "too_deep"),
        (b'{"prompt": "\\ud800"}', "lone_surrogate"),
        (b'{"prompt": "' + b"x" * LINE_BYTES + b'"}', "line_too_long"),
    ],
)
def test_a_first_line_that_only_passes_a_limit_is_a_fault(line: bytes, code: str) -> None:
    report = inspect(line, PAIR)
    assert report.not_jsonl is None
    assert [fault.code for fault in report.faults] == [code]
    assert report.examples == 1


def test_a_later_line_that_is_no_json_is_a_fault_in_openais_words() -> None:
    broken = CHAT[:78] + b" " + CHAT[79:]
    report = inspect(CHAT + b"\n", b"\n", broken + b"\n", CHAT)
    (fault,) = report.faults
    reason = ""
    try:
        json.loads(broken)
    except json.JSONDecodeError as error:
        reason = str(error)
    assert fault.message == (
        "Invalid file format. Example 2 cannot be parsed. "
        f"Error: line contains invalid json: {reason} (line 3)"
    )
    assert (fault.line, fault.example, fault.offset) == (3, 2, len(CHAT) + 2)
    assert fault.code == "invalid_json"
    assert report.examples == 2
    assert report.statistics.bad_examples == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"[1]", "not_a_dictionary"),
        (b"\x00\x00", "nul_byte"),
        (b'{"messages": "\xff"}', "invalid_utf8"),
        (CHAT + CHAT, "invalid_json"),
        (CHAT[:-5], "invalid_json"),
        (b"x" * (LINE_BYTES + 1), "line_too_long"),
        (b'{"foo": 1}', "missing_messages_list"),
        (PAIR, "mixed_formats"),
    ],
)
def test_every_later_bad_line_is_a_fault(line: bytes, code: str) -> None:
    report = inspect(CHAT, line, CHAT)
    assert [fault.code for fault in report.faults] == [code]
    assert report.faults[0].line == 2
    assert report.examples == 2


def test_a_bad_example_is_told_in_openais_words() -> None:
    report = inspect(CHAT, b'{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}')
    (fault,) = report.faults
    assert fault.message == (
        "Invalid file format. Example 2, message 2 Discriminator 'role' is missing in value"
    )
    assert fault.path == "messages[1].role"
    assert inspect(CHAT, b"{}").faults[0].message == (
        "Invalid file format. Example 2 is missing key 'messages'."
    )
    assert inspect(b"{}").faults[0].message == (
        "Unexpected file format, expected either prompt/completion pairs or chat messages."
    )


def test_the_first_line_of_a_known_format_decides_even_if_it_is_bad() -> None:
    report = inspect(b'{"foo": 1}', b'{"messages": []}', PAIR, CHAT)
    assert report.format is Format.CHAT
    assert [fault.code for fault in report.faults] == [
        "unexpected_format",
        "missing_messages_list",
        "mixed_formats",
    ]


def test_a_hundred_faults_are_told_and_the_rest_counted() -> None:
    report = inspect(CHAT, *[b"{}"] * 250)
    assert report.fault_count == 250
    assert [fault.line for fault in report.faults] == list(range(2, MAX_FAULTS + 2))


def test_blank_lines_at_the_end_are_silent_and_between_examples_odd() -> None:
    assert inspect(CHAT, b"\n", b"  \r\n", b"\n").warnings == ()
    report = inspect(CHAT, b"\n", CHAT, *[b"\n"] * 20, CHAT, b"\n")
    assert cautions(report) == {"blank_line": (21, (2, 4, 5, 6, 7))}
    assert report.examples == 3
    assert report.lines == 25
    assert report.statistics.blank_lines == 22


def test_a_byte_order_mark_is_skipped_with_a_warning() -> None:
    report = inspect(b"\xef\xbb\xbf" + CHAT, CHAT)
    assert report.examples == 2
    assert cautions(report) == {"byte_order_mark": (1, (1,))}


def test_warnings_tell_the_first_case_and_count_the_others() -> None:
    odd = CHAT[:-1] + b', "weight": 1}'
    report = inspect(CHAT, *[odd] * 7)
    (caution,) = report.warnings
    assert caution.message == 'Example 2 contains an extra "weight". It is ignored.'
    assert caution.count == 7
    assert caution.lines == (2, 3, 4, 5, 6)
    assert report.examples == 8


def test_duplicate_keys_are_a_warning() -> None:
    report = inspect(b'{"prompt": "x", "prompt": "a", "completion": "b"}')
    assert report.examples == 1
    assert cautions(report) == {"duplicate_key": (1, (1,))}


def test_warnings_of_a_thousand_kinds_stay_bounded() -> None:
    lines = [CHAT[:-1] + b', "key%d": 1}' % number for number in range(1000)]
    report = inspect(*lines)
    assert len(report.warnings) <= MAX_KINDS + 1
    assert sum(caution.count for caution in report.warnings) == 1000
    assert all(len(caution.lines) <= MAX_LINES for caution in report.warnings)


def test_a_line_that_needs_too_much_memory_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    inspection = Inspection(depth=16, line_bytes=LINE_BYTES)
    monkeypatch.setattr("ftd.core.inspection.parse", exhausted)
    inspection.take(Line(1, 0, len(CHAT), CHAT))
    assert [fault.code for fault in inspection.report({}).faults] == ["line_too_large"]


@given(lines=st.lists(st.binary(max_size=60) | st.sampled_from([CHAT, PAIR, b"\n"]), max_size=8))
def test_any_bytes_give_a_report_that_adds_up(lines: list[bytes]) -> None:
    report = inspect(*lines)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    if report.not_jsonl is None:
        assert report.examples + report.statistics.bad_examples <= len(lines)
        assert (report.fault_count > 0) == (report.statistics.bad_examples > 0)


@given(
    at=st.integers(0, len(CHAT) - 1),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
def test_a_damaged_line_is_a_fault_or_an_example(at: int, byte: int, cut: bool) -> None:
    damaged = CHAT[:at] + bytes([byte]) + (b"" if cut else CHAT[at + 1 :])
    report = inspect(CHAT, damaged)
    if damaged.removeprefix(b"\xef\xbb\xbf").strip():
        assert report.examples + report.statistics.bad_examples == 2
