"""Cycle after cycle: a home under load, faults, then peace, and everything is looked at.

A home lives for a season of cycles and gets older with each; the next season has a new one, of the
next kind. A cycle's seed is all that its client and its faults are drawn from.
"""

import hashlib
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from bench.chaos import checker, scrape, witness
from bench.chaos.client import Client
from bench.chaos.faults import FAULTS, Fault, strike
from bench.chaos.holds import Violation, expect, until
from bench.chaos.ledger import Ledger
from bench.chaos.nemesis import Nemesis
from bench.chaos.world import World
from bench.machine import say

SEASON = 20  # cycles of one home
GIVE_UP = 5  # violations of one lane
AT_WORK = 0.8  # of the cycles begin with jobs
SUMS = ("cycles", "jobs", "events", "answers", "refusals", "passed_over", "forgotten")
CHECKED = 0.3  # of the faults are followed by a look at once, before the next one


@dataclass(frozen=True, slots=True)
class Kind:
    """What a home is like."""

    gpus: int = 0  # stand-ins for cards, which are lent whole; 0: the CPU
    small: bool = False  # on a disk of its own, which gets full
    warm: bool = True  # a trainer is kept ready


KINDS: Mapping[str, Kind] = {
    "cpu": Kind(),
    "gpus": Kind(gpus=2),
    "small": Kind(small=True),
    "cold": Kind(gpus=2, warm=False),
}


@dataclass(slots=True)
class Tally:
    """What one lane has done and seen; added up, what the campaign has."""

    cycles: int = 0
    jobs: int = 0
    events: int = 0
    answers: int = 0
    refusals: int = 0
    redone: int = 0  # steps, at most, after one loss
    passed_over: int = 0  # damaged checkpoints, by trainers that went on without
    forgotten: int = 0  # files that came after the copy of a database that was put back
    ends: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)  # of those tried, that met somebody
    points: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.redone = max(self.redone, other.redone)
        self.ends += other.ends
        self.tried += other.tried
        self.faults += other.faults
        self.points += other.points
        self.violations += other.violations


def seed_of(campaign: int, cycle: int) -> int:
    """The seed of a cycle, which stands alone from then on."""
    return int.from_bytes(hashlib.sha256(f"{campaign}/{cycle}".encode()).digest()[:6], "big")


def run(
    answer: Connection, lane: int, cycles: Sequence[int], campaign: int, only: str | None
) -> None:
    """As a process of its own: the given cycles of a campaign, one after the other. SIGTERM ends it
    and whatever it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tally = Tally()
    names = list(KINDS)
    for season in range(0, len(cycles), SEASON):
        name = names[(lane + season // SEASON) % len(names)]
        ahead = list(cycles[season : season + SEASON])
        while ahead and len(tally.violations) < GIVE_UP:
            drawn = [(cycle, seed_of(campaign, cycle)) for cycle in ahead]
            done = _season(tally, name, drawn, only)
            del ahead[:done]
        say(f"home {lane}: {tally.cycles} cycles, {len(tally.violations)} violations")
    answer.send(tally)


def replay(seed: int, name: str, only: str | None) -> Tally:
    """One cycle, on a new home of this kind."""
    tally = Tally()
    _season(tally, name, [(0, seed)], only)
    return tally


def _season(tally: Tally, name: str, cycles: Sequence[tuple[int, int]], only: str | None) -> int:
    """Until the cycles are done or one has gone wrong, which ends its home; how many were done."""
    kind = KINDS[name]
    faults = [fault for fault in FAULTS if only is None or fault.name.startswith(only)]
    scratch = Path(tempfile.mkdtemp(prefix="ftd-chaos-"))
    world = World(scratch, gpus=kind.gpus, small=kind.small, warm=kind.warm)
    ledger = Ledger(scratch / "ledger.jsonl")
    try:
        world.found()
        for number, (cycle, seed) in enumerate(cycles, start=1):
            try:
                cycle_once(world, ledger, seed, tally, faults)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told with its seed
                tally.violations.append(_told(name, cycle, seed, error, scratch, only))
                say(tally.violations[-1])
                return number
        return len(cycles)
    finally:
        ledger.close()
        if tally.violations and str(scratch) in tally.violations[-1]:
            world.end()
            world.keep()
        else:
            world.raze()


def _told(
    name: str, cycle: int, seed: int, error: Exception, scratch: Path, only: str | None
) -> str:
    what = (
        str(error) if isinstance(error, Violation) else "".join(traceback.format_exception(error))
    )
    return (
        f"VIOLATION in cycle {cycle}, seed {seed}, on a home of kind {name}, kept in {scratch}\n"
        f"{what}\nagain: python -m bench.chaos --replay {seed} --kind {name}"
        f"{'' if only is None else f' --only {only!r}'}"
    )


def cycle_once(
    world: World, ledger: Ledger, seed: int, tally: Tally, faults: Sequence[Fault] = FAULTS
) -> None:
    """One cycle. Raises Violation with what was expected."""
    chance = Random(seed)
    world.ready()
    client = Client(world, ledger, Random(chance.getrandbits(32)), f"{seed}")
    nemesis = Nemesis(world, client, Random(chance.getrandbits(32)))
    if chance.random() < AT_WORK:
        client.begin()
    client.start()
    try:
        for _ in range(chance.randint(2, 5)):
            strike(nemesis, faults)
            if chance.random() < CHECKED:
                world.ready()
                checker.check_acknowledged(world, ledger)
                checker.check_live_rows(world)
    finally:
        world.calm()
        client.stop()
    world.ready()
    settle(world, client)
    seen = witness.witnessed(world)
    checker.check_settled(world, ledger, client, seen)
    checker.check_lost(world, nemesis.lost)
    scrape.check_metrics(world)
    _count(world, client, nemesis, seen, tally)


def settle(world: World, client: Client) -> None:
    """The faults are over: every job ends, or stays paused because it was told to."""
    adopt(world, client)
    mine = [submission for submission in client.mine if submission.id]

    def told() -> str:
        jobs = [client.look(job) for job in mine]
        open_ = [job for job in jobs if job is None or not checker.final(job["status"])]
        return f"{open_}\n{world.log()}"

    def resting(*states: str) -> bool:
        """What is final stays so, and is looked at again at the end."""
        for job in mine:
            over = job.states and checker.final(job.states[-1])
            if not over and client.look(job) is None:
                return False
        return all(checker.final(job.states[-1]) or job.states[-1] in states for job in mine)

    until(lambda: resting("paused"), "every job ends or is paused", told)
    for submission in mine:
        if submission.states[-1] == "paused":
            asked = submission.wish == "pause" or submission.wish_in_doubt
            expect(asked, f"somebody paused {submission.id}", submission.states)
            client.wish(submission, "resume")
    until(resting, "every job ends", told)
    until(lambda: _quiet(world), "no process, check, lease or lock is left", lambda: _noise(world))


def adopt(world: World, client: Client) -> None:
    """Submissions whose answer was lost: those that are there must end like all others."""
    if all(submission.id for submission in client.mine):
        return
    jobs: list[dict[str, Any]] = []

    def listed() -> bool:
        found = checker.all_jobs(world)
        jobs.extend(found or [])
        return found is not None

    until(listed, "the jobs are listed", world.log)
    by_nonce = {job["metadata"]["nonce"]: job for job in jobs}
    for submission in client.mine:
        if submission.id is None and (job := by_nonce.get(submission.nonce)):
            submission.id = job["id"]


_LIVE = "SELECT * FROM attempts WHERE ended_at IS NULL"
_UNCHECKED = "SELECT id, status FROM files WHERE status = 'uploaded'"


def _quiet(world: World) -> bool:
    with checker.rows(world) as db:
        live = db.execute(_LIVE).fetchone()
        unchecked = db.execute(_UNCHECKED).fetchone()
    shims = [process for process in world.processes() if process.shim]
    return not live and not unchecked and len(shims) <= 1 and not checker.locked(world)


def _noise(world: World) -> str:
    with checker.rows(world) as db:
        rows = [*db.execute(_LIVE).fetchall(), *db.execute(_UNCHECKED).fetchall()]
    return f"{[dict(row) for row in rows]} {world.processes()} {checker.locked(world)}"


def _count(
    world: World, client: Client, nemesis: Nemesis, seen: witness.Seen, tally: Tally
) -> None:
    mine = {submission.id for submission in client.mine if submission.id}
    slack = witness.PIPE_STEPS if nemesis.shims_killed else 0
    if not nemesis.shims_frozen:
        tally.redone = max(tally.redone, witness.check_redone(world, seen, mine, slack))
    tally.cycles += 1
    tally.jobs += len(mine)
    tally.events += sum(len(submission.events) for submission in client.mine)
    tally.answers += client.answers
    tally.refusals += client.refusals
    tally.ends += Counter(job.states[-1] for job in client.mine if job.id)
    tally.passed_over += witness.passed_over(seen, mine)
    tally.forgotten += len(nemesis.lost)
    tally.tried += nemesis.tried
    tally.faults += nemesis.faults
    tally.points += nemesis.points
