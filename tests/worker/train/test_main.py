"""The real program, over a real socket pair and pipe, as its shim drives it."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from ftd.core.wire import (
    Accepted,
    Done,
    Failed,
    Saved,
    Started,
    Step,
    Stop,
    Stopped,
    decode_fact,
    encode,
)
from tests.worker.shim import LIMIT_S, Shim

NewJob = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Shim]]:
    shims: list[Shim] = []

    def make(run_directory: Path) -> Shim:
        shims.append(Shim("ftd.worker.train", run_directory, tmp_path / "log"))
        return shims[-1]

    yield make
    for shim in shims:
        shim.process.kill()
        shim.end()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_job_from_start_to_end(
    new_job: NewJob, start: Callable[[Path], Shim], model_directory: Path, tmp_path: Path
) -> None:
    job = new_job(validation=3)
    shim = start(job.root)
    started = shim.hear(Started)
    assert started.pid == shim.process.pid
    assert {"torch", "transformers", "peft"} <= started.libraries.keys()
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    shim.assign(job.spec.job, job.spec, (lock,))
    os.close(lock)
    facts = []
    for fact in shim.facts():
        facts.append(fact)
        if isinstance(fact, Step):
            probe = os.open(tmp_path / "lock", os.O_RDWR)
            with pytest.raises(BlockingIOError):  # the trainer alone holds it now
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(probe)
    assert shim.end() == 0
    assert facts[0] == Accepted(job="ftjob-1", attempt=1)
    assert [fact.step for fact in facts if isinstance(fact, Step)] == [1, 2, 3, 4, 5, 6]
    assert isinstance(facts[-1], Done)
    saved = [fact for fact in facts if isinstance(fact, Saved)]
    assert [fact.step for fact in saved] == [3, 6]
    base = LlamaForCausalLM.from_pretrained(model_directory)
    prompt = torch.arange(10, 30)[None]
    with torch.no_grad():
        before = base(prompt).logits
        tuned = PeftModel.from_pretrained(base, job.root / "out" / saved[-1].path / "adapter")
        assert not torch.allclose(before, tuned(prompt).logits)


def test_a_stop_midway(new_job: NewJob, start: Callable[[Path], Shim]) -> None:
    job = new_job(n_epochs=50)
    shim = start(job.root)
    shim.assign(job.spec.job, job.spec)
    shim.hear(Step)
    shim.channel.sendall(encode(Stop(save=True)))
    facts = list(shim.facts())
    assert shim.end() == 0
    assert isinstance(facts[-1], Stopped)
    assert facts[-1].step < 150
    assert facts[-2] == [fact for fact in facts if isinstance(fact, Saved)][-1]
    assert facts[-2].step == facts[-1].step


def test_sigterm_is_a_stop_that_saves(new_job: NewJob, start: Callable[[Path], Shim]) -> None:
    job = new_job(n_epochs=50)
    shim = start(job.root)
    shim.assign(job.spec.job, job.spec)
    shim.hear(Step)
    shim.process.send_signal(signal.SIGTERM)
    facts = list(shim.facts())
    assert shim.end() == 0
    assert isinstance(facts[-1], Stopped)
    assert isinstance(facts[-2], Saved)


def test_a_bad_model_directory_fails_the_job(
    new_job: NewJob, start: Callable[[Path], Shim]
) -> None:
    job = new_job()
    (job.root / "in" / "model" / "config.json").unlink()
    shim = start(job.root)
    shim.assign(job.spec.job, job.spec)
    facts = list(shim.facts())
    assert shim.end() == 0
    assert isinstance(facts[-1], Failed)
    assert facts[-1].code == "invalid_model"
    assert "could not be loaded" in facts[-1].message
    assert "Traceback" not in facts[-1].message


@pytest.mark.parametrize("end", ["close", "sigterm"])
def test_an_idle_trainer_leaves_quietly(
    tmp_path: Path, start: Callable[[Path], Shim], end: str
) -> None:
    shim = start(tmp_path)
    shim.hear(Started)
    if end == "close":
        shim.channel.close()
    else:
        shim.process.send_signal(signal.SIGTERM)
    assert list(shim.facts()) == []
    assert shim.end() == 0


def test_it_does_not_outlive_its_shim(tmp_path: Path) -> None:
    """A shim in between dies; the kernel then closes the end of the pipe that the trainer had."""
    reader, writer = os.pipe()
    shim = (
        "import os, subprocess, sys\n"
        "environment = os.environ | {'FTD_SHIM_PID': str(os.getpid())}\n"
        f"command = [{sys.executable!r}, '-m', 'ftd.worker.train']\n"
        f"subprocess.Popen(command, env=environment, pass_fds=[{writer}])\n"
        "sys.stdin.read()\n"
    )
    ours, theirs = socket.socketpair()
    environment = os.environ | {"FTD_FACTS_FD": str(writer), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", shim],
        env=environment,
        stdin=theirs,
        stderr=subprocess.DEVNULL,
        pass_fds=[writer],
    ) as process:
        os.close(writer)
        theirs.close()
        with os.fdopen(reader, "rb") as facts, ours:
            assert isinstance(decode_fact(facts.readline()), Started)
            process.kill()
            assert facts.read() == b""


def test_it_does_not_start_for_another_parent(tmp_path: Path) -> None:
    environment = os.environ | {"FTD_SHIM_PID": "1", "FTD_FACTS_FD": "2"}
    ended = subprocess.run(
        [sys.executable, "-m", "ftd.worker.train"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ended.returncode == 1
    assert "not its shim 1" in ended.stderr


def test_a_trainer_writes_its_stack_when_it_is_asked_and_goes_on(
    new_job: NewJob, start: Callable[[Path], Shim], tmp_path: Path
) -> None:
    job = new_job(n_epochs=20)
    shim = start(job.root)
    shim.assign(job.spec.job, job.spec)
    shim.hear(Step)
    os.kill(shim.process.pid, signal.SIGUSR1)
    assert shim.hear(Done).step == 60
    log = (tmp_path / "log").read_text()
    assert "Current thread" in log
    assert "(most recent call first)" in log
    assert ' in attempt\n  File "' in log
