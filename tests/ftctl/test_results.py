"""ftctl results, as processes: a table, JSON, a CSV file, a picture."""

import json

import pytest

from ftd.core import results
from ftd.core.job import JobError, State
from tests.ftctl.conftest import Daemon

STEPS = [
    {"step": n, "train_loss": 3 / n, "train_mean_token_accuracy": 0.5, "valid_loss": 3.5 / n}
    for n in range(1, 31)
]
STEPS[-1]["full_valid_loss"] = 0.125


@pytest.fixture
async def job(daemon: Daemon) -> str:
    daemon.door.files.add("file-x", b"{}")
    await daemon.run("submit", "file-x", "--model", "smollm2")
    return "ftjob-1"


def succeed(daemon: Daemon, job: str) -> str:
    csv = results.render(STEPS)
    file = daemon.door.files.add_results(job, csv)
    daemon.door.jobs.finish(job, State.SUCCEEDED, result_file=file.id)
    return csv


async def test_a_job_without_results_says_so(daemon: Daemon, job: str) -> None:
    ran = await daemon.run("results", job)
    assert (ran.status, ran.out) == (1, "")
    assert "has no results yet: it is queued" in ran.err
    daemon.door.jobs.finish(job, State.FAILED, error=JobError(code="x", message="It was bad."))
    ran = await daemon.run("results", job)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"ftctl: {job} has no results: it failed: It was bad.\n")


async def test_as_a_table_and_as_json(daemon: Daemon, job: str) -> None:
    succeed(daemon, job)
    header, first, *_ = (await daemon.run("results", job)).out.splitlines()
    assert header.split()[:3] == ["step", "train_loss", "train_accuracy"]
    assert "train_token_accuracy" not in header
    assert first.split() == ["1", "3", "0.5", "3.5"]
    rows = json.loads((await daemon.run("results", job, "-o", "json")).out)["data"]
    assert len(rows) == 30
    assert rows[-1]["full_valid_loss"] == 0.125
    assert rows[0]["full_valid_loss"] is None
    assert rows[0]["train_token_accuracy"] == 0.5
    assert (await daemon.run("results", job, "-o", "name")).out == f"file-{job}\n"


async def test_as_csv(daemon: Daemon, job: str) -> None:
    csv = succeed(daemon, job)
    assert (await daemon.run("results", job, "--output", "-")).out == csv
    path = daemon.root / "metrics.csv"
    ran = await daemon.run("results", job, "--output", str(path))
    assert (ran.out, path.read_text()) == ("", csv)


async def test_as_a_picture_without_colours_in_a_pipe(daemon: Daemon, job: str) -> None:
    succeed(daemon, job)
    ran = await daemon.run("results", job, "--plot")
    assert ran.status == 0
    assert "\x1b" not in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    for curve in ("t  training", "v  validation, one batch", "F  validation, whole file"):
        assert curve in ran.out
