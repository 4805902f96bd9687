"""Processes that tokenise the parts of a large file, each every n-th of them.

    python -m ftd.worker.train.crew DESCRIPTOR PARENT FIRST STRIDE MAKER

is one of them: on the descriptor, one end of a pair of sockets, comes the Task, and go its Parts in
turn. A process costs a second of imports and some 120 MB, so small files go without.

The trainer has threads by then, so nothing is forked; and threads instead of processes would not
help, because most of the work is Python's. What a socket holds is how far a process runs ahead.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import ForkingPickler

from ftd.worker.program import die_with
from ftd.worker.train.columns import Part
from ftd.worker.train.parts import MAKER, Task, take

MAX_PROCESSES = 16
LEAST_PARTS = 16  # 4 MiB, some six seconds of one process: fewer do not repay the imports
LOOK_S = 0.5  # how often who waits for a part says that it goes on

_log = logging.getLogger(__name__)


class Died(Exception):
    """A process of the crew ended before its last part, or could not begin."""


def spread(task: Task, threads: int, wait: Callable[[], None]) -> Generator[Part, None, None]:
    """The parts in order, taken by as many processes as `threads`, or here where they are few.

    `wait` is called time and again; what it raises ends the work, and the processes. Where one of
    them dies, as the first to go when memory is short, the rest of the work is done here.
    """
    parts = task.parts()
    count = min(threads, MAX_PROCESSES)
    done = 0
    if count > 1 and len(parts) >= LEAST_PARTS:
        try:
            with ExitStack() as stack:
                crew = [stack.enter_context(_hired(first, count)) for first in range(count)]
                _instruct(crew, task)
                for done, _ in enumerate(parts):
                    yield _next(crew[done % count], wait)
            return
        except Died as death:
            _log.warning("tokenising alone from part %d on: %s", done, death)
    for start in parts[done:]:
        yield take(task, start)
        wait()


def _instruct(crew: list[Connection], task: Task) -> None:
    """Not one by one as they are hired: they import at the same time."""
    order = ForkingPickler.dumps(task)
    for mate in crew:
        try:
            mate.send_bytes(order)
        except ConnectionError as error:
            raise Died("it ended before it was told what to do") from error


def _next(mate: Connection, wait: Callable[[], None]) -> Part:
    while not mate.poll(LOOK_S):
        wait()
    wait()  # before a death is believed: who asked us to stop may have ended the crew
    try:
        part: Part = mate.recv()
    except (EOFError, OSError) as error:
        raise Died("it ended before its last part") from error
    return part


@contextmanager
def _hired(first: int, stride: int) -> Iterator[Connection]:
    """A process that waits for its task; it is gone when this ends."""
    ours, theirs = Pipe()
    place = [str(number) for number in (theirs.fileno(), os.getpid(), first, stride)]
    with ours:
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-m", "ftd.worker.train.crew", *place, MAKER],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                raise Died(f"it could not begin: {error}") from error
        try:
            yield ours
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Take every `stride`-th part; a stop is for the trainer to hear, which then ends this."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, parent, first, stride = (int(argument) for argument in sys.argv[1:5])
    die_with(parent, "tokenising process")
    if sys.argv[5] != MAKER:
        sys.exit("ftd was upgraded meanwhile: this code may make other tokens")
    with Connection(descriptor) as line:
        task = line.recv()
        for start in task.parts()[first::stride]:
            line.send(take(task, start))
        line.poll(None)  # for the trainer to hang up


if __name__ == "__main__":
    main()
