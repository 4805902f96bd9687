"""What every measurement needs: a quiet machine, alternating rounds, medians with their spread."""

import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ftd.host import cpu

LOOK_S = 2.0  # how long the machine is watched before a measurement
_FOR_MATRICES = ("avx2", "avx512f", "avx512_bf16", "amx_")
BUSY = 0.25  # share of all cores; more is somebody else's work


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.4g} ({min(self.values):.4g} to {max(self.values):.4g})"


def require_quiet(*, anyway: bool) -> None:
    """Exit when others use the processor: figures taken then would say nothing."""
    busy = psutil.cpu_percent(LOOK_S) / 100
    if busy > BUSY and not anyway:
        sys.exit(f"the machine is busy ({busy:.0%} of all cores); wait, or pass --anyway")


def alternate(subjects: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Spread]:
    """Measure each subject once a round, in turn, so that a drift of the machine hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds):
        for name, measure in subjects.items():
            taken[name].append(measure())
            say(f"round {number + 1} of {rounds}: {name} {taken[name][-1]:.4g}")
    return {name: Spread(tuple(values)) for name, values in taken.items()}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def describe() -> str:
    """The machine in a line, for the head of a report."""
    memory = psutil.virtual_memory().total / 2**30
    processor = ", ".join([cpu.device().name, *_for_matrices()])
    cores = f"{os.cpu_count()} cores ({processor})"
    return f"{cores}, {memory:.0f} GiB, Python {platform.python_version()}"


def _for_matrices() -> list[str]:
    """What the processor has for them, which decides more than the number of its cores."""
    flags = re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return [flag for flag in (flags[1].split() if flags else ()) if flag.startswith(_FOR_MATRICES)]


def table(rows: Sequence[tuple[str, object]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
