"""Stands in for a shim: starts a worker's program, and holds the other ends of its line."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ftd.core.wire import Assign, Fact, decode_fact, encode

LIMIT_S = 120.0


class Shim:
    """Sends commands, and hears facts until the worker closes the pipe."""

    def __init__(self, module: str, run_directory: Path, log: Path) -> None:
        self.root = run_directory
        self.channel, theirs = socket.socketpair()
        reader, writer = os.pipe()
        environment = os.environ | {
            "FTD_FACTS_FD": str(writer),
            "FTD_SHIM_PID": str(os.getpid()),
            "PYTHONPATH": str(Path.cwd()),
            "OMP_NUM_THREADS": "1",
        }
        with log.open("wb") as noise:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=run_directory,
                env=environment,
                stdin=theirs,
                stdout=noise,
                stderr=noise,
                pass_fds=[writer],
                start_new_session=True,
            )
        theirs.close()
        os.close(writer)
        self._facts = os.fdopen(reader, "rb")
        self._alarm = threading.Timer(LIMIT_S, self.process.kill)
        self._alarm.start()

    def assign(self, job: str, spec: BaseModel, locks: tuple[int, ...] = ()) -> None:
        (self.root / "in" / "spec.json").write_text(spec.model_dump_json())
        socket.send_fds(self.channel, [encode(Assign(job=job, attempt=1))], locks)

    def facts(self) -> Iterator[Fact]:
        for line in self._facts:
            yield decode_fact(line)

    def hear(self, kind: type[Any]) -> Any:
        """The next fact of this kind; those before it are dropped."""
        return next(fact for fact in self.facts() if isinstance(fact, kind))

    def end(self) -> int:
        self._alarm.cancel()
        self.channel.close()
        self._facts.close()
        return self.process.wait(timeout=LIMIT_S)
