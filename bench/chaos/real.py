"""Kills of real training: a tiny random model on the CPU, and the same weights bit for bit.

One job trains in peace. Another with the same file and seed has its trainer killed K times at
random steps, and is paused and resumed once where the daemon can do that. The weights of both are
the same bytes, and every step is told once.
"""

import hashlib
import os
import signal
import tempfile
from pathlib import Path
from random import Random

import openai

from bench.chaos.lane import Tally
from bench.machine import say
from ftd.config import Training
from tests.running import Daemon, processes_of, running, small_talk, until
from tests.tiny import tiny_model

EXAMPLES, BATCH, EPOCHS = 60, 2, 4
STEPS = EXAMPLES // BATCH * EPOCHS
EVERY = 5
SEED = 11
PATIENCE_S = 300.0


def real(kills: int, seed: int) -> Tally:
    """What was done, and what went wrong."""
    tally = Tally(cycles=1)
    config = "[training]\ncontext_tokens = 256\nattempts = 100\nretry_s = 0\n"
    if "checkpoint_every_steps" in Training.model_fields:
        config += f"checkpoint_every_steps = {EVERY}\n"
    with tempfile.TemporaryDirectory(prefix="ftd-real-") as scratch:
        root = Path(scratch)
        model = tiny_model(root / "model")
        with running(root / "home", config=config) as daemon:
            daemon.ftctl("models", "add", "tiny", str(model))
            # The SDK knows no status "paused".
            client = daemon.client(_strict_response_validation=False)
            with small_talk(root / "training.jsonl", EXAMPLES).open("rb") as file:
                training = client.files.create(file=file, purpose="fine-tune").id
            peaceful = _weights(daemon, client, _submit(client, training))
            job = _submit(client, training)
            _disturb(
                daemon, client, job, sorted(Random(seed).sample(range(2, STEPS), kills)), tally
            )
            disturbed = _weights(daemon, client, job)
            told = _steps(client, job)
            tally.jobs, tally.events = 2, 2 * STEPS
            if disturbed != peaceful:
                tally.violations.append(f"VIOLATION: weights {disturbed}, in peace {peaceful}")
            if told != list(range(1, STEPS + 1)):
                tally.violations.append(f"VIOLATION: steps told {told}")
            say(f"weights after {kills} kills {disturbed}, in peace {peaceful}")
    for violation in tally.violations:
        say(violation)
    return tally


def _submit(client: openai.OpenAI, training: str) -> str:
    hyperparameters = {"n_epochs": EPOCHS, "batch_size": BATCH}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=training, seed=SEED, hyperparameters=hyperparameters,  # type: ignore[arg-type]
    )  # fmt: skip
    return job.id


def _disturb(
    daemon: Daemon, client: openai.OpenAI, job: str, steps: list[int], tally: Tally
) -> None:
    """Kill the trainer once each of these steps has been told; pause it in the middle."""
    for number, step in enumerate(steps):
        until(lambda step=step: _reached(client, job) >= step, PATIENCE_S, daemon.log)  # type: ignore[misc]
        trainers = [pid for pid in processes_of(daemon.home) if _trains(pid)]
        for pid in trainers:
            os.kill(pid, signal.SIGKILL)
        tally.faults["trainer killed"] += bool(trainers)
        if number == len(steps) // 2:
            _pause(daemon, client, job, tally)


def _pause(daemon: Daemon, client: openai.OpenAI, job: str, tally: Tally) -> None:
    try:
        client.fine_tuning.jobs.pause(job)
    except openai.NotFoundError:
        return  # this daemon cannot
    until(lambda: _status(client, job) == "paused", PATIENCE_S, daemon.log)
    client.fine_tuning.jobs.resume(job)
    tally.faults["paused and resumed"] += 1


def _weights(daemon: Daemon, client: openai.OpenAI, job: str) -> str:
    """The sha256 of the adapter's weights, once the job has succeeded."""
    over = ("succeeded", "failed", "cancelled")
    until(lambda: _status(client, job) in over, PATIENCE_S, daemon.log)
    done = client.fine_tuning.jobs.retrieve(job)
    assert done.status == "succeeded", f"{done.error}\n{daemon.log()}"
    assert done.fine_tuned_model is not None
    adapter = daemon.home / "adapters" / done.fine_tuned_model.rsplit(":", 1)[1]
    return hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def _status(client: openai.OpenAI, job: str) -> str:
    return client.fine_tuning.jobs.retrieve(job).status


def _steps(client: openai.OpenAI, job: str) -> list[int]:
    events = list(client.fine_tuning.jobs.list_events(job, limit=1000))
    return [e.data["step"] for e in reversed(events) if e.type == "metrics"]  # type: ignore[index]


def _reached(client: openai.OpenAI, job: str) -> int:
    return max(_steps(client, job), default=0)


def _trains(pid: int) -> bool:
    """Whether this is a trainer with a job: not a shim, and not one that waits."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assigned = Path(f"/proc/{pid}/cwd/assigned.json").exists()
    except OSError:
        return False
    return b"shim.main" not in command and assigned
