"""kill -9 the daemon in the middle: training goes on, and nothing is told twice or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import openai

from tests.e2e.test_story import ended, upload
from tests.running import Daemon, processes_of, small_talk, until


def steps_told(client: openai.OpenAI, job_id: str) -> list[int]:
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=1000))
    return [e.data["step"] for e in reversed(events) if e.type == "metrics"]  # type: ignore[index]


def more_steps(client: openai.OpenAI, job_id: str, count: int) -> None:
    """Wait until the job has told so many more steps."""
    goal = len(steps_told(client, job_id)) + count
    until(lambda: len(steps_told(client, job_id)) >= goal)


def test_a_killed_daemon_costs_no_step(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon = own_daemon
    client = daemon.client()
    training = upload(client, small_talk(tmp_path / "training.jsonl", 200))
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=training, hyperparameters={"n_epochs": 5, "batch_size": 1}
    )
    for _ in range(2):
        more_steps(client, job.id, 5)
        trainers = processes_of(daemon.home)
        assert trainers, "a shim and a trainer are there"
        daemon.kill()
        assert processes_of(daemon.home) == trainers
        daemon.start()
        client = daemon.client()
        assert processes_of(daemon.home) == trainers, "the very same processes"

    assert ended(client, job.id).status == "succeeded"
    assert steps_told(client, job.id) == list(range(1, 1001))
    told = [e.message for e in client.fine_tuning.jobs.list_events(job.id, limit=1000)]
    assert told.count("Fine-tuning job started") <= 1
    until(lambda: not processes_of(daemon.home))


def test_a_job_that_ends_while_nobody_watches_is_settled(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    daemon = own_daemon
    client = daemon.client()
    training = upload(client, small_talk(tmp_path / "training.jsonl", 60))
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=training, hyperparameters={"n_epochs": 1, "batch_size": 1}
    )
    until(lambda: steps_told(client, job.id))
    daemon.kill()
    until(lambda: not processes_of(daemon.home))
    daemon.start()
    client = daemon.client()
    assert ended(client, job.id).status == "succeeded"
    assert steps_told(client, job.id) == list(range(1, 61))


def test_sigterm_ends_the_daemon_within_five_seconds_and_leaves_the_job(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    daemon = own_daemon
    client = daemon.client()
    training = upload(client, small_talk(tmp_path / "training.jsonl", 200))
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=training, hyperparameters={"n_epochs": 4, "batch_size": 1}
    )
    until(lambda: steps_told(client, job.id))
    trainers = processes_of(daemon.home)
    assert daemon.stop() < 5
    assert "1 running job goes on" in daemon.log()
    assert not (daemon.home / "endpoint.json").exists()
    assert set(processes_of(daemon.home)) <= set(trainers)
    daemon.start()
    assert ended(daemon.client(), job.id).status == "succeeded"


def test_a_killed_trainer_is_tried_again(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon = own_daemon
    client = daemon.client()
    training = upload(client, small_talk(tmp_path / "training.jsonl", 40))
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=training, hyperparameters={"n_epochs": 3, "batch_size": 1}
    )
    until(lambda: len(steps_told(client, job.id)) > 50)
    for pid in processes_of(daemon.home):
        os.kill(pid, signal.SIGKILL)
    assert ended(client, job.id).status == "succeeded"
    assert steps_told(client, job.id) == list(range(1, 121))
    told = [e.message for e in client.fine_tuning.jobs.list_events(job.id, limit=1000)]
    assert sum(message.startswith("Resumed from step") for message in told) == 1


def test_a_second_daemon_on_the_same_home_ends_with_75(own_daemon: Daemon) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "ftd", "serve", "--home", str(own_daemon.home), "--rest",
         "127.0.0.1:0"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert second.returncode == 75
    assert str(own_daemon.pid) in second.stderr
