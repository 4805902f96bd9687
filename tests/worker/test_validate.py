import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.dataset import Caution, Format, Report, parse_example
from ftd.core.statistics import RepeatedReply
from ftd.worker.validate import check

MIB = 2**20


def chat(reply: str, *, ask: str = "Well?", system: str | None = None) -> bytes:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": reply}]
    return json.dumps({"messages": messages}).encode()


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def examine(path: Path, against: Path | None = None, *, line_bytes: int = MIB) -> Report:
    return check(path, line_bytes=line_bytes, depth=64, against=against)


def run(*arguments: str, memory_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """The real program; with `memory_bytes`, in an address space of that size."""
    command = ["-m", "ftd.worker.validate", *arguments]
    if memory_bytes is not None:
        limited = (
            "import resource, runpy, sys; "
            f"resource.setrlimit(resource.RLIMIT_AS, ({memory_bytes},) * 2); "
            "runpy.run_module('ftd.worker.validate', run_name='__main__', alter_sys=True)"
        )
        command = ["-c", limited, *arguments]
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=60, check=False
    )


def limits(line_bytes: int = MIB) -> tuple[str, ...]:
    return ("--line-bytes", str(line_bytes), "--json-depth", "64")


def caution(report: Report, code: str) -> Caution:
    (one,) = [one for one in report.warnings if one.code == code]
    return one


def test_the_program_prints_one_report(tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", chat("Yes."), b"{}")
    done = run(str(path), *limits())
    assert (done.returncode, done.stderr) == (0, "")
    report = Report.from_json(json.loads(done.stdout))
    assert report == examine(path)
    assert (report.examples, report.fault_count) == (1, 1)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\x00\xff\n", b"[", "caf\u00e9".encode("utf-16")])
def test_the_program_succeeds_whatever_the_data_says(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    done = run(str(path), *limits())
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["not_jsonl"].startswith("Expected file to have JSONL format")


@pytest.mark.parametrize("arguments", [("no-such-file", *limits()), ("x", *limits(0)), ()])
def test_the_program_fails_only_for_reasons_of_its_own(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_file_is_checked_without_heavy_imports() -> None:
    code = "import sys, ftd.worker.validate; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"pydantic", "torch", "numpy", "transformers"} & set(done.stdout.split())


def test_a_line_of_100_mb_is_a_fault_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with path.open("wb") as file:
        file.write(chat("One.") + b"\n" + b'{"messages": "')
        file.seek(100 * MIB, 1)  # a hole: NUL bytes that take no disk
        file.write(b'"}\n' + chat("Two.") + b"\n")
    done = run(str(path), *limits(), memory_bytes=100 * MIB)
    assert (done.returncode, done.stderr) == (0, "")
    report = Report.from_json(json.loads(done.stdout))
    assert report.examples == 2
    assert [(fault.line, fault.code) for fault in report.faults] == [(2, "line_too_long")]
    assert report.statistics.longest_line == 100 * MIB + len(b'{"messages": ""}\n')


def test_a_line_that_fills_the_memory_is_a_fault_and_the_next_one_is_read(tmp_path: Path) -> None:
    filler = b'{"messages": [' + b"{}," * (4 * MIB) + b"{}]}"
    path = written(tmp_path / "data.jsonl", chat("One."), filler, chat("Two."))
    done = run(str(path), *limits(64 * MIB), memory_bytes=200 * MIB)
    assert (done.returncode, done.stderr) == (0, "")
    report = Report.from_json(json.loads(done.stdout))
    assert report.examples == 2
    assert [(fault.line, fault.code) for fault in report.faults] == [(2, "line_too_large")]


def test_the_longest_line_allowed_is_read(tmp_path: Path) -> None:
    line = chat("x" * 1000)
    path = written(tmp_path / "data.jsonl", line, line)
    assert examine(path, line_bytes=len(line)).examples == 2
    assert examine(path, line_bytes=len(line) - 1).fault_count == 2
    path.write_bytes(line)  # no newline at the end
    assert examine(path, line_bytes=len(line)).examples == 1
    assert examine(path, line_bytes=len(line) - 1).fault_count == 1


def test_lines_and_offsets_point_into_the_file(tmp_path: Path) -> None:
    lines = [chat("One."), b"", b"x" * 300, b"{}", chat("Two."), b'{"messages": 1}']
    path = written(tmp_path / "data.jsonl", *lines)
    report = examine(path, line_bytes=200)
    data = path.read_bytes()
    assert [fault.line for fault in report.faults] == [3, 4, 6]
    assert [fault.example for fault in report.faults] == [2, 3, 5]
    for fault in report.faults:
        assert data[fault.offset :].startswith(lines[fault.line - 1])
    assert (report.lines, report.statistics.bytes) == (6, len(data))


def test_duplicates_are_found_whatever_their_spelling(tmp_path: Path) -> None:
    spelt = json.dumps(json.loads(chat("Yes.")), indent=None, sort_keys=True, separators=(",", ":"))
    path = written(
        tmp_path / "data.jsonl", chat("Yes."), chat("No."), spelt.encode(), chat("Yes.") + b"\r"
    )
    report = examine(path)
    assert report.examples == 4
    assert report.statistics.duplicates == 2
    found = caution(report, "duplicate_example")
    assert (found.count, found.lines) == (2, (3, 4))
    assert found.message == "The example on line 3 occurs before."


def test_overlap_counts_the_examples_that_the_training_file_has(tmp_path: Path) -> None:
    training = written(
        tmp_path / "training.jsonl", *[chat(f"Reply {n}.") for n in range(50)], b"{", b""
    )
    ours = [chat("New."), chat("Reply 7."), chat("Newer."), chat("Reply 49.")]
    path = written(tmp_path / "validation.jsonl", *ours)
    report = examine(path, training)
    assert report.overlap == 2
    assert caution(report, "overlap").lines == (2, 4)
    assert examine(path).overlap is None
    assert examine(written(path, ours[0]), training).overlap == 0
    done = run(str(path), *limits(), "--against", str(training))
    assert json.loads(done.stdout)["overlap"] == 0


def test_equal_hashes_are_confirmed_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftd.worker.validate.fingerprint", lambda example: 7)
    training = written(tmp_path / "training.jsonl", chat("Yes."), chat("No."))
    path = written(tmp_path / "data.jsonl", chat("Yes."), chat("Maybe."), chat("Yes."))
    report = examine(path, training)
    assert report.statistics.duplicates == 1
    assert report.overlap == 2


def test_the_most_repeated_reply_is_told(tmp_path: Path) -> None:
    long = "x" * 500
    lines = [chat(f"{n}", ask=f"{n}") for n in range(6)] + [chat(long, ask=f"{n}") for n in "ab"]
    statistics = examine(written(tmp_path / "data.jsonl", *lines)).statistics
    assert statistics.most_repeated_reply == RepeatedReply(text="x" * 200, count=2, share=0.25)
    assert statistics.distinct_replies == 7
    assert statistics.duplicates == 0
    statistics = examine(written(tmp_path / "data.jsonl", *lines[:6])).statistics
    assert statistics.most_repeated_reply is None


def test_mixed_system_prompts_are_told(tmp_path: Path) -> None:
    systems = ["Be brief.", "Be brief.", "Be brief.", "Be kind.", None]
    lines = [chat(f"{n}", system=system) for n, system in enumerate(systems)]
    statistics = examine(written(tmp_path / "data.jsonl", *lines)).statistics
    assert statistics.system_prompts == 2
    assert statistics.common_system_share == 0.75
    assert statistics.without_system_share == 0.2


def test_statistics_do_not_depend_on_the_memory_of_the_ledgers(tmp_path: Path) -> None:
    lines = [chat(f"Reply {n % 40}.", system=f"Be {n % 3}.", ask=f"{n % 80}") for n in range(300)]
    path = written(tmp_path / "data.jsonl", *lines)
    roomy = examine(path, path)
    assert roomy == check(path, line_bytes=MIB, depth=64, against=path, ledger_bytes=1000)
    assert roomy.overlap == 300
    assert roomy.statistics.duplicates == 60
    assert roomy.statistics.most_repeated_reply is not None


def test_prompts_and_completions_are_a_format(tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", *[b'{"prompt": "a", "completion": " b"}'] * 3)
    report = examine(path)
    assert (report.format, report.examples) == (Format.COMPLETION, 3)
    assert report.statistics.most_repeated_reply == RepeatedReply(text=" b", count=3, share=1.0)


@given(
    lines=st.lists(
        st.binary(max_size=80)
        | st.sampled_from([chat("a"), chat("b"), b"", b"{}", b"\xef\xbb\xbf"]),
        max_size=8,
    )
)
def test_any_file_gives_a_report_and_its_good_lines_are_examples(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "data.jsonl", *lines)
        report = examine(path, path, line_bytes=200)
        read = []
        for line in path.read_bytes().split(b"\n"):
            try:
                read.append(parse_example(line))
            except ValueError:
                continue
    assert Report.from_json(report.to_json()) == report
    if report.not_jsonl is None and not report.fault_count:
        assert report.examples == len(read) == report.overlap
