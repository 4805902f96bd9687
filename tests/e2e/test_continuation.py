"""kill -9 of a real trainer, again and again: the weights are those of an undisturbed run."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import TINY
from tests.e2e.test_killed import steps_told
from tests.e2e.test_story import ended, upload
from tests.running import Daemon, processes_of, running, small_talk, until

KILLS = 5
DAMAGING = 2  # the third of them
# Dropout draws random numbers at each step, and validation none that training would have drawn.
CONFIG = """
[training]
context_tokens = 128
checkpoint_every_steps = 3
attempts = 20
retry_s = 0
[training.lora]
dropout = 0.1
"""


@pytest.fixture
def saving(tmp_path: Path, tiny: Path) -> Iterator[Daemon]:
    """A daemon whose jobs save a point to go on from every third step."""
    with running(tmp_path / "home", config=CONFIG) as daemon:
        daemon.ftctl("models", "add", TINY, str(tiny))
        yield daemon


def submit(client: openai.OpenAI, directory: Path) -> str:
    training = upload(client, small_talk(directory / "training.jsonl", 100))
    validation = upload(client, small_talk(directory / "validation.jsonl", 12, start=500))
    job = client.fine_tuning.jobs.create(
        model=TINY,
        training_file=training,
        validation_file=validation,
        seed=11,
        hyperparameters={"n_epochs": 3, "batch_size": 1},
    )
    return job.id


def trainers(home: Path) -> list[int]:
    """Those that train: a shim's child, and not the shim."""
    found = []
    for pid in processes_of(home):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if b"ftd.worker.train" in command and b"shim.main" not in command:
            found.append(pid)
    return found


def told(client: openai.OpenAI, job_id: str) -> list[str]:
    return [e.message for e in client.fine_tuning.jobs.list_events(job_id, limit=1000)]


def made(daemon: Daemon, client: openai.OpenAI, job_id: str) -> tuple[str, bytes]:
    """The hash that the job shows, and its final weights."""
    job = ended(client, job_id)
    assert job.status == "succeeded", (job.error, daemon.log())
    assert job.fine_tuned_model is not None
    adapter = daemon.home / "adapters" / job.fine_tuned_model.rsplit(":", 1)[1]
    shown = job.model_extra["fine_tuned_model_sha256"]  # type: ignore[index]
    return str(shown), (adapter / "adapter_model.safetensors").read_bytes()


def until_step(client: openai.OpenAI, job_id: str, step: int) -> None:
    until(lambda: len(steps_told(client, job_id)) >= step)


def damage_the_newest(home: Path) -> int:
    """Flip a bit of the newest checkpoint; returns its step."""
    states = home.glob("runs/*/out/checkpoints/step-*/state.safetensors")
    newest = max(states, key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    return int(newest.parent.name.removeprefix("step-"))


def test_five_kills_change_no_bit(saving: Daemon, tmp_path: Path) -> None:
    """At one of them the daemon and the shim are killed too, and the newest checkpoint damaged."""
    client = saving.client()
    undisturbed = made(saving, client, submit(client, tmp_path))

    chance = random.Random(5)
    job_id = submit(client, tmp_path)
    goal = damaged = 0
    for kill in range(KILLS):
        goal = max(goal, len(steps_told(client, job_id))) + chance.randint(4, 25)
        until_step(client, job_id, goal)
        (trainer,) = trainers(saving.home)
        if kill != DAMAGING:
            os.kill(trainer, signal.SIGKILL)
            until(lambda pid=trainer: pid not in processes_of(saving.home))  # type: ignore[misc]
            continue
        saving.kill()
        for pid in processes_of(saving.home):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not processes_of(saving.home))
        damaged = damage_the_newest(saving.home)
        saving.start()
        client = saving.client()
    assert made(saving, client, job_id) == undisturbed

    assert steps_told(client, job_id) == list(range(1, 301))
    messages = told(client, job_id)
    resumed = [message for message in messages if message.startswith("Resumed from step")]
    assert 1 <= len(resumed) == len(set(resumed)) <= KILLS
    assert sum("killed by signal 9" in message for message in messages) == KILLS - 1
    warning = (
        f"The checkpoint of step {damaged} is damaged: state.safetensors is not as it was "
        "published. It is not used."
    )
    assert messages.count(warning) == 1
    assert f"Resumed from step {damaged}" not in messages
    listed = client.fine_tuning.jobs.checkpoints.list(job_id, limit=100).data
    assert [checkpoint.step_number for checkpoint in listed] == [300, 200, 100]
    shown = saving.ftctl("show", job_id).stdout
    assert undisturbed[0] in shown.replace("\n", "")
