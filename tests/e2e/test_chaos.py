"""The campaign in short, and proof that its checker sees what it is there to see."""

import random
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.chaos import checker, client, lane, witness
from bench.chaos.__main__ import campaign
from bench.chaos.client import Client
from bench.chaos.holds import Violation
from bench.chaos.ledger import Ledger
from bench.chaos.nemesis import FAULTS
from bench.chaos.trainer import Course
from bench.chaos.world import World

CYCLES, HOMES, SEED = 6, 2, 2026


def test_nothing_is_lost_whatever_is_killed() -> None:
    tally = campaign(CYCLES, HOMES, SEED, 0)
    assert not tally.violations, "\n".join(tally.violations)
    assert tally.cycles == CYCLES
    assert tally.jobs > CYCLES
    assert set(tally.faults) <= {fault.name for fault in FAULTS}
    assert sum(tally.points.values()) > 0, "no daemon was killed"


class Peace:
    """A home on which two jobs have come to their end, and nothing was wrong."""

    def __init__(self, scratch: Path) -> None:
        self.world = World(scratch, gpus=0, small=False, warm=False).found()
        self.ledger = Ledger(scratch / "ledger.jsonl")
        self.client = Client(self.world, self.ledger, random.Random(1), "peace")
        self.world.ready()
        self.client.upload()
        for _ in range(2):
            self.client.submit()
        lane.settle(self.world, self.client)
        self.check()

    def check(self) -> None:
        seen = witness.witnessed(self.world)
        checker.check_settled(self.world, self.ledger, self.client, seen)
        ids = [job.id for job in self.client.mine]
        witness.check_redone(self.world, seen, ids, 0)

    def change(self, sql: str) -> None:
        with sqlite3.connect(self.world.home.database) as db:
            assert db.execute(sql).rowcount > 0

    def end(self) -> None:
        self.ledger.close()
        self.world.raze()


@pytest.fixture
def peace(tmp_path: Path) -> Iterator[Peace]:
    made = Peace(tmp_path / "world")
    yield made
    made.end()


def test_the_checker_sees_what_is_wrong(peace: Peace) -> None:
    """Each harm is done to a home that was sound, and each is seen."""
    world, (job, other) = peace.world, peace.client.mine
    events, states = list(job.events), list(job.states)

    job.events.insert(1, job.events[0])
    with pytest.raises(Violation, match="own id"):
        checker.check_events(job, peace.client.look(job) or {}, _course(peace))
    job.events[:] = events
    job.states[:] = ["succeeded", "running"]
    with pytest.raises(Violation, match="a way from succeeded to running"):
        checker.check_states(job)
    job.states[:], job.wish = ["running", "paused"], "pause"
    with pytest.raises(Violation, match="stays paused"):
        client.see(job, "running")
    job.states[:], job.wish = states, "run"

    seen = witness.witnessed(world)
    twice = [line | {"pid": 1} for line in seen if line["job"] == job.id]
    with pytest.raises(Violation, match="one trainer at a time"):
        witness.check_witness([*seen, *twice])
    again = [line | {"at": line["at"] + 10**12} for line in twice]
    with pytest.raises(Violation, match=f"{job.id} goes on from step"):
        witness.check_redone(world, [*seen, *again], [job.id], 0)

    run = world.home.runs / "run-stray"
    run.mkdir()
    with subprocess.Popen(["sleep", "60"], cwd=run) as sleeper:
        try:
            with pytest.raises(Violation, match="without its shim"):
                checker.check_processes(world)
        finally:
            sleeper.kill()

    weights = next(world.home.adapters.glob("*/adapter_model.safetensors"))
    kept = weights.read_text()
    weights.write_text("0" * len(kept))
    with pytest.raises(Violation, match=r"as a run in peace leaves it|as published"):
        peace.check()
    weights.write_text(kept)
    (world.home.incoming / "half").write_bytes(b"")
    with pytest.raises(Violation, match="half done"):
        peace.check()
    (world.home.incoming / "half").unlink()
    peace.check()

    peace.change(f"DELETE FROM events WHERE job = '{other.id}' AND step = 3")
    other.events.clear()
    with pytest.raises(Violation, match="are told"):
        peace.check()


def test_the_checker_sees_what_is_lost(peace: Peace) -> None:
    job = peace.client.mine[0]
    newest = job.events[-1][0]
    peace.change(f"DELETE FROM events WHERE id = '{newest}'")
    with pytest.raises(Violation, match="is gone"):
        peace.client.read_events(job)
    peace.change("UPDATE files SET deleted_at = 1 WHERE purpose = 'fine-tune'")
    with pytest.raises(Violation, match="is listed"):
        checker.check_acknowledged(peace.world, peace.ledger)


def _course(peace: Peace) -> Course:
    job = peace.client.look(peace.client.mine[0])
    assert job is not None
    upload = peace.ledger.by_file(job["training_file"])
    return Course(
        upload.lines, seed=job["seed"], epochs=job["hyperparameters"]["n_epochs"], batch=1
    )
