"""Whatever the terminal's width, no id, number or word of a table is lost."""

import asyncio
import os
import pty
import re
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftctl.commands import devices, files, follow, jobs, models
from ftctl.output import Columns, ago
from ftctl.table import lay_out
from ftd.v1 import files_pb2, jobs_pb2, models_pb2, node_pb2
from tests.ftctl.conftest import LIMIT_S, Daemon

JOB = "ftjob-abcdefghijklmnopqrstuvwx"
TUNED = "ft:smollm2-135m-instruct:marv:a1B2c3D4"
GPU = "GPU-6f8b4d1c-1111-2222-3333-444455556666"
FAULT = jobs_pb2.JobError(message="The job failed due to an invalid training file. " * 3)

ROWS = {
    "list": (
        jobs.JOBS,
        [
            jobs_pb2.Job(
                id=JOB,
                status="succeeded",
                model="smollm2-135m-instruct",
                step=30,
                total_steps=234,
                fine_tuned_model=TUNED,
            ),
            jobs_pb2.Job(id=JOB, status="validating_files", model=TUNED),
            jobs_pb2.Job(id=JOB, status="failed", model="smollm2-135m-instruct", error=FAULT),
        ],
    ),
    "checkpoints": (
        jobs.CHECKPOINTS,
        [
            jobs_pb2.Checkpoint(
                id="ftckpt_abcdefghijklmnopqrstuvwx",
                step_number=78,
                metrics={"train_loss": 1.25, "full_valid_loss": 1.5},
                fine_tuned_model_checkpoint=f"{TUNED}:ckpt-step-78",
            )
        ],
    ),
    "files": (
        files.COLUMNS,
        [
            files_pb2.File(
                id="file-abcdefghijklmnopqrstuvwx",
                filename="marv-validation.jsonl",
                purpose="fine-tune-results",
                status="processed",
                bytes=123456,
            )
        ],
    ),
    "models": (
        models.COLUMNS,
        [
            models_pb2.Model(
                id=f"{TUNED}:ckpt-step-78",
                kind="checkpoint",
                job_id=JOB,
                parameters=134_515_008,
                context_tokens=8192,
            )
        ],
    ),
    "devices": (
        devices.COLUMNS,
        [
            node_pb2.Device(
                id=GPU,
                kind="cuda",
                name="NVIDIA H100 80GB HBM3",
                memory_bytes=80 * 2**30,
                used_bytes=3 * 2**30,
                utilization=0.98,
                temperature_celsius=61,
                power_watts=650,
                job_id=JOB,
                withheld="30.0 GiB of its memory are in use and belong to no process",
            )
        ],
    ),
    "events": (
        follow.COLUMNS,
        [jobs_pb2.Event(level="info", message=f"Checkpoint {TUNED}:ckpt-step-78 is there. " * 4)],
    ),
}


def table(columns: Columns, rows: list[object], width: int | None) -> list[str]:
    cells = [[cell(row) for _, cell in columns] for row in rows]
    return [line.plain for line in lay_out([title for title, _ in columns], cells, width)]


@pytest.mark.parametrize("width", [80, 100, 132])
@pytest.mark.parametrize("command", ROWS)
def test_every_cell_is_whole_and_every_line_fits(command: str, width: int) -> None:
    columns, rows = ROWS[command]
    lines = table(columns, rows, width)
    words = set(" ".join(lines).split())
    for row in rows:
        for title, cell in columns:
            assert set(cell(row).split()) <= words
            assert not cell(row) or set(title.split()) <= words
    assert max(map(len, lines)) <= width


def test_at_80_columns_a_job_is_its_id_its_state_and_below_what_came_of_it() -> None:
    columns, rows = ROWS["list"]
    assert [line.split() for line in table(columns, rows[:1], 80)] == [
        ["JOB", "STATUS", "STEP", "AGE", "MODEL"],
        ["REMARK"],
        [JOB, "succeeded", "30/234", ago(0), "smollm2-135m-instruct"],
        [TUNED],
    ]


def test_a_pipe_has_one_line_a_row() -> None:
    for columns, rows in ROWS.values():
        assert len(table(columns, rows, None)) == 1 + len(rows)


def test_what_fits_stands_in_line() -> None:
    rows = [["a", "bb"], ["ccc", ""]]
    assert [line.plain for line in lay_out(["X", "Y"], rows, 80)] == ["X    Y", "a    bb", "ccc"]


def test_a_last_column_of_words_wraps_between_them() -> None:
    lines = lay_out(["ID", "SAID"], [["1", "one two three four five six seven"]], 30)
    assert [line.plain for line in lines] == [
        "ID  SAID",
        "1   one two three four five",
        "    six seven",
    ]


def test_columns_below_have_their_titles_below() -> None:
    rows = [["a" * 20, "b" * 20, "c"], ["a", "", ""]]
    assert [line.plain for line in lay_out(["A", "B", "C"], rows, 30)] == [
        "A",
        "    B                     C",
        "a" * 20,
        f"    {'b' * 20}  c",
        "a",
    ]


def test_wide_characters_take_their_room() -> None:
    lines = [line.plain for line in lay_out(["A", "B"], [["\u4f60\u597d", "x"], ["abcd", "y"]], 80)]
    assert lines == ["A     B", "\u4f60\u597d  x", "abcd  y"]


@pytest.mark.parametrize("width", [80, 100, 132])
async def test_a_list_on_a_real_terminal(daemon: Daemon, width: int) -> None:
    daemon.door.files.add("file-x", b"{}")
    await daemon.run("submit", "file-x", "--model", "smollm2")
    job = daemon.door.jobs.rows["ftjob-1"]
    daemon.door.jobs.rows["ftjob-1"] = replace(job, id=JOB, model=TUNED, fine_tuned_model=TUNED)
    shown = await on_terminal(daemon, width, "list")
    lines = [line.rstrip() for line in shown.splitlines()]
    assert lines[0].split()[:4] == ["JOB", "STATUS", "STEP", "AGE"]
    assert sum(line.count(JOB) for line in lines) == 1
    assert sum(line.count(TUNED) for line in lines) == 2
    assert max(map(len, lines)) <= width


async def on_terminal(daemon: Daemon, width: int, *args: str) -> str:
    screen, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ftctl", *args, stdin=terminal, stdout=terminal, stderr=terminal,
        env={**daemon.env, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(width)},
    )  # fmt: skip
    os.close(terminal)
    try:
        shown = await asyncio.wait_for(asyncio.to_thread(_all, screen), LIMIT_S)
        assert await process.wait() == 0
    finally:
        os.close(screen)
    return re.sub(r"\x1b\[[\d;]*m", "", shown)  # bold is no colour


def _all(screen: int) -> str:
    shown = b""
    while True:
        try:
            shown += os.read(screen, 4096)
        except OSError:  # the other side has closed
            return shown.decode()


@given(
    st.lists(st.lists(st.text("ab ", max_size=60), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(1, 200),
)
def test_no_word_is_lost_at_any_width(rows: list[list[str]], width: int) -> None:
    lines = [line.plain for line in lay_out(["ONE", "TWO", "THREE"], rows, width)]
    shown = sorted(
        " ".join(lines).replace("ONE", "").replace("TWO", "").replace("THREE", "").split()
    )
    assert shown == sorted(word for row in rows for cell in row for word in cell.split())
