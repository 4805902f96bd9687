"""Pause, resume and reboot a real training: it ends with the weights that it would have had."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.test_killed import more_steps
from tests.e2e.test_story import ended, upload
from tests.running import Daemon, processes_of, small_talk, until

STEPS = 200


def create(client: openai.OpenAI, files: dict[str, str]) -> str:
    return client.fine_tuning.jobs.create(
        model="tiny",
        seed=11,
        hyperparameters={"n_epochs": 2, "batch_size": 1},
        training_file=files["training"],
        validation_file=files["validation"],
    ).id


def weights(daemon: Daemon, client: openai.OpenAI, job_id: str) -> str:
    """The hash of the adapter that the job ends with."""
    job = ended(client, job_id)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model is not None
    shown = daemon.ftctl("models", "show", job.fine_tuned_model, "-o", "json")
    sha256: str = json.loads(shown.stdout)["sha256"]
    return sha256


def story(client: openai.OpenAI, job_id: str) -> tuple[list[str], list[dict[str, Any]]]:
    """What was told, oldest first, and what was measured at each step, but for the speed."""
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=1000))[::-1]
    measured: list[dict[str, Any]] = []
    for event in events:
        if event.type == "metrics":
            data: dict[str, Any] = dict(event.data)  # type: ignore[call-overload]
            del data["tokens_per_second"]
            measured.append(data)
    return [event.message for event in events], measured


def test_a_pause_and_a_reboot_change_no_bit(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon = own_daemon
    client = daemon.client(_strict_response_validation=False)  # it knows no `paused`
    files = {
        "training": upload(client, small_talk(tmp_path / "training.jsonl", STEPS // 2)),
        "validation": upload(client, small_talk(tmp_path / "validation.jsonl", 4, start=1000)),
    }
    undisturbed = create(client, files)
    wanted = weights(daemon, client, undisturbed)

    job_id = create(client, files)
    more_steps(client, job_id, 5)
    assert client.fine_tuning.jobs.pause(job_id).status == "running"
    until(lambda: client.fine_tuning.jobs.retrieve(job_id).status == "paused")
    until(lambda: not processes_of(daemon.home))
    daemon.kill()
    daemon.start()
    client = daemon.client(_strict_response_validation=False)
    assert client.fine_tuning.jobs.retrieve(job_id).status == "paused"
    assert daemon.ftctl("resume", job_id).stderr == "resumed\n"
    more_steps(client, job_id, 5)
    for pid in processes_of(daemon.home):  # a shutdown asks everybody, shims and trainers
        os.kill(pid, signal.SIGTERM)

    assert weights(daemon, client, job_id) == wanted
    told, measured = story(client, job_id)
    assert [step["step"] for step in measured] == list(range(1, STEPS + 1)), "once each, in order"
    assert measured == story(client, undisturbed)[1]
    assert told.count("Fine-tuning job resumed") == 1
    for step in _halts(told):
        before, after = f"Step {step}/{STEPS}:", f"Step {step + 1}/{STEPS}:"
        at = told.index(f"Resumed from step {step}")
        assert next(m for m in told[at::-1] if m.startswith("Step ")).startswith(before)
        assert next(m for m in told[at:] if m.startswith("Step ")).startswith(after)
    listed = client.fine_tuning.jobs.checkpoints.list(job_id)
    assert {checkpoint.step_number for checkpoint in listed} == {STEPS // 2, STEPS}, "epochs alone"
    with pytest.raises(openai.BadRequestError, match="already completed"):
        client.fine_tuning.jobs.pause(job_id)


def _halts(told: list[str]) -> list[int]:
    """The steps after which the trainer was stopped, as it was told when it had, and when the
    next one went on."""
    paused = [m for m in told if m.startswith("Fine-tuning job paused after step ")]
    stopped = [m for m in told if m.startswith("The trainer was stopped after step ")]
    resumed = [int(m.split()[-1]) for m in told if m.startswith("Resumed from step ")]
    assert (len(paused), len(stopped), len(resumed)) == (1, 1, 2)
    assert paused == [f"Fine-tuning job paused after step {resumed[0]}"]
    assert stopped[0].split(".")[0].endswith(f"step {resumed[1]}")
    return resumed
