"""A real daemon in a process of its own, for the tests that tell whole stories."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import openai

T = TypeVar("T")

READY_S = 30.0
CALM = {
    "OMP_NUM_THREADS": "1",
    "FTD_TRAINING__THREADS": "1",
    "FTD_SERVING__THREADS": "1",
    "FTD_TRAINING__WARM": "false",
    "FTD_TRAINING__RETRY_S": "0",
    "FTD_LIMITS__BALLAST_BYTES": "1048576",
}


class Daemon:
    """`ftd serve` on a home; may be stopped, killed and started again."""

    def __init__(self, home: Path, *, config: str = "", environment: dict[str, str] | None = None):
        self.home = home
        self._config = config
        self._environment = os.environ | CALM | (environment or {})
        for name in ("FTD_ADDR", "FTD_API_KEY", "FTD_HOME"):
            self._environment.pop(name, None)
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[openai.OpenAI] = []

    def start(self) -> "Daemon":
        self.home.mkdir(parents=True, exist_ok=True)
        config = self.home / "ftd.toml"
        config.write_text(self._config)
        log = (self.home / "daemon.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ftd", "serve", "--home", str(self.home), "--config",
             str(config), "--rest", "127.0.0.1:0"],
            stdout=log, stderr=log, env=self._environment,
        )  # fmt: skip
        log.close()
        until(self._ready, READY_S, self.log)
        return self

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        path = self.home / "endpoint.json"
        return path.exists() and self.endpoint["pid"] == self._process.pid

    @property
    def endpoint(self) -> dict[str, Any]:
        endpoint: dict[str, Any] = json.loads((self.home / "endpoint.json").read_text())
        return endpoint

    @property
    def url(self) -> str:
        return str(self.endpoint["rest"])

    @property
    def key(self) -> str:
        return (self.home / "admin.key").read_text().strip()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        return (self.home / "daemon.log").read_text()

    def client(self, **options: Any) -> openai.OpenAI:
        """The OpenAI SDK, strict about every field; closed when the daemon ends."""
        strict = {"_strict_response_validation": True, "max_retries": 0, "api_key": self.key}
        client = openai.OpenAI(base_url=self.url, **(strict | options))
        self._clients.append(client)
        return client

    def ftctl(
        self, *arguments: str, check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ftctl", *arguments],
            env=self._environment | {"FTD_HOME": str(self.home)},
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.log()}"
        return done

    def kill(self) -> None:
        """kill -9: no goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> float:
        """SIGTERM; returns how long the end took, in seconds."""
        assert self._process is not None
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        return time.monotonic() - started

    def end(self) -> None:
        """Stop the daemon and every trainer that it left."""
        for client in self._clients:
            client.close()
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pid in processes_of(self.home):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextmanager
def running(home: Path, **options: Any) -> Iterator[Daemon]:
    daemon = Daemon(home, **options)
    try:
        yield daemon.start()
    finally:
        daemon.end()


def processes_of(home: Path) -> list[int]:
    """Shims and workers whose working directory lies in this home's runs."""
    runs = str(home / "runs")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            where = str((entry / "cwd").readlink())
        except OSError:
            continue
        if where.startswith(runs):
            found.append(int(entry.name))
    return found


def until(
    condition: Callable[[], T], timeout_s: float = 60, explain: Callable[[], str] | None = None
) -> T:
    """Poll until the condition is true; returns what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(explain() if explain else f"never came true: {condition}")
        time.sleep(0.02)
    return result


def conversation(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def small_talk(path: Path, count: int, *, start: int = 0) -> Path:
    """A valid training file of `count` short, different conversations."""
    rows = [
        conversation(f"What is {n} plus {n}?", f"It is {2 * n}, as you may have guessed.")
        for n in range(start, start + count)
    ]
    return jsonl(path, rows)
