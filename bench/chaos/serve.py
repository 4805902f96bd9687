"""The real daemon, given a stand-in for its trainer, GPUs that are none, and a clock that can jump.

    python -m bench.chaos.serve HOME CONFIG WITNESS GPUS

Everything else is what `ftd serve` runs. The clock is the wall's and as many seconds more as the
file HOME.clock says; with no GPUs there is the CPU.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ftd import daemon
from ftd.config import load
from ftd.core.device import Device, Reading
from ftd.core.errors import FtdError
from ftd.host import logs
from ftd.launch.base import Role
from ftd.launch.local import LocalLauncher

TRAINER = Path(__file__).with_name("trainer.py")
GPU_BYTES = 2**34


class JumpingClock(daemon.SystemClock):
    """A wall clock that an operator, or a server of time, sets while the daemon runs."""

    def __init__(self, jump: Path) -> None:
        self._jump = jump

    def now(self) -> int:
        try:
            return super().now() + int(self._jump.read_text() or 0)
        except FileNotFoundError:
            return super().now()


def gpus(home: Path, count: int) -> tuple[Device, ...]:
    return tuple(
        Device(id=f"GPU-{home.name}-{n}", kind="cuda", name="stand-in", memory_bytes=GPU_BYTES)
        for n in range(count)
    )


def read(asked: Sequence[Device]) -> tuple[Reading, ...]:
    """They have no sensors."""
    return tuple(Reading(device=device) for device in asked)


def _launcher(programs: Mapping[Role, Sequence[str]], locks: Path, **given: Any) -> LocalLauncher:
    """Without a sandbox: the stand-in lies here, and tells a witness that no worker may know."""
    return LocalLauncher(**given | {"programs": programs, "gpu_locks": locks, "sandbox": None})


def main() -> None:
    home, config, witness, count = (*map(Path, sys.argv[1:4]), int(sys.argv[4]))
    program = (sys.executable, "-I", "-S", str(TRAINER), str(witness))
    locks = home.with_suffix(".gpu-locks")
    locks.mkdir(mode=0o700, exist_ok=True)
    put = vars(daemon)  # what the daemon is assembled from, by name
    put["LocalLauncher"] = partial(_launcher, dict.fromkeys(Role, program), locks)
    put["SystemClock"] = partial(JumpingClock, home.with_suffix(".clock"))
    if count:
        lendable = gpus(home, count)
        put["devices"] = SimpleNamespace(discover=lambda _: lendable, read=read)
    settings = load(config, home=home, rest="127.0.0.1:0")
    logs.set_up(settings.log_level)
    daemon.serve(settings)


if __name__ == "__main__":
    try:
        main()
    except FtdError as error:
        sys.exit(f"ftd: {error.message}")
