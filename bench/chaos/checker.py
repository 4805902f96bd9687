"""What must be true of a home, seen from outside: by its API, its rows, its disk, the kernel's
locks and processes, and what the trainers' witness wrote down.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.chaos.client import JOBS, Client
from bench.chaos.holds import expect
from bench.chaos.ledger import Ledger, Submission, Upload
from bench.chaos.trainer import WEIGHTS, Course
from bench.chaos.witness import Seen, check_witness
from bench.chaos.world import World
from ftd.core.job import FINAL, MOVES, State

ONCE = (
    "Created fine-tuning job",
    "Validating",
    "Files validated",
    "Fine-tuning job started",
    "Resumed from step",
    "Checkpoint created",
    "New fine-tuned model",
    "The job has successfully",
)
TO_CHECK = ("files", "adapters", "models", "cache")  # where nothing half done may stay
PAGE = 100


@contextlib.contextmanager
def rows(world: World) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{world.home.database.as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        yield connection
    finally:
        connection.close()


# At any moment at which the daemon serves.


def check_acknowledged(world: World, ledger: Ledger) -> None:
    """Nothing that was acknowledged is lost; a daemon that answers nothing now says nothing.

    The client may be at work: what it was told before we ask is what must be there.
    """
    uploaded = [upload for upload in ledger.uploads if upload.id]
    deleted = [upload.id for upload in ledger.uploads if upload.deleted]
    listed = client_list(world, "/files?limit=10000")
    if listed is not None:
        found = {file["id"] for file in listed}
        for upload in uploaded:
            kept = upload.id in found or upload.deleting
            expect(kept, f"the uploaded file {upload.id} is listed")
        back = found & set(deleted)
        expect(not back, "no deleted file is listed", *back)
    submitted = [submission.id for submission in ledger.jobs]
    told = all_jobs(world)
    if told is not None:
        lost = set(submitted) - {job["id"] for job in told}
        expect(not lost, "every acknowledged job is listed", *lost)
        nonces = Counter((job["metadata"] or {}).get("nonce") for job in told)
        expect(max(nonces.values(), default=1) == 1, "a submission makes one job", nonces)
        asked = {submission.nonce for submission in ledger.submissions}
        expect(nonces.keys() <= asked, "every job was asked for", nonces.keys() - asked)


def check_live_rows(world: World) -> None:
    """Leases belong to attempts that live, and of a job there is one at most."""
    with rows(world) as db:
        stray = db.execute(
            "SELECT leases.device, attempts.id FROM leases JOIN attempts "
            "ON attempts.id = leases.attempt WHERE attempts.ended_at IS NOT NULL"
        ).fetchall()
        expect(not stray, "no lease of an attempt that has ended", [tuple(row) for row in stray])
        # Of one that an older database did not know, nobody can tell which of several GPUs it has.
        without = db.execute(
            "SELECT id, job FROM attempts WHERE ended_at IS NULL "
            "AND id NOT IN (SELECT attempt FROM leases WHERE attempt IS NOT NULL) "
            "AND NOT (devices = '[]' AND ?)",
            (world.older,),
        ).fetchall()
        expect(not without, "a living attempt has its lease", [tuple(row) for row in without])


# When the faults are over and every job has ended.


def check_settled(world: World, ledger: Ledger, client: Client, seen: Seen) -> None:
    """Everything, of this cycle's jobs in detail."""
    check_acknowledged(world, ledger)
    for submission in client.mine:
        if submission.id is not None:
            check_job(world, ledger, client, submission, seen)
    check_files(world, ledger)
    check_database(world)
    check_disk(world)
    check_processes(world)
    check_witness(seen)


def check_job(
    world: World, ledger: Ledger, client: Client, submission: Submission, seen: Seen
) -> None:
    """One job of the cycle: its states, its last wish, its events, its models."""
    job = client.look(submission)
    expect(job is not None and client.read_events(submission), f"{submission.id} is answered")
    assert job is not None
    check_states(submission)
    if submission.wish == "cancel":
        expect(job["status"] == "cancelled", f"{job['id']} was cancelled", job["status"])
    if job["status"] == "cancelled":
        asked = submission.wish == "cancel" or submission.wish_in_doubt
        expect(asked, f"somebody cancelled {job['id']}", submission)
    upload = ledger.by_file(submission.training_file)
    if job["status"] == "failed":  # only because somebody deleted its file, and that is forgotten
        bereft = upload.gone and job["error"]["code"] == "missing_input"
        expect(bereft, f"{job['id']} does not fail", job["error"], submission.events[-4:])
    epochs = job["hyperparameters"]["n_epochs"]
    course = Course(upload.lines, seed=job["seed"], epochs=epochs, batch=1)
    check_events(submission, job, course)
    if job["status"] == "succeeded":
        check_models(world, job, course)
        taken = (line for line in seen if line["what"] == "step")
        steps = {line["step"] for line in taken if line["job"] == job["id"]}
        expect(set(range(1, course.steps + 1)) <= steps, f"every step of {job['id']} was taken")


def check_states(submission: Submission) -> None:
    """Every state that was seen can be reached from the one before; what is final stays."""
    for before, after in pairwise(submission.states):
        legal = State(after) in reachable(State(before))
        expect(legal, f"a way from {before} to {after}", submission.states)


def reachable(state: State) -> frozenset[State]:
    found: set[State] = set()
    ahead = {state}
    while ahead:
        ahead = {after for before in ahead for after in MOVES[before]} - found
        found |= ahead
    return frozenset(found)


def check_events(submission: Submission, job: Mapping[str, Any], course: Course) -> None:
    events = [event for _, event in submission.events]
    ids = Counter(id_ for id_, _ in submission.events)
    expect(max(ids.values(), default=1) == 1, "every event has its own id", ids)
    steps = [event["data"]["step"] for event in events if event["type"] == "metrics"]
    expect(steps == sorted(set(steps)), "each step is told once and in order", steps)
    if job["status"] == "succeeded":
        every = list(range(1, course.steps + 1))
        expect(steps == every, f"the steps of {job['id']} are told: 1 to {course.steps}", steps)
    said = Counter(event["message"] for event in events if event["type"] == "message")
    for message, count in said.items():
        if message.startswith(ONCE):
            expect(count == 1, f"{message!r} is said once to {job['id']}", count)
    if job["status"] == "succeeded":
        epochs = course.steps // course.epoch_steps
        made = sum(message.startswith("Checkpoint created") for message in said)
        expect(made == epochs, f"{job['id']} tells {epochs} checkpoints", said)


def check_models(world: World, job: Mapping[str, Any], course: Course) -> None:
    """Every checkpoint that is listed is whole, and its weights are those of a run in peace."""
    answer = world.ask("GET", f"{JOBS}/{job['id']}/checkpoints?limit={PAGE}")
    expect(answer is not None and answer.good, "the checkpoints are listed", answer)
    assert answer is not None
    listed = {c["fine_tuned_model_checkpoint"]: c["step_number"] for c in answer.body["data"]}
    epochs = course.steps // course.epoch_steps
    expect(len(listed) == epochs, f"{epochs} checkpoints of {job['id']}", listed)
    with rows(world) as db:
        paths = dict(
            db.execute("SELECT name, path FROM models WHERE job = ?", (job["id"],)).fetchall()
        )
        for sha256, path in db.execute(
            "SELECT sha256, path FROM checkpoints WHERE job = ?", (job["id"],)
        ):
            if (world.home.root / path).exists():  # old resume points may have gone
                # Of one that we have damaged the model alone is of use to anybody yet.
                part = "adapter/" if path in world.damaged else ""
                check_manifest(world.home.root / path, sha256, part)
    for name, step in [*listed.items(), (job["fine_tuned_model"], course.steps)]:
        weights = world.home.root / paths[name] / WEIGHTS
        expect(weights.exists(), f"the weights of {name}", str(weights))
        expect(weights.read_text() == course.value(step), f"{name} is as a run in peace leaves it")
    content = world.ask("GET", f"/files/{job['result_files'][0]}/content?format=csv")
    expect(content is not None and content.good, "the result file is there", content)
    assert content is not None
    lines = content.body.decode().splitlines()
    expect(len(lines) == course.steps + 1, f"a line for each of {course.steps} steps", len(lines))


def check_manifest(checkpoint: Path, sha256: str, part: str) -> None:
    """What it names is as it was published, as far as the names begin with `part`."""
    manifest = (checkpoint / "MANIFEST.json").read_bytes()
    expect(hashlib.sha256(manifest).hexdigest() == sha256, f"the manifest of {checkpoint}")
    files = (file for file in json.loads(manifest)["files"] if file["name"].startswith(part))
    for file in files:
        data = (checkpoint / file["name"]).read_bytes()
        whole = hashlib.sha256(data).hexdigest() == file["sha256"]
        expect(whole, f"{file['name']} of {checkpoint} as published")


def check_files(world: World, ledger: Ledger) -> None:
    """What is there is what somebody sent, byte for byte; nobody's half upload is."""
    sent = {upload.sha256 for upload in ledger.uploads}
    gone = {upload.id for upload in ledger.uploads if upload.gone}
    for file in client_list(world, "/files?limit=10000&purpose=fine-tune") or []:
        if file["id"] in gone:
            continue
        content = world.ask("GET", f"/files/{file['id']}/content")
        expect(content is not None and content.good, f"{file['id']} has its bytes", content)
        assert content is not None
        sha256 = hashlib.sha256(content.body).hexdigest()
        expect(sha256 in sent, f"{file['id']} is what was sent", len(content.body))
        known = {upload.id: upload.sha256 for upload in ledger.uploads if upload.id}
        expect(known.get(file["id"], sha256) == sha256, f"{file['id']} is as it was sent")


def check_lost(world: World, lost: Sequence[Upload]) -> None:
    """The bytes of files that an older database does not know are there, for whoever needs them.
    They go after so many days, which a clock that was set may have made of seconds."""
    if world.clock.exists():
        return
    for upload in lost:
        assert upload.id is not None
        named = (world.home.files, world.home.unknown / "files")
        found = [path for place in named for path in place.glob(f"{upload.id}*")]
        hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
        expect(upload.deleting or upload.sha256 in hashes, f"the bytes of {upload.id}", *found)


def check_database(world: World) -> None:
    check_live_rows(world)
    with rows(world) as db:
        sound = [row[0] for row in db.execute("PRAGMA integrity_check")]
        expect(sound == ["ok"], "the database is sound", *sound)
        expect(not db.execute("PRAGMA foreign_key_check").fetchall(), "references hold")
        live = db.execute("SELECT id, job FROM attempts WHERE ended_at IS NULL").fetchall()
        expect(not live, "no attempt lives when every job is over", [tuple(row) for row in live])
        leases = [tuple(row) for row in db.execute("SELECT device, slot FROM leases")]
        expect(not leases, "no device is lent when every job is over", leases)


def check_disk(world: World) -> None:
    """Nothing half done is left where things are kept."""
    left = [
        str(path)
        for name in TO_CHECK
        for path in (world.home.root / name).rglob("*")
        if path.suffix in (".tmp", ".part", ".draft") or path.name.startswith(".")
    ]
    left += [str(path) for path in world.home.incoming.iterdir()]
    left += [str(path) for path in world.home.root.glob("*.tmp")]
    expect(not left, "nothing half done is left", *left)


def check_processes(world: World) -> None:
    """Only the trainer that waits for a job may be there, below its shim; no lock is held."""
    found = world.processes()
    shims = {process.pid for process in found if process.shim}
    orphans = [process for process in found if not process.shim and process.parent not in shims]
    expect(not orphans, "no trainer without its shim", *orphans)
    expect(len(shims) <= 1, "one shim that waits for a job at most", *found)
    held = locked(world)
    expect(not held, "no lock is held when every job is over", *held)


def locked(world: World) -> list[str]:
    """The home's lock files that somebody holds; the kernel's list is read and nothing touched."""
    lines = Path("/proc/locks").read_text().splitlines()
    held = {line.split()[-3] for line in lines}
    return [
        path.name
        for directory in (world.home.root / "locks", world.scratch / "home.gpu-locks")
        if directory.is_dir()
        for path in directory.iterdir()
        if _kernel_name(path) in held
    ]


def _kernel_name(path: Path) -> str:
    """A file as /proc/locks names it."""
    status = path.stat()
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"


# Small things.


def client_list(world: World, path: str) -> list[dict[str, Any]] | None:
    answer = world.ask("GET", path, timeout_s=30)
    if answer is None or not answer.good:
        return None
    data: list[dict[str, Any]] = answer.body["data"]
    return data


def all_jobs(world: World) -> list[dict[str, Any]] | None:
    """Every job, page by page."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = client_list(world, f"{JOBS}?limit={PAGE}{after}")
        if page is None:
            return None
        found += page
        if len(page) < PAGE:
            return found
        after = f"&after={page[-1]['id']}"


def final(state: str) -> bool:
    return State(state) in FINAL
