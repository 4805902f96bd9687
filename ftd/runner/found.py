"""Takes up the runs that the database does not know, because an older copy of it was put back.

    right:  the job's later runs are told again, in their order, and the last one is followed
    wrong:  the job starts once more from what the copy knows, and all since then is redone

What they said lies in their spools. An earlier run has ended, since a later one began; the last may
still train. Nothing is taken up of a job that the rows do not have: its run keeps its locks.
"""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftd.core.device import Device
from ftd.core.job import Attempt, Ending, Job, State
from ftd.core.spec import TrainSpec
from ftd.host.home import Home
from ftd.runner.runner import Rooms, Runner
from ftd.store import attempts, jobs, launches
from ftd.store.db import Transaction

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    launch: str
    job: str
    attempt: int
    spec: TrainSpec


async def take_up(rooms: Rooms, devices: Sequence[Device]) -> None:
    """Give every such run its row, and make rows of what the earlier ones of a job have said."""
    names = await asyncio.to_thread(lambda: [run.name for run in rooms.home.runs.iterdir()])
    known = await launches.known(rooms.store.db, names)
    unknown = [name for name in names if name not in known]
    found: defaultdict[str, list[_Run]] = defaultdict(list)
    for run in await asyncio.to_thread(_read, rooms.home, unknown):
        found[run.job].append(run)
    for job_id, runs in found.items():
        job = await jobs.get(rooms.store.db, job_id)
        told = {"job": job_id, "launches": [run.launch for run in runs]}
        if job is None or job.state is State.VALIDATING:
            log.warning("these runs are of no job that could run", extra=told)
            continue
        log.warning("the database did not know of these runs", extra=told)
        await _take_up(rooms, job, sorted(runs, key=lambda run: run.attempt), devices)


async def _take_up(rooms: Rooms, job: Job, runs: list[_Run], devices: Sequence[Device]) -> None:
    over = [attempt for attempt in await attempts.live(rooms.store.db) if attempt.job == job.id]
    for run in runs:
        if over and not job.final:
            await Runner(rooms, over[0]).catch_up()
        attempt = await rooms.store.db.write(
            lambda tx, run=run: _adopt(tx, run, devices, rooms.clock.now())  # type: ignore[misc]
        )
        if attempt is None:  # two databases have gone apart
            told = {"job": job.id, "launch": run.launch, "attempt": run.attempt}
            log.error("there is another attempt of this number", extra=told)
            return
        over = [attempt]


def _adopt(tx: Transaction, run: _Run, devices: Sequence[Device], now: int) -> Attempt | None:
    """A row for a run; the one before it has ended. None where there is one of its number.

    Which of several devices it has, only the kernel's locks know. One that is leased already is
    not leased twice.
    """
    if attempts.numbered(tx, run.job, run.attempt):
        return None
    for attempt in attempts.open_ones(tx, run.job):
        note = "a later one had begun"
        attempts.end(tx, attempt, ending=Ending.STOPPED, note=note, now=now)
    jobs.move(tx, run.job, State.QUEUED, now=now)
    jobs.move(tx, run.job, State.RUNNING, now=now)
    jobs.keep_spec(tx, run.job, run.spec.model_dump_json())
    same = [device for device in devices if device.kind == run.spec.device]
    known = len(same) == 1 and not attempts.lent(tx, same)
    return attempts.begin(
        tx,
        job_id=run.job,
        launch=run.launch,
        devices=same if known else (),
        now=now,
        number=run.attempt,
    )


def _read(home: Home, names: Sequence[str]) -> list[_Run]:
    found = (_run(home.runs / name) for name in names)
    return [run for run in found if run is not None]


def _run(directory: Path) -> _Run | None:
    """A trainer's run that had its job; None for any other, and for one that cannot be read."""
    if not (directory / "assigned.json").exists():
        return None
    try:
        assigned = json.loads((directory / "assigned.json").read_bytes())
        spec = TrainSpec.model_validate_json((directory / "in" / "spec.json").read_bytes())
        return _Run(
            launch=directory.name, job=assigned["job"], attempt=int(assigned["attempt"]), spec=spec
        )
    except (OSError, ValueError, KeyError) as error:
        log.info("not a run to take up", extra={"launch": directory.name, "why": str(error)})
        return None
