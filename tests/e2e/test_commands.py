"""ftctl against a real daemon: what an operator types, and what comes back."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.running import Daemon, small_talk


def test_submit_and_watch_to_the_end(daemon: Daemon, tmp_path: Path) -> None:
    training = small_talk(tmp_path / "training.jsonl", 12)
    validation = small_talk(tmp_path / "validation.jsonl", 4, start=50)
    done = daemon.ftctl(
        "submit", str(training), "--model", "tiny", "--validation", str(validation),
        "--suffix", "marv", "--epochs", "2", "--batch-size", "4", "--seed", "3", "--watch",
        "-o", "name",
    )  # fmt: skip
    job_id = done.stdout.split()[0]
    assert job_id.startswith("ftjob-")
    assert "\x1b" not in done.stdout + done.stderr

    job = json.loads(daemon.ftctl("show", job_id, "-o", "json").stdout)
    with daemon.client() as client:
        raw = client.fine_tuning.jobs.with_raw_response.retrieve(job_id)
    assert job == json.loads(raw.text), "the API object unchanged"
    assert job["status"] == "succeeded"

    assert job_id in daemon.ftctl("list", "-o", "name").stdout.split()
    events = json.loads(daemon.ftctl("events", job_id, "-o", "json").stdout)
    assert any("successfully completed" in event["message"] for event in events["data"])
    assert "ckpt-step-6" in daemon.ftctl("checkpoints", job_id).stdout
    assert daemon.ftctl("logs", job_id).returncode == 0
    assert "train" in daemon.ftctl("results", job_id, "--plot").stdout
    out = tmp_path / "out.csv"
    daemon.ftctl("results", job_id, "--output", str(out))
    assert [row["step"] for row in csv.DictReader(io.StringIO(out.read_text()))] == list("123456")


def test_exit_codes_tell_how_a_job_ended(daemon: Daemon, tmp_path: Path) -> None:
    few = small_talk(tmp_path / "few.jsonl", 3)
    refused = daemon.ftctl("submit", str(few), "--model", "tiny", "--watch", check=False)
    assert refused.returncode == 1
    file_id = daemon.ftctl("files", "upload", str(few)).stdout.strip()
    failed = daemon.ftctl("submit", file_id, "--model", "tiny", "--watch", check=False)
    assert failed.returncode == 5
    for said in (refused.stderr, failed.stderr):
        assert "Training file has 3 example(s), but must have at least 10 examples" in said

    many = small_talk(tmp_path / "many.jsonl", 200)
    job_id = daemon.ftctl(
        "submit", str(many), "--model", "tiny", "--epochs", "50", "-o", "name"
    ).stdout.strip()
    assert daemon.ftctl("wait", job_id, "--timeout", "0.2", check=False).returncode == 8
    daemon.ftctl("cancel", job_id)
    assert daemon.ftctl("wait", job_id, check=False).returncode == 6
    assert daemon.ftctl("show", "ftjob-nope", check=False).returncode == 3
    assert daemon.ftctl("show", check=False).returncode == 2
    assert daemon.ftctl("--key", "wrong-wrong-wrong-w", "list", check=False).returncode == 4
    nowhere = daemon.ftctl("--addr", "unix:/nonexistent.sock", "list", check=False)
    assert nowhere.returncode == 7


def test_files_are_uploaded_shown_and_removed(daemon: Daemon, tmp_path: Path) -> None:
    training = small_talk(tmp_path / "training.jsonl", 12)
    file_id = daemon.ftctl("files", "upload", str(training), "-o", "name").stdout.strip()
    shown = daemon.ftctl("files", "show", file_id).stdout
    assert "12" in shown
    copy = tmp_path / "copy.jsonl"
    daemon.ftctl("files", "get", file_id, "--output", str(copy))
    assert copy.read_bytes() == training.read_bytes()
    assert file_id in daemon.ftctl("files", "list", "-o", "name").stdout
    daemon.ftctl("files", "rm", file_id)
    assert daemon.ftctl("files", "show", file_id, check=False).returncode == 3


def test_models_and_devices_are_listed(daemon: Daemon) -> None:
    models = json.loads(daemon.ftctl("models", "list", "-o", "json").stdout)
    assert "tiny" in {model["id"] for model in models["data"]}
    assert "cpu" in daemon.ftctl("devices").stdout
    missing = daemon.ftctl("models", "add", "nothing", "/nonexistent/model", check=False)
    assert missing.returncode == 1
    assert "/nonexistent/model" in missing.stderr


def test_a_watch_survives_the_daemons_restart(own_daemon: Daemon, tmp_path: Path) -> None:
    training = small_talk(tmp_path / "training.jsonl", 150)
    job_id = own_daemon.ftctl(
        "submit", str(training), "--model", "tiny", "--epochs", "1", "-o", "name"
    ).stdout.strip()
    watch = subprocess.Popen(
        [sys.executable, "-m", "ftctl", "watch", job_id],
        env=os.environ | {"FTD_HOME": str(own_daemon.home)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert watch.stdout is not None
        while "Step 1/150" not in watch.stdout.readline():
            assert watch.poll() is None
        own_daemon.kill()
        own_daemon.start()
        output, _ = watch.communicate(timeout=120)
    finally:
        watch.kill()
    assert watch.returncode == 0, output
    assert "Step 150/150" in output


def test_prometheus_finds_the_families(daemon: Daemon) -> None:
    import urllib.request

    daemon.client().models.list()  # a family of requests appears with the first
    daemon.ftctl("list")
    with urllib.request.urlopen(daemon.url.removesuffix("/v1") + "/metrics") as answer:
        text = answer.read().decode()
    for family in (
        "ftd_build_info", "ftd_jobs{", "ftd_jobs_created_total", "ftd_queue_oldest_seconds",
        "ftd_trainer_tokens_total", "ftd_trainer_step_duration_seconds_bucket",
        "ftd_device_memory_total_bytes", "ftd_http_request_duration_seconds_count",
        "grpc_server_handled_total", "ftd_db_size_bytes", "ftd_scheduler_cycle_duration_seconds",
    ):  # fmt: skip
        assert family in text, family
