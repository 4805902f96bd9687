"""A flood on stdout and stderr: drained at the speed of a pipe, kept at its two ends, no more."""

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from ftd.core.job import Exit
from ftd.host.tail import Tail
from ftd.launch.base import Assignment, Role
from ftd.launch.local import LocalLauncher
from tests.launch.conformance import CPU, PATIENCE_S, frames, until
from tests.launch.conftest import SANDBOX, end
from tests.launch.test_shim import pid_of

LOG_BYTES = 2**20
MEGABYTES = int(os.environ.get("FTD_FLOOD_MB", "100"))  # 1000 is what a night of debug prints is
STEPS = 50
GROWTH_BYTES = 16 * 2**20
FLOODING = (sys.executable, "-S", str(Path(__file__).with_name("flooding.py")))


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[LocalLauncher]:
    home = tmp_path / "home"
    launcher = LocalLauncher(
        home, log_bytes=LOG_BYTES, programs={Role.TRAIN: FLOODING}, sandbox=SANDBOX
    )
    yield launcher
    await launcher.close()
    end(home)


def flood(kind: str, megabytes: int) -> Assignment:
    spec = json.dumps({"megabytes": megabytes, "kind": kind, "steps": STEPS}).encode()
    return Assignment(job="ftjob-1", attempt=1, spec=spec, inputs={}, devices=(CPU,))


@pytest.mark.parametrize(
    ("kind", "megabytes"), [("no newline", MEGABYTES), ("lines", 20), ("binary", 20), ("ansi", 20)]
)
async def test_a_flood_is_drained_and_its_two_ends_are_kept(
    launcher: LocalLauncher, kind: str, megabytes: int
) -> None:
    await launcher.launch("run-1")
    shim = psutil.Process(pid_of(launcher))
    memory = peak = shim.memory_info().rss
    await launcher.assign("run-1", flood(kind, megabytes))

    async def over() -> bool:
        nonlocal peak
        if psutil.pid_exists(shim.pid) and shim.status() != psutil.STATUS_ZOMBIE:
            peak = max(peak, shim.memory_info().rss)
        return not await launcher.alive("ftjob-1")

    await until(over)
    assert launcher.exit_record("run-1") == Exit(code=0)
    assert peak - memory < GROWTH_BYTES

    told = [json.loads(frame.line) for frame in frames(launcher, "run-1")]
    steps = [fact["step"] for fact in told if fact["kind"] == "step"]
    assert steps == list(range(1, STEPS + 1)), "what counts goes another way"
    assert told[-1]["kind"] == "done"
    took_s = float(told[-2]["message"].split()[2])
    assert took_s < PATIENCE_S

    log = launcher.log("run-1")
    parts = sorted(log.parent.glob("worker.log*"))
    assert sum(part.stat().st_size for part in parts) <= 3 * LOG_BYTES
    with Tail(log) as tail:
        kept = b"".join(iter(lambda: tail.read(2**16), b""))
    assert kept.startswith(b"the very first words\n")
    assert kept.endswith(b"\nthe very last words\n")
    assert len(kept) > 2 * LOG_BYTES
