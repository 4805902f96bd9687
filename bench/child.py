"""A subject in a process of its own: its lines as they come, and the most memory that it held."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 7200.0
TAIL_LINES = 20  # of its log, told when it fails


@dataclass(frozen=True, slots=True)
class Line:
    """What a child said, and when: seconds on the clock of time.monotonic, which all share."""

    text: bytes
    at_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """`peak_bytes` is the largest resident set of the process, or of a child that it waited for;
    files that it mapped count where they were touched."""

    lines: list[Line]
    peak_bytes: int


def run(command: Sequence[str], *, threads: int, cwd: Path | None = None) -> Ended:
    """Run to the end with so many threads; exit with the log's end if it fails or hangs."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=log
        )
        assert process.stdout is not None
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        try:
            with process.stdout:
                lines = [Line(text, time.monotonic()) for text in process.stdout]
            # Not Popen.wait: only wait4 tells what this one child used.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
        finally:
            limit.cancel()
        if process.returncode != 0:
            log.seek(0)
            tail = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
            sys.exit("\n".join([f"{command} ended with {process.returncode}:", *tail]))
    return Ended(lines, usage.ru_maxrss * 1024)
