"""Faults of what lies on the disk: spools, checkpoints and databases, and the disk itself.

a checkpoint    the newest of a job that is not over rots while its trainer is down
a database      is gone when the daemon starts, or while it runs, and is put back; or an older
                one, out of a backup, is put in its place
"""

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from bench.chaos import witness
from bench.chaos.checker import rows
from bench.chaos.holds import expect, until
from bench.chaos.nemesis import Nemesis
from bench.chaos.world import Process, World
from ftd.backup import back_up
from ftd.core.job import State

EX_DATAERR, EX_IOERR = 65, 74  # of a daemon without its database: at the start, and later
DAY_S = 86400
POINT_S = 1.0  # for a job to have a checkpoint
HEARD_S = 0.5  # for the daemon to hear of the last one
AGE_S = 1.0  # of a database that is put back, at most

Harm = Callable[[Path, Random], object]


def fill(nemesis: Nemesis) -> bool:
    with nemesis.world.full():
        time.sleep(nemesis.chance.uniform(0.1, 1.0))
        if nemesis.chance.random() < 0.3:
            nemesis.kill_daemon()
    return True


def tear_spool(nemesis: Nemesis) -> bool:
    """What a power cut leaves at the end of a dead shim's spool: half a frame, or zeros."""
    chance = nemesis.chance
    nemesis.kill_daemon()
    shim = nemesis.some(shim=True)
    if shim is None:
        return False
    nemesis.shims_killed = True
    run = Path(f"/proc/{shim.pid}/cwd")
    spool = run.readlink() / "spool"
    nemesis.signal(shim, signal.SIGKILL)
    until(lambda: not run.exists(), "the shim has ended")
    half = b"\x30\x00\x00\x00\x12\x34\x56\x78" + chance.randbytes(20)
    with spool.open("ab") as file:
        file.write(chance.choice((half[: chance.randint(1, 28)], bytes(64))))
    return True


def set_clock(nemesis: Nemesis) -> bool:
    jump = nemesis.chance.choice((-DAY_S, DAY_S, 400 * DAY_S, 0))
    nemesis.world.clock.write_text(str(jump))
    return True


# A checkpoint.


class Point(NamedTuple):
    """A checkpoint to go on from, of a job that is not over."""

    job: str
    step: int
    path: str


def damage(nemesis: Nemesis, harm: Harm) -> bool:
    """The next attempt has to take the one before, or begin anew."""
    world = nemesis.world
    world.ready()
    nemesis.look_for(lambda: bool(_points(world)), POINT_S)
    jobs = sorted({point.job for point in _points(world)})
    if not jobs:
        return False
    job = nemesis.chance.choice(jobs)
    bring_down(nemesis, job)
    points = [point for point in _points(world) if point.job == job]
    if not points or points[-1].step != _told(world, job):
        return False  # it was over, or the daemon did not hear all of it
    *others, newest = points
    if newest.path in world.damaged:
        return False
    left = max((point.step for point in others if point.path not in world.damaged), default=0)
    harm(world.home.root / newest.path, nemesis.chance)
    world.damaged.add(newest.path)
    witness.note(world, "damaged", job, newest.step, left)
    return True


def flip_bit(checkpoint: Path, chance: Random) -> None:
    path = chance.choice(_files(checkpoint))
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    with path.open("r+b") as file:  # in its place, as a disk does it
        file.write(data)


def cut_short(checkpoint: Path, chance: Random) -> None:
    path = chance.choice(_files(checkpoint))
    with path.open("r+b") as file:
        file.truncate(chance.randrange(path.stat().st_size))


def lose_manifest(checkpoint: Path, chance: Random) -> None:
    del chance
    (checkpoint / "MANIFEST.json").unlink()


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def _points(world: World) -> list[Point]:
    """By step, as the rows know them."""
    with rows(world) as db:
        found = db.execute(
            "SELECT checkpoints.job, checkpoints.step, path FROM checkpoints "
            "JOIN jobs ON jobs.id = checkpoints.job WHERE finished_at IS NULL "
            "ORDER BY checkpoints.step"
        ).fetchall()
    return [Point(*row) for row in found]


def _newest(world: World, job: str) -> int:
    return max((point.step for point in _points(world) if point.job == job), default=0)


def _told(world: World, job: str) -> int:
    """The newest checkpoint that any trainer of the job has told of."""
    runs = [run for run in world.home.runs.iterdir() if Nemesis.job_in(run) == job]
    return max((witness.told_of(world, run.name) for run in runs), default=0)


def bring_down(nemesis: Nemesis, job: str) -> None:
    """End the job's trainer, after all that it said was heard, and the daemon before it."""
    world = nemesis.world

    def living() -> list[Process]:
        found = world.processes()
        return [p for p in found if Nemesis.job_in(Path(f"/proc/{p.pid}/cwd")) == job]

    for process in living():
        if not process.shim:
            nemesis.signal(process, signal.SIGSTOP)
    nemesis.look_for(lambda: _newest(world, job) == _told(world, job), HEARD_S)
    nemesis.kill_daemon()
    whole = nemesis.chance.random() < 0.5  # with its shim, so that nobody notes how it ended
    for process in living():
        if not process.shim or whole:
            nemesis.shims_killed = nemesis.shims_killed or process.shim
            nemesis.signal(process, signal.SIGKILL)
        else:
            nemesis.signal(process, signal.SIGCONT)  # a frozen one would never note that end
    until(lambda: not living(), "the trainer has ended")


# The database.


def remove_database(nemesis: Nemesis) -> bool:
    """A start without it, or with an empty one, must be refused, and leave all as it is."""
    world = nemesis.world
    _stop(nemesis)
    with _aside(world):
        if nemesis.chance.random() < 0.5:
            world.home.database.touch()
        world.start_in_vain(EX_DATAERR, "a home with files in it has no database")
    return True


def take_database_away(nemesis: Nemesis) -> bool:
    """The daemon has to end, and what it had acknowledged until then is in what was taken."""
    world = nemesis.world
    world.ready()
    with _aside(world):
        world.end_by_itself(EX_IOERR, "its database was taken away")
    return True


def put_back_older_database(nemesis: Nemesis) -> bool:
    """What the copy knew must hold, and nothing may run twice; of the rest nothing is known."""
    world, client = nemesis.world, nemesis.client
    world.ready()
    copy = world.scratch / "backup"
    try:
        with client.turn:
            memory = client.ledger.recall()
            manifest = back_up(world.home, copy)
        bereft = any(upload.gone for upload in client.ledger.uploads)
        expect(bereft or not manifest.faults, "a backup lacks nothing", *manifest.faults)
        time.sleep(nemesis.chance.uniform(0, AGE_S))
        if nemesis.chance.random() < 0.5:
            nemesis.kill_trainer()
        with client.turn:
            _stop(nemesis)
            _replace(world, copy / world.home.database.name)
            world.older = True
            nemesis.lost += client.ledger.go_back(memory)
            client.forget()
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    with rows(world) as db:
        unchecked = db.execute("SELECT id FROM jobs WHERE state = ?", (State.VALIDATING,))
        for (job,) in unchecked.fetchall():  # its runs are not taken up: it begins anew
            witness.note(world, "forgotten", job, 0)
    return True


def _stop(nemesis: Nemesis) -> None:
    if nemesis.chance.random() < 0.5 or not nemesis.terminate_daemon():
        nemesis.kill_daemon()


def _replace(world: World, older: Path) -> None:
    for path in _database(world):
        path.unlink()
    shutil.copyfile(older, world.home.database)


@contextlib.contextmanager
def _aside(world: World) -> Iterator[None]:
    """The database under other names, and in the end in its place again."""
    moved = {path: path.with_name(f"{path.name}.aside") for path in _database(world)}
    for path, aside in moved.items():
        path.rename(aside)
    try:
        yield
    finally:
        for path in _database(world):
            path.unlink()  # what was made in its place
        for path, aside in moved.items():
            aside.rename(path)


def _database(world: World) -> list[Path]:
    """The file, and what belongs to it: its log, the log's index, the note of a clean stop."""
    path = world.home.database
    every = (path, *(path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", ".clean")))
    return [path for path in every if path.exists()]
