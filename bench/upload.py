"""A large upload: what it costs the daemon, its disk and everybody else, and what an abort leaves.

    python -m bench.upload [--gigabytes 25] [--home DIR] [--no-check] [--anyway] [--json]

Conversations of a kilobyte, each another one, go as one multipart form to a real `ftd serve`, half
of them first by a client that hangs up. The daemon's memory is the most that the kernel saw while
the upload ran; the disk is looked at all the while, files without a name included; others ask small
things meanwhile. Then the file is checked, unless that is left out, and deleted. Nothing begins
without the space for it.
"""

import argparse
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil

from bench.askers import Asker
from bench.machine import Spread, describe, require_quiet, say, table
from tests.running import Daemon, running, until

MARK = "large"
LINE_BYTES = 1000
BLOCK_LINES = 1000
LOOK_S = 0.2
SPARE_BYTES = 2 * 2**30  # beside the file: the check's own notes, and air
GROWTH_BYTES = 64 * 2**20
CHECK_S = 3600.0

Found = dict[str, Spread]


def lines(first: int, count: int) -> bytes:
    """Conversations of LINE_BYTES each; the numbers make each another one."""
    head = b'{"messages": [{"role": "user", "content": "Question %012d: what follows?"}, '
    tail = b'{"role": "assistant", "content": "%s"}]}\n'
    rest = tail % (b"It goes on. " * 80)[: LINE_BYTES - len(head % 0) - len(tail % b"")]
    return b"".join(head % number + rest for number in range(first, first + count))


def blocks(size: int) -> Iterator[bytes]:
    """A file of `size` bytes, a multiple of LINE_BYTES."""
    assert size % LINE_BYTES == 0
    total = size // LINE_BYTES
    for first in range(0, total, BLOCK_LINES):
        yield lines(first, min(BLOCK_LINES, total - first))


@dataclass(frozen=True, slots=True)
class Sent:
    """A file as it was sent, and what was answered."""

    file: dict[str, Any]
    sha256: str
    seconds: float


def send(daemon: Daemon, size: int) -> Sent:
    digest = hashlib.sha256()
    started = time.perf_counter()
    web = _begin(daemon, size)
    for block in blocks(size):
        web.send(block)
        digest.update(block)
    web.send(_END)
    answer = web.getresponse()
    told = answer.read()
    assert answer.status == 200, told
    web.close()
    return Sent(json.loads(told), digest.hexdigest(), time.perf_counter() - started)


def break_off(daemon: Daemon, size: int, after: int) -> None:
    """Announce a file, send the beginning of it, and vanish."""
    web = _begin(daemon, size)
    for block in blocks(after // LINE_BYTES * LINE_BYTES):
        web.send(block)
    assert web.sock is not None
    web.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    web.close()


_HEAD = (
    f'--{MARK}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    f'--{MARK}\r\nContent-Disposition: form-data; name="file"; filename="large.jsonl"\r\n\r\n'
).encode()
_END = f"\r\n--{MARK}--\r\n".encode()


def _begin(daemon: Daemon, size: int) -> http.client.HTTPConnection:
    address = urlsplit(daemon.url)
    web = http.client.HTTPConnection(str(address.hostname), address.port)
    web.putrequest("POST", f"{address.path}/files")
    web.putheader("Authorization", f"Bearer {daemon.key}")
    web.putheader("Content-Type", f"multipart/form-data; boundary={MARK}")
    web.putheader("Content-Length", str(len(_HEAD) + size + len(_END)))
    web.endheaders()
    web.send(_HEAD)
    return web


# What is looked at meanwhile.


@dataclass(slots=True)
class Watch:
    """Looks at the disk below a home, and at the daemon's children, until it is left."""

    daemon: Daemon
    disk_bytes: int = 0  # the most
    check_bytes: int = 0  # the most memory of a child
    before_bytes: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.before_bytes = used_bytes(self.daemon)
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self.disk_bytes = max(self.disk_bytes, used_bytes(self.daemon))
            for child in psutil.Process(self.daemon.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess, FileNotFoundError):
                    self.check_bytes = max(self.check_bytes, peak_bytes(child.pid))


def used_bytes(daemon: Daemon) -> int:
    """What the home takes of its disk, with what the daemon and its children hold open without a
    name."""
    used = 0
    for directory, _, names in os.walk(daemon.home):
        for name in names:
            with suppress(FileNotFoundError):
                used += Path(directory, name).lstat().st_blocks * 512
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(daemon.pid)
        for one in [process, *process.children(recursive=True)]:
            used += _nameless_bytes(one.pid)
    return used


def _nameless_bytes(pid: int) -> int:
    used = 0
    with suppress(FileNotFoundError, PermissionError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                held = entry.stat()
                if stat.S_ISREG(held.st_mode) and held.st_nlink == 0:
                    used += held.st_blocks * 512
    return used


def forget_peak(pid: int) -> None:
    """Let the kernel count anew the most memory that a process had."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@contextmanager
def asking(daemon: Daemon) -> Iterator[dict[str, list[float]]]:
    """Others ask small things; how long they waited is known once they have ended."""
    took: dict[str, list[float]] = {}
    command = [sys.executable, "-m", "bench.askers", daemon.url, daemon.key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as askers:
        assert askers.stdout is not None
        assert askers.stdout.readline() == "asking\n"
        try:
            yield took
        finally:
            askers.send_signal(signal.SIGTERM)
            took |= json.loads(askers.stdout.read() or "{}")


def waits(took: dict[str, list[float]]) -> Found:
    """How long those who asked have waited, by what they asked for."""
    found = {}
    for kind, seconds in took.items():
        cuts = statistics.quantiles(seconds, n=100)
        found[f"{kind} meanwhile, median [ms]"] = Spread((cuts[49] * 1e3,))
        found[f"{kind} meanwhile, 99th of 100 [ms]"] = Spread((cuts[98] * 1e3,))
        found[f"{kind} meanwhile, slowest [ms]"] = Spread((max(seconds) * 1e3,))
    return found


# The whole of it.


def measure(daemon: Daemon, size: int, *, abort_after: int, check: bool) -> Found:
    """Break one off, upload one, check it, delete it."""
    say(f"breaking off after {abort_after / 1e9:g} GB")
    found = broken_off(daemon, size, abort_after)
    say(f"uploading {size / 1e9:g} GB")
    process = psutil.Process(daemon.pid)
    memory = process.memory_info().rss
    forget_peak(daemon.pid)
    with Watch(daemon) as watch, asking(daemon) as took:
        sent = send(daemon, size)
        grown = peak_bytes(daemon.pid) - memory
    assert sent.file["bytes"] == size, sent.file
    assert _sha256(daemon.home / "files" / sent.file["id"]) == sent.sha256
    found |= {
        "upload [MB/s]": Spread((size / sent.seconds / 1e6,)),
        "memory grown by the upload [MiB]": Spread((grown / 2**20,)),
        "copies on the disk": Spread(((watch.disk_bytes - watch.before_bytes) / size,)),
        **waits(took),
    }
    if check:
        found |= checked(daemon, sent.file["id"], memory)
    with Asker(daemon.url, daemon.key) as asker:
        asker.ask("DELETE", f"/files/{sent.file['id']}")
    until(lambda: not (daemon.home / "files" / sent.file["id"]).exists())
    return found


def broken_off(daemon: Daemon, size: int, after: int) -> Found:
    before = used_bytes(daemon)
    incoming = daemon.home / "files" / "incoming"
    break_off(daemon, size, after)
    until(lambda: not list(incoming.iterdir()))
    with Asker(daemon.url, daemon.key) as asker:
        listed = json.loads(asker.ask("GET", "/files"))["data"]
    left = [path for path in (daemon.home / "files").iterdir() if path.is_file()]
    return {
        "left by an abort [MB]": Spread((max(0, used_bytes(daemon) - before) / 1e6,)),
        "files and rows left by an abort": Spread((len(listed) + len(left),)),
    }


def checked(daemon: Daemon, file_id: str, memory: int) -> Found:
    """Wait for the check of the file, which the upload began."""
    say("waiting for its check")
    started = time.perf_counter()
    with Asker(daemon.url, daemon.key) as asker, Watch(daemon) as watch:

        def over() -> str | None:
            status = str(json.loads(asker.ask("GET", f"/files/{file_id}"))["status"])
            time.sleep(LOOK_S)
            return None if status == "uploaded" else status

        status = until(over, CHECK_S)
    assert status == "processed", daemon.log()
    return {
        "its check [s]": Spread((time.perf_counter() - started,)),
        "memory of the check [MiB]": Spread((watch.check_bytes / 2**20,)),
        "notes of the check on a disk [MB]": Spread(
            ((watch.disk_bytes - watch.before_bytes) / 1e6,)
        ),
        "memory grown by upload and check [MiB]": Spread(
            ((peak_bytes(daemon.pid) - memory) / 2**20,)
        ),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def enough_space(where: Path, size: int) -> bool:
    return shutil.disk_usage(where).free >= size + SPARE_BYTES


def verdicts(found: Found) -> list[tuple[str, str, bool]]:
    """What must hold, each with its figure."""
    targets = {
        "memory grown by the upload [MiB]": GROWTH_BYTES / 2**20,
        "memory grown by upload and check [MiB]": GROWTH_BYTES / 2**20,
        "copies on the disk": 1.01,
        "left by an abort [MB]": 1,
        "files and rows left by an abort": 0,
        "a list meanwhile, 99th of 100 [ms]": 100,
        "a list of jobs meanwhile, 99th of 100 [ms]": 100,
    }
    return judged(found, targets)


def judged(found: Found, targets: Mapping[str, float]) -> list[tuple[str, str, bool]]:
    """Each figure that may be so large at most, and whether it is not larger."""
    return [
        (f"{name}: at most {most:g}", f"{found[name].median:.4g}", found[name].median <= most)
        for name, most in targets.items()
        if name in found
    ]


def tell(found: Found, held: list[tuple[str, str, bool]], about: str, *, as_json: bool) -> int:
    """Print the figures; the exit status."""
    if as_json:
        print(json.dumps({name: spread.values for name, spread in found.items()}))
    else:
        print(describe())
        print(about)
        table([(name, f"{spread.median:.4g}") for name, spread in found.items()])
        table([(name, f"{figure} {'holds' if ok else 'FAILS'}") for name, figure, ok in held])
    return 0 if all(holds for _, _, holds in held) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=25.0, help="of 10**9 bytes")
    parser.add_argument("--home", type=Path, help="where the home is made, on the disk to measure")
    parser.add_argument("--no-check", action="store_true", help="do not wait for the file's check")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    require_quiet(anyway=options.anyway)
    size = int(options.gigabytes * 1e9) // LINE_BYTES * LINE_BYTES
    with tempfile.TemporaryDirectory(prefix="ftd-bench-", dir=options.home) as scratch:
        if not enough_space(Path(scratch), size):
            sys.exit(f"{scratch} has no room for {size:,} bytes and {SPARE_BYTES:,} to spare")
        environment = {"FTD_LIMITS__UPLOAD_BYTES": str(size), "FTD_DEVICES__USE": "cpu"}
        with running(Path(scratch) / "home", environment=environment) as daemon:
            found = measure(daemon, size, abort_after=size // 2, check=not options.no_check)
    about = f"{size / 1e9:g} GB of {size // LINE_BYTES:,} conversations"
    return tell(found, verdicts(found), about, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
