"""The loop that answers: errands first, then one turn of the batch, then send what came of it."""

import sys
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from ftd.core.chat import Load
from ftd.core.spec import ServeSpec
from ftd.core.wire import Ready
from ftd.worker.infer.batch import Batch
from ftd.worker.infer.desk import Desk
from ftd.worker.infer.model import Network
from ftd.worker.infer.server import Errand, Server
from ftd.worker.report import Asked, Report

SOCKET: Final = Path("out/serve.sock")
LOAD_S = 0.1  # between two tellings of how busy the worker is
BEAT_S = 10.0  # the same while that does not change
# A turn takes the interpreter's lock back hundreds of times, after each call into torch. While a
# prompt is rendered it waits so long for it each time, instead of the usual 5 ms.
SWITCH_S = 0.0002


def serve(network: Network, spec: ServeSpec, root: Path, report: Report, asked: Asked) -> None:
    """Answer requests on the socket below `root` until `asked` to stop; what is not answered by
    then is cut off. Raises OSError when it cannot listen."""
    sys.setswitchinterval(SWITCH_S)
    errands: SimpleQueue[Errand] = SimpleQueue()
    asked.wake = lambda: errands.put(_nothing)
    batch = Batch(network, spec)
    server = Server(Desk(network), batch.add, errands, path=root / SOCKET, queue=spec.queue)
    server.start()
    report(Ready(context_tokens=network.context_tokens))
    gauge = _Gauge(batch, server)
    busy = False
    while not asked.stop:
        _run(errands, 0.0 if busy else gauge.patience())
        busy = batch.turn()
        server.flush()
        gauge.look()
    server.close()


def _nothing() -> None:
    """Wakes the loop."""


def _run(errands: "SimpleQueue[Errand]", patience_s: float | None) -> None:
    """Run the errands that are there; wait for the first one for so long (None: for ever)."""
    try:
        errands.get(block=patience_s != 0.0, timeout=patience_s)()
        while True:
            errands.get_nowait()()
    except Empty:
        return


class _Gauge:
    """Tells how busy the worker is: when that changes, and not too often.

    And now and then while there is work, so that a long prompt is no silence. It is told between
    two turns, by the thread that takes them: a turn that hangs is one.
    """

    def __init__(self, batch: Batch, server: Server) -> None:
        self._batch = batch
        self._server = server
        self._told = self._load()
        self._told_at = -LOAD_S

    def patience(self) -> float | None:
        """How long nothing needs to be told unless something happens; None for ever."""
        return None if self._load() == self._told else LOAD_S

    def look(self) -> None:
        load, now = self._load(), time.monotonic()
        if now - self._told_at >= (BEAT_S if load == self._told else LOAD_S):
            self._server.tell(load)
            self._told, self._told_at = load, now

    def _load(self) -> Load:
        batch = self._batch
        return Load(
            running=batch.running,
            waiting=batch.waiting,
            adapters=batch.adapters,
            cached_tokens=batch.cached_tokens,
        )
