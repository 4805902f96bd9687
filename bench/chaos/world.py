"""One home with its daemon: started, killed and looked at from outside, by what the kernel says."""

import contextlib
import errno
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.chaos.holds import Violation, until
from ftd.core.models import Model, ModelKind
from ftd.host import blobs
from ftd.host.home import Home
from ftd.store import models
from ftd.store.connection import connect
from ftd.store.schema import migrate

ROOT = Path(__file__).resolve().parents[2]
MODEL = "stand-in"
METRICS = "/metrics"  # beside the API, not below it
DISK_BYTES = 192 * 2**20  # of a home that is to get full
PAGE_BYTES = 4096
CONFIG = """
[training]
threads = 1
attempts = 60
{retry}
warm = {warm}
[stopping]
ask_s = 20
[limits]
log_bytes = 1048576
ballast_bytes = 1048576
"""
CALM = {"OMP_NUM_THREADS": "1", "FTD_TRAINING__THREADS": "1", "FTD_SERVING__THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    shim: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon answered; `body` is the decoded JSON, or the bytes."""

    status: int
    body: Any

    @property
    def good(self) -> bool:
        return self.status == http.client.OK


class World:
    """A home below `scratch`, its daemon and everything that runs for it."""

    def __init__(self, scratch: Path, *, gpus: int, small: bool, warm: bool) -> None:
        """`small`: on a disk of its own that can be filled, where this machine lets us mount."""
        self.scratch = scratch
        self.gpus = gpus
        self.home = Home(scratch / "home")
        self.witness = scratch / "witness.jsonl"
        self.clock = scratch / "home.clock"
        self.small = small
        self._warm = warm
        self.older = False  # an older database was put back once
        self.damaged: set[str] = set()  # checkpoints, by their paths in the home
        self.daemon: subprocess.Popen[bytes] | None = None
        self._others: list[subprocess.Popen[bytes]] = []
        self._frozen: set[int] = set()

    def found(self) -> "World":
        """Make the home, with one base model in it."""
        self.home.root.mkdir(parents=True)
        if self.small:
            size = f"size={DISK_BYTES}"
            mount = ["mount", "-t", "tmpfs", "-o", size, "ftd-chaos", str(self.home.root)]
            done = subprocess.run(mount, capture_output=True, check=False)
            self.small = done.returncode == 0
        self.home.make()
        (self.home.models / MODEL).mkdir()
        (self.home.models / MODEL / "config.json").write_text("{}")
        sha256 = blobs.tree_sha256(self.home.models / MODEL)
        # Of a home with a trainer ready, lost jobs go on at once; of the other they rest.
        retry = f"retry_s = {0 if self._warm else 0.2}"
        settings = CONFIG.format(warm=str(self._warm).lower(), retry=retry)
        (self.scratch / "ftd.toml").write_text(settings)
        migrate(self.home.database)
        connection = connect(self.home.database)
        with connection:
            models.insert(
                connection,
                Model(
                    name=MODEL, project=models.SHARED, kind=ModelKind.BASE, base=MODEL,
                    path=f"models/{MODEL}", sha256=sha256, created_at=1_700_000_000,
                    facts={"context_tokens": 128},
                ),
            )  # fmt: skip
        connection.close()
        return self

    def raze(self) -> None:
        """End everything that runs for this home and remove it."""
        self.end()
        if self.small:
            subprocess.run(["umount", "-l", str(self.home.root)], check=False)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def keep(self) -> None:
        """Save what lies on a disk of its own from going with it."""
        if self.small:
            sockets = shutil.ignore_patterns("*.sock")
            shutil.copytree(self.home.root, self.scratch / "kept", symlinks=True, ignore=sockets)
            subprocess.run(["umount", "-l", str(self.home.root)], check=False)

    def end(self) -> None:
        self.calm()
        for process in [*self._others, *([self.daemon] if self.daemon else [])]:
            process.kill()
            process.wait()
        for left in self.processes():
            self.signal(left.pid, signal.SIGKILL)

    # The daemon.

    def boot(self, wrapper: tuple[str, ...] = ()) -> None:
        """Start the daemon, and return at once. One that ended must have been made to."""
        assert not self.alive
        ended = 0 if self.daemon is None else self.daemon.returncode
        if ended not in (0, -signal.SIGKILL) and not self._had_no_space():
            raise Violation(f"the daemon ended by itself with {ended}\n{self.log()}")
        self.daemon = self._serve(wrapper)

    def start_in_vain(self, status: int, why: str) -> None:
        """Start a daemon that must end by itself, with this status."""
        process = self._serve(())
        self._others.append(process)
        self._expect_end(process, status, why)

    def end_by_itself(self, status: int, why: str) -> None:
        """The daemon must end by itself, with this status."""
        assert self.daemon is not None
        self._expect_end(self.daemon, status, why)
        self.daemon = None

    def _expect_end(self, process: subprocess.Popen[bytes], status: int, why: str) -> None:
        until(lambda: process.poll() is not None, f"the daemon ends: {why}", self.log)
        ended = process.returncode
        if ended != status:
            raise Violation(f"{why}: status {status} is due, not {ended}\n{self.log()}")

    def _serve(self, wrapper: tuple[str, ...]) -> subprocess.Popen[bytes]:
        command = [
            *wrapper, sys.executable, "-m", "bench.chaos.serve", str(self.home.root),
            str(self.scratch / "ftd.toml"), str(self.witness), str(self.gpus),
        ]  # fmt: skip
        with (self.scratch / "daemon.log").open("ab") as log:
            environment = os.environ | CALM
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    @property
    def alive(self) -> bool:
        return self.daemon is not None and self.daemon.poll() is None

    @property
    def endpoint(self) -> dict[str, Any] | None:
        """Where the living daemon serves, once it does."""
        try:
            told: dict[str, Any] = json.loads((self.home.root / "endpoint.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return told if self.daemon is not None and told["pid"] == self.daemon.pid else None

    @property
    def phase(self) -> str:
        """How far the living daemon has come, by its files that are open."""
        if self.endpoint is not None:
            return "serving"
        held = set()
        with contextlib.suppress(OSError):
            assert self.daemon is not None
            fds = Path(f"/proc/{self.daemon.pid}/fd")
            held = {descriptor.readlink().name for descriptor in fds.iterdir()}
        if self.home.database.name in held:
            return "recovering"
        return "opening" if "daemon.lock" in held else "importing"

    def ready(self) -> None:
        """Start the daemon if it is down, have it go on if it is frozen; wait until it serves."""
        if not self.alive:
            self.boot()
        assert self.daemon is not None
        self.signal(self.daemon.pid, signal.SIGCONT)
        until(lambda: self.endpoint or not self.alive, "the daemon is ready", self.log)
        if not self.alive and self._had_no_space():
            self.boot()
            until(lambda: self.endpoint or not self.alive, "the daemon is ready", self.log)
        if not self.alive:
            raise Violation(f"the daemon ends with {self.daemon.returncode}\n{self.log()}")

    def _had_no_space(self) -> bool:
        """Whether the daemon ended while it started, because of a full disk, and said so."""
        words = self.log().splitlines()[-1:]
        return self.small and any(w.startswith("ftd: ") and w.endswith("is full") for w in words)

    def kill(self) -> None:
        if self.alive:
            assert self.daemon is not None
            self.daemon.kill()
            self.daemon.wait()

    def log(self) -> str:
        text = (self.scratch / "daemon.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-30:])

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        timeout_s: float = 5.0,
    ) -> Answer | None:
        """One request of the API, of its own connection; None when no whole answer came."""
        endpoint = self.endpoint
        if endpoint is None:
            return None
        url = urlsplit(endpoint["rest"])
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": kind}
        try:
            place = path if path == METRICS else url.path + path
            connection.request(method, place, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.headers.get_content_type() == "application/json":
                return Answer(answer.status, json.loads(data))
            return Answer(answer.status, data)
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    @property
    def key(self) -> str:
        return (self.home.root / "admin.key").read_text().strip()

    # Its processes.

    def processes(self) -> list[Process]:
        """The shims and trainers of this home that have not ended."""
        runs = str(self.home.runs)
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if str((entry / "cwd").readlink()).startswith(runs):
                    stat = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                    shim = b"shim.main" in (entry / "cmdline").read_bytes()
                    found.append(Process(int(entry.name), int(stat[1]), shim))
        shims = {process.pid for process in found if process.shim}
        # A worker that has not become its own program yet has its shim's name.
        return [replace(p, shim=p.shim and p.parent not in shims) for p in found]

    def signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def freeze(self, pid: int) -> None:
        self._frozen.add(pid)
        self.signal(pid, signal.SIGSTOP)

    def calm(self) -> None:
        """Undo what still disturbs: frozen processes go on, a full disk has space."""
        (self.home.root / "filler").unlink(missing_ok=True)
        for pid in self._frozen:
            self.signal(pid, signal.SIGCONT)
        self._frozen.clear()

    @contextmanager
    def full(self) -> Iterator[None]:
        """A disk without a free byte."""
        filler = self.home.root / "filler"
        with filler.open("wb") as file:
            _fill(file.fileno())
        try:
            yield
        finally:
            filler.unlink(missing_ok=True)


def _fill(descriptor: int) -> None:
    """Others take and give space meanwhile: ever smaller parts, to the last page."""
    taken, part = 0, DISK_BYTES
    while part >= PAGE_BYTES:
        try:
            os.posix_fallocate(descriptor, taken, part)
            taken += part
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            part //= 2
