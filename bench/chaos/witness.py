"""What the trainers saw: never two of one job or on one device, and no step done without need."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
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


def witnessed(world: World) -> list[dict[str, Any]]:
    """What trainers with a job have told so far; a last line that is not whole is not there yet."""
    if not world.witness.exists():
        return []
    data = world.witness.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return [seen for line in lines if "job" in (seen := json.loads(line))]


def check_witness(seen: Seen) -> None:
    """Never two trainers of one job, or on one device; no chain was broken."""
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
    """Each attempt went on from the newest checkpoint that was told, and did no more steps again
    than lie between two, with `slack_steps` for what a pipe may have held. Returns the most."""
    reached: dict[str, int] = defaultdict(int)
    told: dict[str, int] = defaultdict(int)
    worst = 0
    for line in seen:
        job = line["job"]
        if job not in jobs:
            continue
        if line["what"] == "begin":
            expect(line["step"] >= told[job], f"{job} goes on from step {told[job]} at least", line)
            worst = max(worst, reached[job] - line["step"])
            told[job] = max(told[job], _told(world, line["run"]))
        elif line["what"] == "step":
            reached[job] = max(reached[job], line["step"])
    limit = EVERY + slack_steps
    expect(worst <= limit, f"at most {limit} steps are done again", worst)
    return worst


def _told(world: World, run: str) -> int:
    """The newest checkpoint of which a run's spool tells."""
    frames = spool.read(world.home.runs / run / "spool", 0, SPOOL_BYTES).frames
    facts = [wire.decode_fact(frame.line) for frame in frames]
    return max((fact.step for fact in facts if isinstance(fact, wire.Saved)), default=0)
