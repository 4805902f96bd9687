"""Homes with a past: a queue, a million events, or trainers that have said much already.

The rows are those that the daemon writes itself; only the time that they took is left out. A
running job is its rows, its run directory, and its kernel lock, which the caller holds.
"""

import fcntl
import json
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftd.core import wire
from ftd.core.dataset import Format, Report
from ftd.core.file import FINE_TUNE, File, FileStatus
from ftd.core.ids import Ids
from ftd.core.models import Model, ModelKind
from ftd.core.results import step_message
from ftd.host.home import Home
from ftd.launch import locks, spool
from ftd.store import events, files, models
from ftd.store.connection import connect
from ftd.store.schema import migrate
from ftd.store.store import STARTED

MODEL, TRAINING, PROJECT = "m", "file-bench", "default"
CREATED_AT = 1_700_000_000
STEP = {"train_loss": 1.2345, "train_mean_token_accuracy": 0.6789}
BATCH = 50_000

_IDS = Ids(random.Random(4).randbytes)


def found(root: Path) -> Home:
    """An empty home with a base model and a training file that was checked."""
    home = Home(root)
    home.make()
    (home.models / MODEL).mkdir()
    (home.models / MODEL / "config.json").write_text("{}")
    home.file(TRAINING).write_text("{}\n")
    migrate(home.database)
    model = Model(
        name=MODEL, project=models.SHARED, kind=ModelKind.BASE, base=MODEL,
        path=f"models/{MODEL}", sha256="0", created_at=CREATED_AT, facts={"context_tokens": 128},
    )  # fmt: skip
    training = File(
        seq=0, id=TRAINING, project=PROJECT, purpose=FINE_TUNE, filename="a.jsonl", bytes=3,
        sha256="0", created_at=CREATED_AT, status=FileStatus.PROCESSED,
        report=Report(format=Format.CHAT, examples=20, lines=20).to_json(),
    )  # fmt: skip
    with _writing(home) as tx:
        models.insert(tx, model)
        files.insert(tx, training)
    return home


def add_jobs(home: Home, count: int, state: str) -> list[str]:
    """Jobs in one state, the oldest first; returns their ids."""
    ids = [_IDS.job() for _ in range(count)]
    over = CREATED_AT if state in ("succeeded", "failed", "cancelled") else None
    rows = (
        (id_, PROJECT, CREATED_AT, over, MODEL, MODEL, f"ft:{MODEL}::{_IDS.model()}", TRAINING, 1,
         "supervised", "{}", state)
        for id_ in ids
    )  # fmt: skip
    with _writing(home) as tx:
        tx.executemany(
            "INSERT INTO jobs (id, project, created_at, finished_at, model, base, minted, "
            "training_file, seed, method, requested, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
    return ids


def add_events(home: Home, job: str, count: int) -> None:
    """A metrics event a step."""
    for start in range(1, count + 1, BATCH):
        rows = (
            (_IDS.event(), job, CREATED_AT, step_message(values), json.dumps(values), step)
            for step in range(start, min(start + BATCH, count + 1))
            for values in [{"step": step, "total_steps": count} | STEP]
        )
        with _writing(home) as tx:
            tx.executemany(
                "INSERT INTO events (id, job, created_at, level, type, message, data, step) "
                "VALUES (?, ?, ?, 'info', 'metrics', ?, ?, ?)",
                rows,
            )


@contextmanager
def running(home: Home, jobs: list[str]) -> Iterator[list[Path]]:
    """The jobs, which are `running`, live: their locks are held. Gives their run directories.

    The first has the CPU, so that the queue behind it waits.
    """
    held = []
    directories = [home.runs / _IDS.launch() for _ in jobs]
    with _writing(home) as tx:
        for job, run in zip(jobs, directories, strict=True):
            (run / "in").mkdir(parents=True)
            (run / "out").mkdir()
            (run / "assigned.json").write_text("{}")
            attempt = tx.execute(
                "INSERT INTO attempts (job, number, launch, devices, started_at) "
                "VALUES (?, 1, ?, '[\"cpu\"]', ?)",
                (job, run.name, CREATED_AT),
            ).lastrowid
            tx.execute("INSERT OR IGNORE INTO leases VALUES ('cpu', 0, ?, NULL)", (attempt,))
            events.tell(tx, job_id=job, event_id=_IDS.event(), now=CREATED_AT, message=STARTED)
            held.append(os.open(locks.job_lock(home.root, job), os.O_RDWR | os.O_CREAT, 0o600))
            fcntl.flock(held[-1], fcntl.LOCK_EX)
    try:
        yield directories
    finally:
        for lock in held:
            os.close(lock)


def prepare(run: Path, steps: int) -> Path:
    """A spool of so many steps beside a run directory; renamed to `spool` in it, it is said."""
    frames = bytearray()
    for step in range(1, steps + 1):
        fact = wire.Step(
            step=step, total_steps=steps + 1, learning_rate=2e-4, grad_norm=0.5, tokens=4096,
            loss_tokens=1000, seconds=0.05, **STEP,
        )  # fmt: skip
        frames += spool.frame(step, wire.encode(fact).rstrip(b"\n"))
    aside = run.with_suffix(".spool")
    aside.write_bytes(frames)
    return aside


@contextmanager
def _writing(home: Home) -> Iterator[sqlite3.Connection]:
    connection = connect(home.database)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()
