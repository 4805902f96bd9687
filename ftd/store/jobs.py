"""Jobs as rows. `move` is the only statement that changes a state."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from ftd.core.errors import FtdError, Kind
from ftd.core.hyperparams import Hyperparameters, Requested
from ftd.core.job import FINAL, Job, JobError, State, Want, sources
from ftd.core.schedule import OpenJob
from ftd.store.db import Database, Read, Row, Transaction

_COLUMNS = (
    "seq, id, project, created_at, finished_at, model, base, minted, training_file, "
    "validation_file, suffix, seed, method, requested, hyperparameters, metadata, priority, state, "
    "want, wait_reason, phase, error_code, error_message, error_param, fine_tuned_model, "
    "fine_tuned_model_sha256, trained_tokens, result_file, step, total_steps, estimated_finish"
)


def insert(tx: Transaction, job: Job) -> int:
    """Store a new job; returns its `seq`, which is assigned here, and the given one ignored."""
    seq = tx.execute(
        "INSERT INTO jobs (id, project, created_at, model, base, minted, training_file, "
        "validation_file, suffix, seed, method, requested, hyperparameters, metadata, priority, "
        "state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job.id,
            job.project,
            job.created_at,
            job.model,
            job.base,
            job.minted,
            job.training_file,
            job.validation_file,
            job.suffix,
            job.seed,
            job.method,
            json.dumps(asdict(job.requested)),
            None if job.hyperparameters is None else json.dumps(asdict(job.hyperparameters)),
            None if job.metadata is None else json.dumps(dict(job.metadata)),
            job.priority,
            job.state,
        ),
    ).lastrowid
    assert seq is not None
    return seq


def move(
    tx: Transaction,
    job_id: str,
    to: State,
    *,
    now: int,
    error: JobError | None = None,
    fine_tuned_model: str | None = None,
) -> bool:
    """Move a job if the table of moves allows it from where it is; False if it does not.

    Of several racers exactly one is told True. A final state takes its time and its reason with
    it; a waiting reason and a phase belong to the state that is left.
    """
    before = sorted(sources(to))
    cursor = tx.execute(
        "UPDATE jobs SET state = ?, finished_at = ?, error_code = ?, error_message = ?, "
        "error_param = ?, fine_tuned_model = ?, wait_reason = NULL, phase = NULL, "
        "estimated_finish = NULL, retry_at = NULL "
        f"WHERE id = ? AND state IN ({', '.join('?' * len(before))})",
        (
            to,
            now if to in FINAL else None,
            error.code if error else None,
            error.message if error else None,
            error.param if error else None,
            fine_tuned_model,
            job_id,
            *before,
        ),
    )
    return cursor.rowcount == 1


def wish(tx: Transaction, job_id: str, want: Want) -> None:
    tx.execute("UPDATE jobs SET want = ? WHERE id = ?", (want, job_id))


def resolve(tx: Transaction, job_id: str, hyperparameters: Hyperparameters) -> None:
    """Keep the hyperparameters as used, with their reasons."""
    tx.execute(
        "UPDATE jobs SET hyperparameters = ? WHERE id = ?",
        (json.dumps(asdict(hyperparameters)), job_id),
    )


def note_waits(tx: Transaction, reasons: Mapping[str, str]) -> None:
    """Say why jobs wait, of each its reason; one that no longer waits keeps its silence."""
    tx.execute(
        "UPDATE jobs SET wait_reason = told.value FROM json_each(?) AS told "
        "WHERE jobs.id = told.key AND state IN ('validating_files', 'queued')",
        (json.dumps(reasons),),
    )


def note_retry(tx: Transaction, job_id: str, at: int) -> None:
    """Have a queued job wait until then; any move forgets it."""
    tx.execute("UPDATE jobs SET retry_at = ? WHERE id = ? AND state = 'queued'", (at, job_id))


def note_phase(tx: Transaction, job_id: str, phase: str) -> None:
    tx.execute("UPDATE jobs SET phase = ? WHERE id = ? AND state = 'running'", (phase, job_id))


def note_plan(tx: Transaction, job_id: str, total_steps: int) -> None:
    tx.execute("UPDATE jobs SET total_steps = ? WHERE id = ?", (total_steps, job_id))


def note_progress(tx: Transaction, job_id: str, step: int, estimated_finish: int | None) -> None:
    tx.execute(
        "UPDATE jobs SET step = ?, estimated_finish = ? WHERE id = ? AND state = 'running'",
        (step, estimated_finish, job_id),
    )


def note_result(
    tx: Transaction, job_id: str, *, model_sha256: str, trained_tokens: int, result_file: str
) -> None:
    tx.execute(
        "UPDATE jobs SET fine_tuned_model_sha256 = ?, trained_tokens = ?, result_file = ? "
        "WHERE id = ?",
        (model_sha256, trained_tokens, result_file, job_id),
    )


def keep_spec(tx: Transaction, job_id: str, spec: str) -> None:
    """Keep the first attempt's spec: whatever decides bits is resolved once."""
    tx.execute("UPDATE jobs SET spec = ? WHERE id = ? AND spec IS NULL", (spec, job_id))


def find(tx: Transaction, job_id: str) -> Job | None:
    """A job as this transaction sees it."""
    row = tx.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else job(row)


async def get(db: Database, job_id: str) -> Job | None:
    rows = await db.rows(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,))
    return job(rows[0]) if rows else None


async def owned(db: Database, project: str, job_id: str) -> Job | None:
    """A job of the project; another's is as if it were not there."""
    rows = await db.rows(
        f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND project = ?", (job_id, project)
    )
    return job(rows[0]) if rows else None


async def of_project(db: Database, project: str, ids: Collection[str]) -> frozenset[str]:
    """Those of these ids that are the project's jobs."""
    rows = await db.rows(
        "SELECT id FROM jobs WHERE project = ? AND id IN (SELECT value FROM json_each(?))",
        (project, json.dumps(list(ids))),
    )
    return frozenset(row["id"] for row in rows)


async def open_ids(db: Database, project: str) -> frozenset[str]:
    """The project's jobs that are not over, or of which an attempt still lives."""
    rows = await db.rows(
        "SELECT id FROM jobs WHERE finished_at IS NULL AND project = ?1 UNION "
        "SELECT job FROM attempts JOIN jobs ON jobs.id = attempts.job "
        "WHERE ended_at IS NULL AND project = ?1",
        (project,),
    )
    return frozenset(row["id"] for row in rows)


async def spec(db: Database, job_id: str) -> str | None:
    rows = await db.rows("SELECT spec FROM jobs WHERE id = ?", (job_id,))
    return rows[0]["spec"] if rows else None


async def page(
    db: Database,
    project: str,
    *,
    after: str | None,
    limit: int,
    pairs: Mapping[str, str],
    null_metadata: bool,
) -> tuple[Job, ...]:
    """Newest first. An unknown cursor gives nothing."""
    sql = f"SELECT {_COLUMNS} FROM jobs WHERE project = ?"
    parameters: list[Any] = [project]
    if after is not None:
        sql += " AND seq < (SELECT seq FROM jobs WHERE id = ? AND project = ?)"
        parameters += [after, project]
    if null_metadata:
        sql += " AND metadata IS NULL"
    for key, value in pairs.items():
        sql += (
            " AND EXISTS (SELECT 1 FROM json_each(metadata) AS m WHERE m.key = ? AND m.value = ?)"
        )
        parameters += [key, value]
    rows = await db.rows(f"{sql} ORDER BY seq DESC LIMIT ?", [*parameters, limit])
    return tuple(job(row) for row in rows)


async def counts(db: Database) -> list[tuple[str, str, int]]:
    """(method, state, how many jobs), for those that there are."""
    rows = await db.rows("SELECT method, state, count(*) AS n FROM jobs GROUP BY method, state")
    return [(row["method"], row["state"], row["n"]) for row in rows]


async def oldest_queued(db: Database) -> int | None:
    """When the oldest queued job was created, or None."""
    rows = await db.rows("SELECT min(created_at) AS at FROM jobs WHERE state = 'queued'")
    at: int | None = rows[0]["at"]
    return at


# One row of JSON: a reader's thread gives up the interpreter at every row, and beside a busy loop
# it waits up to five milliseconds for each of ten thousand.
_OPEN = (
    "SELECT json_group_array(json_array(jobs.id, jobs.seq, priority, state, want, "
    "  json_extract(jobs.spec, '$.device'), retry_at, "
    "  CASE WHEN t.report IS NULL THEN t.id END, "
    "  CASE WHEN v.report IS NULL THEN v.id END)) AS list "
    "FROM jobs JOIN files t ON t.id = training_file LEFT JOIN files v ON v.id = validation_file "
    "WHERE finished_at IS NULL"
)
_STATES = {state.value: state for state in State}
_WANTS = {want.value: want for want in Want}


async def still_open(read: Read) -> tuple[OpenJob, ...]:
    """Every job that is not over, as the engine sees it."""
    (row,) = await read(_OPEN)
    return tuple(
        OpenJob(
            id=id_,
            seq=seq,
            priority=priority,
            state=_STATES[state],
            want=_WANTS[want],
            began_on=began_on,
            retry_at=retry_at,
            checking=tuple(file for file in unchecked if file is not None),
        )
        for id_, seq, priority, state, want, began_on, retry_at, *unchecked in json.loads(
            row["list"]
        )
    )


def in_use(tx: Transaction, column: str, value: str) -> bool:
    """Whether an open job names this file or model, or a live attempt still reads it."""
    if column not in {"training_file", "validation_file", "model", "base"}:
        raise FtdError(Kind.INTERNAL, f"no such reference: {column}")
    row = tx.execute(
        f"SELECT 1 FROM jobs WHERE {column} = ? AND (finished_at IS NULL OR EXISTS "
        "(SELECT 1 FROM attempts WHERE attempts.job = jobs.id AND ended_at IS NULL)) LIMIT 1",
        (value,),
    ).fetchone()
    return row is not None


def is_open(tx: Transaction, job_id: str) -> bool:
    """Whether the job is not over, or an attempt of it still lives."""
    row = tx.execute(
        "SELECT 1 FROM jobs WHERE id = ? AND (finished_at IS NULL OR EXISTS "
        "(SELECT 1 FROM attempts WHERE attempts.job = jobs.id AND ended_at IS NULL))",
        (job_id,),
    ).fetchone()
    return row is not None


def job(row: Row) -> Job:
    """A Job from a row of the columns above."""
    values = dict(row)
    code = values.pop("error_code")
    message, param = values.pop("error_message"), values.pop("error_param")
    resolved = values.pop("hyperparameters")
    metadata = values.pop("metadata")
    return Job(
        **{
            **values,
            "state": State(values["state"]),
            "want": Want(values["want"]),
            "requested": Requested(**json.loads(values["requested"])),
            "hyperparameters": _hyperparameters(resolved),
            "metadata": None if metadata is None else json.loads(metadata),
            "error": None if code is None else JobError(code=code, message=message, param=param),
        }
    )


def _hyperparameters(text: str | None) -> Hyperparameters | None:
    if text is None:
        return None
    values = json.loads(text)
    return Hyperparameters(**values | {"reasons": tuple(values["reasons"])})
