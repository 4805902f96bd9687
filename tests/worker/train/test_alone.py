"""The trainer without a daemon: one command, its facts on stdout, its exit status."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftd.core.wire import (
    Done,
    Fact,
    Failed,
    Notice,
    Saved,
    Started,
    Step,
    Stopped,
    decode_fact,
)

NewJob = Callable[..., Any]
LIMIT_S = 120


def command(spec: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ftd.worker.train", str(spec), *arguments]


def alone(spec: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(spec, *arguments),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=LIMIT_S,
        **options,
    )


def facts(ended: subprocess.CompletedProcess[bytes]) -> list[Fact]:
    return [decode_fact(line) for line in ended.stdout.splitlines()]


def spec_of(job: Any) -> Path:
    """The job's spec as a file; its `out` is not made yet."""
    (job.root / "out").rmdir()
    path: Path = job.root / "spec.json"
    path.write_text(job.spec.model_dump_json())
    return path


def losses(told: list[Fact]) -> list[float | None]:
    return [fact.train_loss for fact in told if isinstance(fact, Step)]


def test_a_job_from_start_to_end(new_job: NewJob) -> None:
    job = new_job(validation=3)
    spec = spec_of(job)
    ended = alone(spec, "--root", str(job.root))
    assert ended.returncode == 0, ended.stderr.decode()
    told = facts(ended)
    assert isinstance(told[0], Started)
    assert {"torch", "transformers", "peft"} <= told[0].libraries.keys()
    assert [fact.step for fact in told if isinstance(fact, Step)] == [1, 2, 3, 4, 5, 6]
    saved = [fact for fact in told if isinstance(fact, Saved)]
    assert (job.root / "out" / saved[-1].path / "adapter" / "adapter_model.safetensors").is_file()
    memory = told[-2]
    assert isinstance(memory, Notice)
    assert memory.data is not None
    assert int(memory.data["peak_host_bytes"] or 0) > 2**20
    assert isinstance(told[-1], Done)
    (job.root / "out").rename(job.root / "first")
    job.run()  # the same in this process, as a daemon's trainer would
    assert losses(job.facts) == losses(told)


def test_the_root_is_the_current_directory(new_job: NewJob) -> None:
    job = new_job(n_epochs=1)
    ended = alone(spec_of(job), cwd=job.root)
    assert ended.returncode == 0, ended.stderr.decode()
    assert (job.root / "out" / "checkpoints" / "step-3").is_dir()


def test_weights_are_drawn_by_the_seed(new_job: NewJob) -> None:
    curves = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        job = new_job(name, n_epochs=1, seed=seed)
        (job.root / "in" / "model" / "model.safetensors").unlink()
        ended = alone(spec_of(job), "--root", str(job.root), "--random-weights")
        assert ended.returncode == 0, ended.stderr.decode()
        curves.append(losses(facts(ended)))
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]
    assert None not in curves[0]


@pytest.mark.parametrize("ask", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_stop_that_saves(new_job: NewJob, ask: signal.Signals) -> None:
    job = new_job(n_epochs=50)
    with subprocess.Popen(
        command(spec_of(job), "--root", str(job.root)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        told: list[Fact] = []
        for line in process.stdout:
            told.append(decode_fact(line))
            if isinstance(told[-1], Step) and told[-1].step == 1:
                process.send_signal(ask)
        assert process.wait(LIMIT_S) == 130
    assert isinstance(told[-1], Stopped)
    assert told[-1].step < 150
    assert [fact.step for fact in told if isinstance(fact, Saved)][-1] == told[-1].step


def test_a_fault_of_the_job_is_its_last_fact(new_job: NewJob) -> None:
    job = new_job(n_epochs=1)
    (job.root / "in" / "model" / "config.json").write_text("{}")
    ended = alone(spec_of(job), "--root", str(job.root))
    assert ended.returncode == 1
    failed = facts(ended)[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "invalid_model"
    assert failed.message in ended.stderr.decode()
    assert b"Traceback" not in ended.stderr


def test_nobody_reads(new_job: NewJob) -> None:
    job = new_job(n_epochs=1)
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        command(spec_of(job), "--root", str(job.root)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=LIMIT_S,
    )
    os.close(writer)
    assert ended.returncode == 1
    assert ended.stderr.decode().splitlines()[-1] == "nobody reads the facts any more"


def changed(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda spec: spec | fields


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda spec: {key: value for key, value in spec.items() if key != name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("optimizer"), "optimizer: Field required"),
        (changed(n_epochs=0), "n_epochs: Input should be greater than or equal to 1"),
        (changed(surprise=1), "surprise: Extra inputs are not permitted"),
        (changed(model="in/absent"), "in/absent: there is no such file or directory"),
        (changed(training_file="in/gone"), "in/gone: there is no such file or directory"),
        (changed(resume="in/model"), "the spec must not resume from a checkpoint"),
    ],
)
def test_a_bad_spec_is_one_line(
    new_job: NewJob, change: Callable[[dict[str, Any]], dict[str, Any]], reason: str
) -> None:
    job = new_job()
    spec = spec_of(job)
    spec.write_text(json.dumps(change(json.loads(spec.read_text()))))
    ended = alone(spec, "--root", str(job.root), "--random-weights")
    assert ended.returncode == 2
    assert ended.stdout == b""
    (line,) = ended.stderr.decode().splitlines()
    assert reason in line
    assert not (job.root / "out").exists()


def test_a_missing_spec_is_one_line(tmp_path: Path) -> None:
    ended = alone(tmp_path / "spec.json")
    assert ended.returncode == 2
    (line,) = ended.stderr.decode().splitlines()
    assert line == f"{tmp_path / 'spec.json'}: No such file or directory"
