"""Whether somebody is just starting a daemon: `ftd serve &` returns before its socket is there.

Read from /proc, so that whoever has no daemon learns it at once, and whoever has started one a
moment ago waits for it alone. Not covered: a daemon in another container.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

START_S = 10.0  # a daemon that serves nothing after so long has another trouble

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def daemons() -> list[int]:
    """The `ftd serve` of this user that have run for less than START_S, by pid."""
    return [pid for pid in _ours() if is_starting(pid)]


def is_starting(pid: int) -> bool:
    return serving(pid) and _age_s(pid) < START_S


def serving(pid: int) -> bool:
    """Whether that is `ftd serve`, by its script or by `python -m ftd serve`."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")
    except OSError:  # it has ended
        return False
    if "serve" not in words:
        return False
    return any(Path(word).name == "ftd" for word in words[: words.index("serve")])


def _ours() -> Iterator[int]:
    for process in _PROC.iterdir():
        if process.name.isdigit():
            with suppress(FileNotFoundError):  # it has ended
                if process.stat().st_uid == os.getuid():
                    yield int(process.name)


def _age_s(pid: int) -> float:
    """From field 22 of stat in proc(5); the program's name before it ends at the last ")"."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        uptime_s = float((_PROC / "uptime").read_text().split()[0])
    except OSError:
        return math.inf
    return uptime_s - int(fields[19]) / _TICKS
