"""The real program, over a real socket pair and pipe, as its shim drives it."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from ftd.core.errors import invalid
from ftd.core.wire import (
    Accepted,
    Assign,
    Done,
    Fact,
    Failed,
    Saved,
    Started,
    Step,
    Stop,
    Stopped,
    decode_fact,
    encode,
)
from ftd.worker.train.__main__ import failure

NewJob = Callable[..., Any]
LIMIT_S = 60.0


class Shim:
    """Holds the other ends: sends commands, hears facts until the trainer closes the pipe."""

    def __init__(self, run_directory: Path, log: Path) -> None:
        self.channel, theirs = socket.socketpair()
        reader, writer = os.pipe()
        environment = os.environ | {
            "FTD_FACTS_FD": str(writer),
            "FTD_SHIM_PID": str(os.getpid()),
            "PYTHONPATH": str(Path.cwd()),
            "OMP_NUM_THREADS": "1",
        }
        with log.open("wb") as noise:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ftd.worker.train"],
                cwd=run_directory,
                env=environment,
                stdin=theirs,
                stdout=noise,
                stderr=noise,
                pass_fds=[writer],
                start_new_session=True,
            )
        theirs.close()
        os.close(writer)
        self._facts = os.fdopen(reader, "rb")
        self._alarm = threading.Timer(LIMIT_S, self.process.kill)
        self._alarm.start()

    def assign(self, job: Any, locks: tuple[int, ...] = ()) -> None:
        (job.root / "in" / "spec.json").write_text(job.spec.model_dump_json())
        line = encode(Assign(job=job.spec.job, attempt=job.spec.attempt))
        socket.send_fds(self.channel, [line], locks)

    def facts(self) -> Iterator[Fact]:
        for line in self._facts:
            yield decode_fact(line)

    def hear(self, kind: type[Any]) -> Any:
        """The next fact of this kind; those before it are dropped."""
        return next(fact for fact in self.facts() if isinstance(fact, kind))

    def end(self) -> int:
        self._alarm.cancel()
        self.channel.close()
        self._facts.close()
        return self.process.wait(timeout=LIMIT_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Shim]]:
    shims: list[Shim] = []

    def make(run_directory: Path) -> Shim:
        shims.append(Shim(run_directory, tmp_path / "log"))
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
    shim.assign(job, (lock,))
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
    shim.assign(job)
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
    shim.assign(job)
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
    shim.assign(job)
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


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (invalid("no good", code="bad", param="model"), "bad", "no good"),
        (MemoryError(), "out_of_memory", "The host has no memory left."),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "no_space",
            "The disk is full: No space left on device.",
        ),
        (
            ValueError("first line\nsecond line"),
            "trainer_error",
            "The trainer met an unexpected ValueError: first line",
        ),
        (
            RuntimeError(),
            "trainer_error",
            "The trainer met an unexpected RuntimeError: no reason given",
        ),
    ],
)
def test_a_fault_is_told_in_words(error: Exception, code: str, message: str) -> None:
    told = failure(error)
    assert (told.code, told.message) == (code, message)
