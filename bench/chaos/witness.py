"""What the trainers saw: never two of one job or on one device, and no step done without need."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.chaos.holds import expect
from bench.chaos.trainer import EVERY
from bench.chaos.world import World
from ftd.core import wire
from ftd.launch import spool

Seen = Sequence[Mapping[str, Any]]  # lines of the witness, in order

# A shim reads its worker's facts at once; how far a trainer can be before it has, on two cores that
# many share. Where a shim was frozen, as much as its pipe holds.
PIPE_STEPS = 60
SPOOL_BYTES = 2**26
TAIL_BYTES = 4096


def witnessed(world: World) -> list[dict[str, Any]]:
    """What trainers with a job have told so far; a last line that is not whole is not there yet."""
    if not world.witness.exists():
        return []
    data = world.witness.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return [seen for line in lines if "job" in (seen := json.loads(line))]


def last_deed(witness: Path) -> str:
    """What any trainer did last. The line after that may be on its way."""
    with witness.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        data = file.read()
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    what: str = json.loads(lines[-1])["what"] if lines else "begin"
    return what


def note(world: World, what: str, job: str, step: int, left: int = 0) -> None:
    """Write among what trainers did what was done to a job while it had none: `damaged`, with the
    newest step of which a good checkpoint is left, or `forgotten`."""
    at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    line = json.dumps({"at": at, "what": what, "job": job, "step": step, "left": left})
    descriptor = os.open(world.witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def check_witness(seen: Seen) -> None:
    """Never two trainers of one job, or on one device; no chain was broken."""
    seen = [line for line in seen if "run" in line]
    broken = [line for line in seen if line["what"] == "broken"]
    expect(not broken, "every chain is that of a run in peace", *broken)
    lives: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for line in seen:
        lives[line["run"], line["pid"]].append(line)
    by_job: dict[str, list[Seen]] = defaultdict(list)
    by_device: dict[str, list[Seen]] = defaultdict(list)
    for life in lives.values():
        by_job[life[0]["job"]].append(life)
        for device in life[0]["devices"]:
            by_device[device].append(life)
        steps = [line["step"] for line in life if line["what"] == "step"]
        first = life[0]["step"] + 1
        expect(steps == list(range(first, first + len(steps))), "steps one by one", steps)
    for name, of in [*by_job.items(), *by_device.items()]:
        of.sort(key=lambda life: life[0]["at"])
        for earlier, later in pairwise(of):
            apart = later[0]["at"] > earlier[-1]["at"]
            expect(apart, f"one trainer at a time for {name}", earlier[-1], later[0])


def check_redone(world: World, seen: Seen, jobs: Collection[str | None], slack_steps: int) -> int:
    """Each attempt went on from the newest checkpoint that was told and is not damaged, and did no
    more steps again than lie between two, with `slack_steps` for what a pipe may have held. Returns
    the most."""
    reached: dict[str, int] = defaultdict(int)
    told: dict[str, int] = defaultdict(int)
    worst = 0
    for line in seen:
        job, step = line["job"], line["step"]
        if job not in jobs:
            continue
        if line["what"] == "begin":
            expect(step >= told[job], f"{job} goes on from step {told[job]} at least", line)
            worst = max(worst, reached[job] - step)
            told[job] = max(told[job], told_of(world, line["run"]))
        elif line["what"] == "step":
            reached[job] = max(reached[job], step)
        elif line["what"] == "damaged":  # what lay between the two is lost with it
            reached[job] -= step - line["left"]
            told[job] = line["left"]
        elif line["what"] == "forgotten":
            reached[job] = told[job] = 0
    limit = EVERY + slack_steps
    expect(worst <= limit, f"at most {limit} steps are done again", worst)
    return worst


def passed_over(seen: Seen, jobs: Collection[str | None]) -> int:
    """How many damaged checkpoints had a trainer that went on without them."""
    damaged: dict[str, int] = defaultdict(int)
    passed = 0
    for line in seen:
        if line["job"] in jobs and line["what"] == "damaged":
            damaged[line["job"]] += 1
        elif line["what"] == "begin":
            passed += damaged.pop(line["job"], 0)
    return passed


def told_of(world: World, run: str) -> int:
    """The newest checkpoint of which a run's spool tells."""
    frames = spool.read(world.home.runs / run / "spool", 0, SPOOL_BYTES).frames
    facts = [wire.decode_fact(frame.line) for frame in frames]
    return max((fact.step for fact in facts if isinstance(fact, wire.Saved)), default=0)
