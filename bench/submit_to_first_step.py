"""From submit to the first step: a warm daemon, a cold one, and a plain script, in one run.

    python -m bench.submit_to_first_step [--rounds 5] [--anyway] [--json]

warm     a daemon that keeps a trainer ready (the default); it is ready before each measurement
cold     a daemon with training.warm = false: the trainer's imports are paid by the job
plain    a script with transformers and PEFT, from the start of Python to its first optimizer step

A submit is timed from the moment before CreateJob is called to that in which a watching client has
the event of step 1; both daemons have run for a while and are idle, and the file, which no job has
used before, was uploaded before. It is LoRA on SmolLM2-135M-Instruct with 160 short conversations
in batches of 8; the plain script takes the very 8 examples of the job's first step, and is timed to
the line that it prints after it. All use the same number of threads: every core.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from bench import data
from bench.machine import Spread, alternate, describe, require_quiet, say, table
from ftd.v1 import jobs_pb2, jobs_pb2_grpc
from ftd.worker.train.schedule import Stream, order
from tests.running import Daemon, processes_of, running, until
from tests.starter import starter_model

STARTER = "smollm2-135m-instruct"
PLAIN = Path(__file__).resolve().parent / "plain" / "peft_sft.py"
EXAMPLES, BATCH, SEED = 160, 8, 42
LIMIT_S = 300.0
MOST = 0.4  # of the plain script's time


class Served:
    """A daemon, and the time that its jobs take to their first step."""

    def __init__(self, daemon: Daemon, *, warm: bool) -> None:
        self._daemon = daemon
        self._warm = warm
        daemon.ftctl("models", "add", STARTER, str(starter_model()), timeout_s=LIMIT_S)
        channel = grpc.insecure_channel(f"unix:{daemon.endpoint['grpc']['unix']}")
        self._jobs = jobs_pb2_grpc.JobsStub(channel)
        self._metadata = (("authorization", f"Bearer {daemon.key}"),)

    def first_step_s(self, examples: list[dict[str, Any]]) -> float:
        training = self._upload(examples)
        self.settle()
        request = jobs_pb2.CreateJobRequest(
            model=STARTER,
            training_file=training,
            seed=SEED,
            hyperparameters=jobs_pb2.Hyperparameters(n_epochs=1, batch_size=BATCH),
        )
        started = time.perf_counter()
        job = self._jobs.CreateJob(request, metadata=self._metadata)
        self._until_metrics(job.id)
        spent = time.perf_counter() - started
        self._jobs.CancelJob(jobs_pb2.CancelJobRequest(id=job.id), metadata=self._metadata)
        return spent

    def _upload(self, examples: list[dict[str, Any]]) -> str:
        file = ("training.jsonl", data.lines(examples))
        with self._daemon.client() as client:
            return client.files.create(file=file, purpose="fine-tune").id

    def _until_metrics(self, job: str) -> None:
        request = jobs_pb2.WatchEventsRequest(job_id=job)
        watch = self._jobs.WatchEvents(request, metadata=self._metadata, timeout=LIMIT_S)
        told = []
        for event in watch:
            if event.type == "metrics":
                watch.cancel()
                return
            told.append(event.message)
        sys.exit("\n".join(["the job ended before its first step:", *told]))

    def settle(self) -> None:
        """Wait until no trainer works any more; where one is kept ready, until it is, and alone."""
        until(self._idle, LIMIT_S, self._daemon.log)

    def _idle(self) -> bool:
        if not self._warm:
            return not processes_of(self._daemon.home)
        url = self._daemon.url.removesuffix("/v1") + "/metrics"
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            ready = "\nftd_trainer_warm 1.0\n" in answer.read().decode()
        return ready and len(processes_of(self._daemon.home)) == 2  # with its shim


def plain_s(scratch: Path, examples: list[dict[str, Any]], threads: int) -> float:
    first = order(SEED, Stream.TRAINING, 0, len(examples))[:BATCH]
    batch = scratch / "batch.jsonl"
    batch.write_bytes(data.lines([examples[number] for number in first]))
    command = [sys.executable, str(PLAIN), str(starter_model()), str(batch), str(threads)]
    started = time.perf_counter()
    with (scratch / "plain.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        with process, process.stdout:
            line = process.stdout.readline()
            spent = time.perf_counter() - started
    if not line.startswith(b"step 1"):
        sys.exit((scratch / "plain.log").read_text())
    return spent


def measure(scratch: Path, rounds: int) -> dict[str, Spread]:
    threads = os.cpu_count() or 1
    environment = dict.fromkeys(("OMP_NUM_THREADS", "FTD_TRAINING__THREADS"), str(threads))
    os.environ.update(environment)
    examples = data.conversations(EXAMPLES)
    uploads = iter(range(1, len(examples)))

    def settled() -> list[dict[str, Any]]:
        """Wait for all quiet; the same examples from another one on: nobody has seen this file."""
        for each in served.values():
            each.settle()
        turn = next(uploads)
        return examples[turn:] + examples[:turn]

    served: dict[str, Served] = {}
    with ExitStack() as stack:
        for name in ("warm", "cold"):
            switch = {"FTD_TRAINING__WARM": "true" if name == "warm" else "false"}
            daemon = running(scratch / name, environment=environment | switch)
            served[name] = Served(stack.enter_context(daemon), warm=name == "warm")
        subjects: dict[str, Callable[[], float]] = {
            "warm": lambda: served["warm"].first_step_s(settled()),
            "cold": lambda: served["cold"].first_step_s(settled()),
            "plain": lambda: plain_s(scratch, settled(), threads),
        }
        say("once each, not counted: files are in memory from here on")
        for work in subjects.values():
            work()
        return alternate(subjects, rounds)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    require_quiet(anyway=options.anyway)
    with tempfile.TemporaryDirectory(prefix="ftd-bench-") as scratch:
        found = measure(Path(scratch), options.rounds)
    share = found["warm"].median / found["plain"].median
    if options.json:
        print(json.dumps({name: spread.values for name, spread in found.items()}))
        return 0 if share <= MOST else 1
    print(f"{describe()}; seconds to the first step")
    print(f"median (least to most) of {options.rounds} rounds")
    table(list(found.items()))
    word = "holds" if share <= MOST else "FAILS"
    table([(f"warm against plain: at most {MOST:g}", f"{share:.2f} {word}")])
    return 0 if share <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
