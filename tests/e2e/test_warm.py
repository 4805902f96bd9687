"""A trainer is ready before its job comes, and nothing is left of one whose job never came."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftd.launch import spool
from tests.e2e.conftest import CONFIG, TINY
from tests.e2e.test_story import ended, upload
from tests.running import Daemon, processes_of, running, small_talk, until


@pytest.fixture
def warm_daemon(tmp_path: Path, tiny: Path) -> Iterator[Daemon]:
    """A daemon that keeps a trainer ready, with the tiny model."""
    environment = {"FTD_TRAINING__WARM": "true"}
    with running(tmp_path / "home", config=CONFIG, environment=environment) as daemon:
        daemon.ftctl("models", "add", TINY, str(tiny))
        yield daemon


def pid_of(run: Path) -> int | None:
    """What the run's trainer has said that it is, once its imports are done."""
    frames = spool.read(run / "spool", 0, 2**16).frames
    return int(json.loads(frames[0].line)["pid"]) if frames else None


def runs(daemon: Daemon, *, assigned: bool) -> list[Path]:
    found = sorted((daemon.home / "runs").iterdir())
    return [run for run in found if (run / "assigned.json").exists() is assigned]


def waiting(daemon: Daemon) -> tuple[Path, int]:
    """The run and the pid of the trainer that waits, once there is one."""

    def ready() -> tuple[Path, int] | None:
        for run in runs(daemon, assigned=False):
            if pid := pid_of(run):
                return run, pid
        return None

    found = until(ready, explain=daemon.log)
    assert found is not None
    return found


def test_a_job_has_the_trainer_that_waited(warm_daemon: Daemon, tmp_path: Path) -> None:
    daemon = warm_daemon
    client = daemon.client()
    training = upload(client, small_talk(tmp_path / "training.jsonl", 20))
    hyperparameters = {"n_epochs": 1, "batch_size": 4}

    run, pid = waiting(daemon)
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=training, hyperparameters=hyperparameters
    )
    assert ended(client, job.id).status == "succeeded"
    assert runs(daemon, assigned=True) == [run]
    assert pid_of(run) == pid, "the very same process"

    other, victim = waiting(daemon)
    assert (other, victim) != (run, pid)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{victim}").exists())  # its shim has seen it end
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=training, hyperparameters=hyperparameters
    )
    assert ended(client, job.id).status == "succeeded"
    told = [e.message for e in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert not any("killed" in message or "again" in message for message in told)
    (second,) = set(runs(daemon, assigned=True)) - {run}
    assert json.loads((second / "in" / "spec.json").read_text())["attempt"] == 1

    waiting(daemon)
    assert daemon.stop() < 5
    until(lambda: not processes_of(daemon.home))
    assert len(runs(daemon, assigned=False)) == 0


def test_a_killed_daemon_leaves_no_trainer_that_waits(warm_daemon: Daemon) -> None:
    daemon = warm_daemon
    until(lambda: runs(daemon, assigned=False), explain=daemon.log)
    left = runs(daemon, assigned=False)
    daemon.kill()
    until(lambda: not processes_of(daemon.home))
    daemon.start()
    until(lambda: not any(run.exists() for run in left), explain=daemon.log)
    until(lambda: len(runs(daemon, assigned=False)) == 1, explain=daemon.log)
