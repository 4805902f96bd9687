"""Kills the daemon on entering its n-th sync, write, rename, link or unlink, for every n there is.

strace counts the calls of each thread by itself, and so does its injection. A scene is told once in
peace, to count; then once for every call, on a new home, with a kill at that call. Behind the kill
the daemon starts again, and the home is checked as the campaign checks it.

    story       upload, train, pause, resume, cancel, delete, SIGTERM
    recovery    the start of a daemon that finds jobs in all states, trainers that live among them
"""

import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.chaos import checker, lane, witness
from bench.chaos.client import Client
from bench.chaos.holds import Violation, until
from bench.chaos.lane import Tally
from bench.chaos.ledger import Ledger
from bench.chaos.world import World
from bench.machine import say

# "?" is for calls that not every architecture has.
CALLS = {
    "sync": "fsync,fdatasync,?sync_file_range",
    "write": "pwrite64,?pwritev",
    "rename": "?rename,renameat,?renameat2",
    "link": "?link,linkat,?symlink,symlinkat",
    "unlink": "?unlink,unlinkat,?rmdir",
}
# Of the daemon alone: as its parent's grandchild, and not of what it executes.
STRACE = ("strace", "-f", "-D", "-q", "-q", "-b", "execve")
AT_ONCE = 2
SEED = 20


@dataclass(frozen=True, slots=True)
class Point:
    scene: str
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.scene}, {self.call} {self.number}"


def sweep(points: int | None) -> Tally:
    """Every point, or about so many of them, as many of each kind of call and spread evenly."""
    if shutil.which("strace") is None:
        sys.exit("the sweep needs strace: apt install strace")
    every = [point for scene in SCENES for point in _count(scene)]
    chosen = every if points is None else _spread(every, points // len(CALLS))
    say(f"{len(every)} calls, of which {len(chosen)} are swept")
    tally = Tally()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, done in enumerate(pool.map(_strike, chosen), start=1):
            tally.add(done)
            if number % 25 == 0:
                say(f"{number} of {len(chosen)}: {len(tally.violations)} violations")
    return tally


def _spread(points: list[Point], of_each: int) -> list[Point]:
    kinds = [[point for point in points if point.call == call] for call in CALLS]
    return [point for kind in kinds for point in kind[:: max(1, len(kind) // max(1, of_each))]]


def _count(scene: str) -> list[Point]:
    """The scene in peace: every call of each kind that one thread of the daemon makes."""
    scratch = Path(tempfile.mkdtemp(prefix="ftd-sweep-"))
    log = scratch / "calls"
    stage = Stage(scratch)
    try:
        calls = ",".join(CALLS.values())
        stage.play(scene, (*STRACE, "-o", str(log), "-e", f"trace={calls}"))
        stage.check()
        lines = log.read_text(errors="replace").splitlines()
    finally:
        stage.close()
    kinds = {name.lstrip("?"): kind for kind, names in CALLS.items() for name in names.split(",")}
    made: Counter[tuple[str, str]] = Counter()
    for line in lines:
        thread, _, call = line.partition(" ")
        name = call.strip().partition("(")[0]
        if name in kinds:
            made[thread, kinds[name]] += 1
    return [
        Point(scene, kind, number + 1)
        for kind in CALLS
        for number in range(max((n for (_, of), n in made.items() if of == kind), default=0))
    ]


def _strike(point: Point) -> Tally:
    tally = Tally(cycles=1)
    scratch = Path(tempfile.mkdtemp(prefix="ftd-sweep-"))
    stage = Stage(scratch)
    calls = CALLS[point.call]
    try:
        inject = (
            "-e",
            f"trace={calls}",
            "-e",
            f"inject={calls}:signal=SIGKILL:when={point.number}",
        )
        if stage.play(point.scene, (*STRACE, "-o", "/dev/null", *inject)):
            tally.faults[f"killed at a {point.call}"] += 1
            tally.points[str(point)] += 1
        else:
            tally.faults["came to its end first"] += 1
        stage.check()
        tally.jobs = len(stage.ledger.jobs)
        tally.answers = stage.client.answers
    except Violation as error:
        tally.violations.append(f"VIOLATION at {point}, kept in {scratch}\n{error}")
        say(tally.violations[-1])
    finally:
        stage.close(keep=bool(tally.violations))
    return tally


class Stage:
    """A new home with its client, on which one scene is played."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.world = World(scratch, gpus=0, small=False, warm=False).found()
        self.ledger = Ledger(scratch / "ledger.jsonl")
        self.client = Client(self.world, self.ledger, Random(SEED), "sweep")

    def play(self, scene: str, wrapper: tuple[str, ...]) -> bool:
        """Whether the daemon was killed in the course of it."""
        prepare, acts = SCENES[scene]
        prepare(self)
        self.world.boot(wrapper)
        try:
            self._until(lambda: self.world.endpoint is not None, "the daemon is ready")
            for act in acts:
                act(self)
        except _Killed:
            return True
        daemon = self.world.daemon
        assert daemon is not None
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        return daemon.returncode == -signal.SIGKILL

    def check(self) -> None:
        self.world.ready()
        lane.settle(self.world, self.client)
        seen = witness.witnessed(self.world)
        checker.check_settled(self.world, self.ledger, self.client, seen)

    def close(self, *, keep: bool = False) -> None:
        self.ledger.close()
        if keep:
            self.world.end()
        else:
            self.world.raze()

    # What is done on it. Whatever it is, it ends when the daemon is killed; a client may find that
    # it does not answer before it is seen to be no more.

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        until(lambda: condition() or not self.world.alive, what, self.world.log)
        if not self.world.alive:
            raise _Killed

    def upload(self) -> None:
        self.client.upload()
        self._until(lambda: self.ledger.uploads[-1].id is not None, "the upload is answered")

    def submit(self) -> None:
        self.client.submit()
        self._until(lambda: self.client.mine[-1].id is not None, "the job is acknowledged")

    def see(self, *states: str) -> None:
        """Wait until the newest job is in one of these states, or over."""
        job = self.client.mine[-1]

        def seen() -> bool:
            told = self.client.look(job)
            return told is not None and (told["status"] in states or checker.final(told["status"]))

        self._until(seen, f"the job is {states}")
        self.client.read_events(job)

    def wish(self, wish: str) -> None:
        job = self.client.mine[-1]
        self.client.wish(job, wish)
        self._until(lambda: not job.wish_in_doubt, f"{wish} is answered")

    def train_in_parts(self) -> None:
        """Begin, pause, go on, to the end."""
        self.submit()
        self.see("running")
        self.wish("pause")
        if self.client.pauses:
            self.see("paused")
            self.wish("resume")
        self.see()

    def cancel(self) -> None:
        self.submit()
        self.see("running")
        self.wish("cancel")

    def delete(self) -> None:
        for _ in range(2):
            self.upload()
        self.client.delete()
        doubted = [upload for upload in self.ledger.uploads if upload.deleting]
        self._until(lambda: all(upload.deleted for upload in doubted), "the delete is answered")

    def leave_work(self) -> None:
        """A daemon that was killed while one job ran, one waited and one was cancelled."""
        self.world.ready()
        self.upload()
        self.submit()
        self.submit()
        self.wish("cancel")
        self.submit()
        self.client.look(self.client.mine[0])
        self.world.kill()


class _Killed(Exception):
    """The daemon is no more."""


Act = Callable[[Stage], None]
SCENES: dict[str, tuple[Act, tuple[Act, ...]]] = {
    "story": (
        lambda stage: None,  # noqa: ARG005
        (Stage.upload, Stage.train_in_parts, Stage.cancel, Stage.delete),
    ),
    "recovery": (Stage.leave_work, (Stage.see,)),
}
