"""The campaign in short, and proof that its checker sees what it is there to see."""

import itertools
import json
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.chaos import checker, client, disk, lane, scrape, witness
from bench.chaos.__main__ import as_json, campaign
from bench.chaos.__main__ import faults as told_of
from bench.chaos.client import Client
from bench.chaos.faults import FAULTS
from bench.chaos.holds import Violation, until
from bench.chaos.lane import Tally
from bench.chaos.ledger import Ledger, Submission, Upload
from bench.chaos.nemesis import Nemesis
from bench.chaos.trainer import Course
from bench.chaos.world import Process, World

CYCLES, HOMES, SEED = 6, 2, 2026
MOST = 12  # cycles until a fault has met somebody; two in three do
METRICS = """\
# TYPE ftd_jobs gauge
ftd_jobs{state="succeeded"} 2.0
# TYPE ftd_jobs_created_total counter
ftd_jobs_created_total{method="supervised"} 2.0
# TYPE ftd_jobs_finished_total counter
ftd_jobs_finished_total{method="supervised",status="succeeded"} 2.0
"""


def test_nothing_is_lost_whatever_is_killed() -> None:
    tally = campaign(CYCLES, HOMES, SEED, 0)
    assert not tally.violations, "\n".join(tally.violations)
    assert tally.cycles == CYCLES
    assert tally.jobs > CYCLES
    assert set(tally.faults) <= {fault.name for fault in FAULTS}
    assert sum(tally.points.values()) > 0, "no daemon was killed"


@pytest.mark.parametrize(
    "name",
    ["checkpoint damaged", "database gone", "database taken away", "older database put back"],
)
def test_what_lies_on_the_disk_is_harmed(name: str, tmp_path: Path) -> None:
    """Each of these alone, until it has met somebody: a checkpoint, a job that goes on without."""
    faults = [fault for fault in FAULTS if fault.name.startswith(name)]
    world = World(tmp_path / "world", gpus=0, small=False, warm=True).found()
    ledger = Ledger(tmp_path / "ledger.jsonl")
    tally = Tally()
    try:
        for seed in range(SEED, SEED + MOST):
            lane.cycle_once(world, ledger, seed, tally, faults)
            if tally.passed_over or (tally.faults.total() and name != "checkpoint damaged"):
                break
    finally:
        ledger.close()
        world.raze()
    assert tally.faults.total() > 0
    assert tally.passed_over > 0 or name != "checkpoint damaged"


def test_a_frozen_shim_holds_no_fault_up(tmp_path: Path) -> None:
    """It cannot note that its trainer was killed before it goes on."""
    world = World(tmp_path / "world", gpus=0, small=False, warm=False).found()
    ledger = Ledger(tmp_path / "ledger.jsonl")
    try:
        world.ready()
        nemesis = Nemesis(world, Client(world, ledger, random.Random(SEED), "one"), whole(False))
        nemesis.client.upload()
        nemesis.client.submit()

        def begun() -> Process | None:
            trainers = [one for one in world.processes() if not one.shim]
            return next((one for one in trainers if nemesis.assigned(one)), None)

        trainer = until(begun, "the job begins", world.log)
        assert trainer is not None
        world.freeze(trainer.parent)
        job = nemesis.client.mine[0].id
        assert job is not None
        disk.bring_down(nemesis, job)
        assert not [one for one in world.processes() if one.pid in (trainer.pid, trainer.parent)]
    finally:
        ledger.close()
        world.raze()


def whole(answer: bool) -> random.Random:
    """Chance that lets a shim die with its trainer, or lets it live."""
    seeds = (seed for seed in itertools.count() if (random.Random(seed).random() < 0.5) is answer)
    return random.Random(next(seeds))


def test_a_fault_that_met_nobody_is_told() -> None:
    tally = Tally()
    tally.tried.update(fault.name for fault in FAULTS)
    tally.faults["daemon killed"] = 1
    told = dict(told_of(tally))
    assert told.keys() == {fault.name for fault in FAULTS}
    assert told["daemon killed"] == "1 of 1"
    assert told["second daemon"] == "NEVER HIT of 1"
    assert json.loads(as_json(tally, 1.0))["faults"] == {"daemon killed": 1}


def test_a_line_on_its_way_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "witness.jsonl"
    path.write_text('{"what": "step"}\n{"what": "sav')
    assert witness.last_deed(path) == "step"


def test_a_ledger_goes_back_with_its_database(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    names = ("file-1", "file-2", "file-0")
    kept, deleted, held = (Upload(sha256=name, lines=[], id=name) for name in names)
    early = Submission("early", "file-1", flood=False, id="ftjob-1", states=["queued"])
    ledger.uploads += [kept, deleted, held]
    held.deleting = held.deleted = True
    ledger.submissions.append(early)
    memory = ledger.recall()
    deleted.deleting = deleted.deleted = True
    early.states.append("running")
    early.events.append(("ftevent-1", {}))
    early.wish = "cancel"
    late = Upload(sha256="file-3", lines=[], id="file-3")
    ledger.uploads.append(late)
    ledger.submissions.append(Submission("late", "file-3", flood=False, id="ftjob-2"))

    assert ledger.go_back(memory) == [late]
    assert [job.nonce for job in ledger.jobs] == ["early"]
    assert (early.states, early.events, early.wish) == (["queued"], [], "run")
    assert ledger.files == [kept], "of the other the bytes may have gone"
    assert deleted.gone
    assert not deleted.deleted
    assert held.gone, "the job that needed it may have ended"
    ledger.close()


def test_a_wish_that_a_run_may_know_of_is_in_doubt(tmp_path: Path) -> None:
    """A later run of a paused job says that somebody resumed it, though no row does any more."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    asked, left = (
        Submission(name, "file-1", flood=False, id=f"ftjob-{name}", states=["paused"], wish="pause")
        for name in ("asked", "left")
    )
    ledger.submissions += [asked, left]
    memory = ledger.recall()
    for wish in ("run", "pause"):
        asked.grant(wish)
    ledger.go_back(memory)
    ledger.close()
    client.see(asked, "running")
    with pytest.raises(Violation, match="stays paused"):
        client.see(left, "running")


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

    forgotten = seen[-1] | {"what": "damaged", "job": job.id, "step": seen[-1]["step"], "left": 0}
    witness.check_redone(world, [*seen, forgotten, *again], [job.id], 0)

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


def test_the_checker_sees_metrics_that_are_not_those_of_the_rows() -> None:
    scrape.check_text(METRICS, {"succeeded": 2})
    with pytest.raises(Violation, match="3 jobs were created"):
        scrape.check_text(METRICS, {"succeeded": 3})
    with pytest.raises(Violation, match="0 jobs are succeeded"):
        scrape.check_text(METRICS, {"cancelled": 2})
    with pytest.raises(Violation, match="is no debt"):
        scrape.check_text(f"{METRICS}# TYPE ftd_events_total counter\nftd_events_total -1.0\n", {})
    with pytest.raises(Violation, match="is 0 when every job is over"):
        scrape.check_text(f"{METRICS}ftd_uploads_in_progress 1.0\n", {"succeeded": 2})


def test_the_checker_lets_no_job_fail(peace: Peace) -> None:
    """Not even on a full disk: it heals, and the job waits."""
    job = peace.client.mine[0]
    peace.change(
        "UPDATE jobs SET state = 'failed', error_code = 'no_space', error_message = 'It is full.', "
        f"fine_tuned_model = NULL WHERE id = '{job.id}'"
    )
    job.states.clear()
    with pytest.raises(Violation, match="does not fail"):
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
    upload = Upload(sha256="0", lines=[], id="file-of-which-no-row-knows")
    with pytest.raises(Violation, match=f"the bytes of {upload.id}"):
        checker.check_lost(peace.world, [upload])


def _course(peace: Peace) -> Course:
    job = peace.client.look(peace.client.mine[0])
    assert job is not None
    upload = peace.ledger.by_file(job["training_file"])
    return Course(
        upload.lines, seed=job["seed"], epochs=job["hyperparameters"]["n_epochs"], batch=1
    )
