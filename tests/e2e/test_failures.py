"""A real daemon and real trainers in trouble: frozen, and on a disk that fills up."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.disks import fill, mounted
from tests.e2e.conftest import CONFIG, TINY
from tests.e2e.test_killed import steps_told
from tests.e2e.test_story import ended, upload
from tests.running import Daemon, processes_of, running, small_talk, until

IMPATIENT = (
    f"{CONFIG}\n[silence]\nloading_s = 60\ntokenizing_s = 60\ntraining_s = 2\nsaving_s = 60\n"
)
DISK_BYTES = 96 * 2**20


@pytest.fixture
def impatient(tmp_path: Path, tiny: Path) -> Iterator[Daemon]:
    """A daemon that waits two seconds for a step."""
    with running(tmp_path / "home", config=IMPATIENT) as daemon:
        daemon.ftctl("models", "add", TINY, str(tiny))
        yield daemon


@pytest.fixture
def cramped(tmp_path: Path, tiny: Path) -> Iterator[Daemon]:
    """A daemon with a home of its own small disk."""
    with mounted(tmp_path / "disk", DISK_BYTES) as disk:
        environment = {"FTD_LIMITS__BALLAST_BYTES": str(4 * 2**20)}
        with running(disk / "home", config=CONFIG, environment=environment) as daemon:
            daemon.ftctl("models", "add", TINY, str(tiny))
            yield daemon


def begin(client: openai.OpenAI, tmp_path: Path, epochs: int) -> str:
    """A job of 60 steps an epoch that has taken some."""
    training = upload(client, small_talk(tmp_path / "training.jsonl", 60))
    job = client.fine_tuning.jobs.create(
        model=TINY, training_file=training, hyperparameters={"n_epochs": epochs, "batch_size": 1}
    )
    until(lambda: len(steps_told(client, job.id)) > 5)
    return job.id


def messages(client: openai.OpenAI, job: str) -> list[str]:
    events = client.fine_tuning.jobs.list_events(job, limit=1000)
    return [event.message for event in events if event.type == "message"]


def trainer_of(daemon: Daemon) -> psutil.Process:
    found = [psutil.Process(pid) for pid in processes_of(daemon.home)]
    shims = {each.pid for each in found if each.cmdline()[1:4] == ["-I", "-S", "-c"]}
    (trainer,) = [each for each in found if each.ppid() in shims]
    return trainer


def test_a_frozen_trainer_is_ended_and_its_job_goes_on(impatient: Daemon, tmp_path: Path) -> None:
    client = impatient.client()
    job = begin(client, tmp_path, epochs=3)
    until(lambda: len(steps_told(client, job)) > 70)
    trainer_of(impatient).suspend()
    assert ended(client, job).status == "succeeded"
    assert steps_told(client, job) == list(range(1, 181))
    (why,) = [text for text in messages(client, job) if text.startswith("No sign of life")]
    assert why.startswith("No sign of life for 2 s while training; its trainer was ended.")
    assert why.endswith("The job is queued again.")


def test_the_daemons_own_sleep_costs_no_trainer(impatient: Daemon, tmp_path: Path) -> None:
    client = impatient.client()
    job = begin(client, tmp_path, epochs=12)
    trainer = trainer_of(impatient).pid
    os.kill(impatient.pid, signal.SIGSTOP)
    time.sleep(5)  # which is the point
    os.kill(impatient.pid, signal.SIGCONT)
    taken = len(steps_told(client, job))
    until(lambda: len(steps_told(client, job)) > taken)
    assert ended(client, job).status == "succeeded"
    assert not [text for text in messages(client, job) if "No sign of life" in text]
    assert trainer not in processes_of(impatient.home)


def refused(call: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert caught.value.status_code == 507
    assert int(caught.value.response.headers["Retry-After"]) > 0
    return caught.value


def test_a_full_disk_makes_everybody_wait_and_heals_by_itself(
    cramped: Daemon, tmp_path: Path
) -> None:
    client = cramped.client()
    more = upload(client, small_talk(tmp_path / "more.jsonl", 20))
    job = begin(client, tmp_path, epochs=8)
    disk = cramped.home.parent
    filled = fill(disk)
    until(lambda: not (cramped.home / "ballast").exists())
    fill(disk, name="the-ballasts-space")
    again = fill(disk, name="and-what-was-left")

    def create() -> object:
        return client.fine_tuning.jobs.create(model=TINY, training_file=more)

    until(lambda: _fails(create))
    assert "disk" in refused(create).message
    with (tmp_path / "more.jsonl").open("rb") as file:
        refused(lambda: client.files.create(file=file, purpose="fine-tune"))
    assert client.fine_tuning.jobs.retrieve(job).status == "running", "it waits"
    told = len(steps_told(client, job))
    filled.unlink()
    again.unlink()
    (disk / "the-ballasts-space").unlink()
    until(lambda: len(steps_told(client, job)) > told)
    until((cramped.home / "ballast").exists)
    assert ended(client, job).status == "succeeded"
    assert steps_told(client, job) == list(range(1, 481))
    second = create()
    assert ended(client, second.id).status == "succeeded"  # type: ignore[attr-defined]
    lines = [line for line in cramped.log().splitlines() if "Traceback" in line]
    assert lines == [], "\n".join(lines)


def _fails(call: Any) -> bool:
    try:
        call()
    except openai.APIStatusError:
        return True
    return False
