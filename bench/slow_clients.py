"""A large upload and 200 slow clients at once: what they cost the daemon, and everybody else.

    python -m bench.slow_clients [--gigabytes 2] [--clients 200] [--home DIR] [--anyway] [--json]

The slow ones (bench.dawdlers) come first, and come again when they are cut off; the upload is that
of bench.upload, and others ask small things all the while (bench.askers). Whoever dawdles or
uploads stands for another host, and so leaves the processor to the daemon and to those who ask.
The daemon's memory is the most that the kernel saw, from before they came. A small upload waits for
the disk, which the large one keeps busy: that is told, and nothing is asked of it. Nothing begins
without the space for it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.askers import Asker
from bench.dawdlers import NICE
from bench.machine import Spread, require_quiet
from bench.upload import (
    GROWTH_BYTES,
    LINE_BYTES,
    SPARE_BYTES,
    Found,
    asking,
    enough_space,
    forget_peak,
    judged,
    lines,
    peak_bytes,
    send,
    tell,
    waits,
)
from tests.running import Daemon, running

READ_LINES = 20_000  # of the file that slow readers read: far more than they will
WAIT_MS = 50.0


@contextmanager
def dawdling(daemon: Daemon, file_id: str, clients: int) -> Iterator[dict[str, int]]:
    """Slow clients; how often they were cut off is known once they have gone."""
    cut_off: dict[str, int] = {}
    command = [sys.executable, "-m", "bench.dawdlers", daemon.url, daemon.key, file_id]
    with subprocess.Popen([*command, str(clients)], stdout=subprocess.PIPE, text=True) as slow:
        assert slow.stdout is not None
        assert slow.stdout.readline() == "slow\n"
        try:
            yield cut_off
        finally:
            slow.send_signal(signal.SIGTERM)
            cut_off |= json.loads(slow.stdout.read() or "{}")


def measure(daemon: Daemon, size: int, clients: int) -> Found:
    file_id = large(daemon)
    memory = psutil.Process(daemon.pid).memory_info().rss
    forget_peak(daemon.pid)
    with dawdling(daemon, file_id, clients) as cut_off, asking(daemon) as took:
        os.nice(NICE)  # from here on this process is the uploader
        sent = send(daemon, size)
        grown = peak_bytes(daemon.pid) - memory
    assert sent.file["bytes"] == size, sent.file
    return {
        "upload [MB/s]": Spread((size / sent.seconds / 1e6,)),
        "memory grown [MiB]": Spread((grown / 2**20,)),
        **waits(took),
        **{f"slow cut off: {kind}": Spread((count,)) for kind, count in cut_off.items()},
    }


def large(daemon: Daemon) -> str:
    """A file for those who read slowly."""
    head = '--m\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    head += '--m\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    body = head.encode() + lines(0, READ_LINES) + b"\r\n--m--\r\n"
    with Asker(daemon.url, daemon.key) as asker:
        told = asker.ask("POST", "/files", body, "multipart/form-data; boundary=m")
    return str(json.loads(told)["id"])


def verdicts(found: Found) -> list[tuple[str, str, bool]]:
    """What must hold, each with its figure."""
    targets = {"memory grown [MiB]": GROWTH_BYTES / 2**20}
    targets |= {
        f"{kind} meanwhile, 99th of 100 [ms]": WAIT_MS for kind in ("a list", "a list of jobs")
    }
    return judged(found, targets)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of 10**9 bytes")
    parser.add_argument("--clients", type=int, default=200, help="slow ones, of three kinds")
    parser.add_argument("--home", type=Path, help="where the home is made, on the disk to measure")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    require_quiet(anyway=options.anyway)
    size = int(options.gigabytes * 1e9) // LINE_BYTES * LINE_BYTES
    with tempfile.TemporaryDirectory(prefix="ftd-bench-", dir=options.home) as scratch:
        if not enough_space(Path(scratch), size):
            sys.exit(f"{scratch} has no room for {size:,} bytes and {SPARE_BYTES:,} to spare")
        with running(Path(scratch) / "home", environment={"FTD_DEVICES__USE": "cpu"}) as daemon:
            found = measure(daemon, size, options.clients)
    about = f"{size / 1e9:g} GB, {options.clients} slow clients"
    return tell(found, verdicts(found), about, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
