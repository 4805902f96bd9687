"""What a worker says and hears: facts go up a pipe, commands and locks come down a socket.

    right:  report(Step(...))                           one write, whole or not at all
    wrong:  os.fdopen(facts, "w").write(...)            a buffer tears lines and loses the last

What may be said is in ftd.core.wire.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable
from queue import SimpleQueue

from ftd.core.wire import (
    LINE_BYTES,
    Assign,
    Fact,
    Failed,
    Notice,
    Stop,
    WireError,
    decode_command,
    encode,
)

MAX_LOCKS = 64  # descriptors that one command may bring: the job's lock and one per device
_ELLIPSIS = "..."
_log = logging.getLogger(__name__)


class Report:
    """Tells facts on a pipe: one `os.write` of at most LINE_BYTES each.

    A pipe takes a line of that size whole (PIPE_BUF), so threads may share a Report. A full pipe
    blocks the worker, which is wanted: no fact is lost because its reader waits for disk space.
    Raises BrokenPipeError when nobody reads any more.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, fact: Fact) -> None:
        os.write(self._descriptor, line(fact))


def line(fact: Fact) -> bytes:
    """The fact as its line; a message for people is shortened until the line fits."""
    if not isinstance(fact, Notice | Failed):
        return encode(fact)
    fact = fact.model_copy(update={"message": _printable(fact.message)})
    if (excess := _bytes(fact) - LINE_BYTES) > 0:
        # Each character is at least a byte of the line, so cutting `excess` of them is enough.
        kept = max(0, len(fact.message) - excess - len(_ELLIPSIS))
        fact = fact.model_copy(update={"message": fact.message[:kept] + _ELLIPSIS})
    return encode(fact)


def _bytes(fact: Fact) -> int:
    """The length of the fact's line, newline included."""
    return len(fact.model_dump_json(exclude_none=True).encode()) + 1


def _printable(text: str) -> str:
    """Lone surrogates (of odd file names) have no UTF-8 and become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Asked:
    """What was asked of the worker, for it to look at between two steps.

    The flags only ever go up, so a thread and a signal handler may both raise them without a
    lock. A stop without saving outweighs one with it: who cancels a job wants no checkpoint.
    `wake` is called after each wish, for a worker that waits between two steps; it must be
    reentrant, as a SimpleQueue's put is.
    """

    def __init__(self) -> None:
        self.stop = False
        self.wake: Callable[[], None] = _sleep_on
        self._discard = False

    @property
    def save(self) -> bool:
        """Whether to save before stopping."""
        return self.stop and not self._discard

    def ask(self, stop: Stop) -> None:
        if not stop.save:
            self._discard = True
        self.stop = True
        self.wake()


def _sleep_on() -> None:
    """Nobody waits."""


class Inbox:
    """Hears commands on a socket, in a thread of its own, and keeps what comes with them.

    The descriptors that arrive are the kernel locks of the job and its devices. They stay open
    as long as this process lives, and only that long: children do not inherit them.
    """

    def __init__(self, channel: socket.socket) -> None:
        self.asked = Asked()
        self.locks: list[int] = []
        self._channel = channel
        # A SimpleQueue's put is reentrant, so a signal handler may call it at any moment.
        self._assigned: SimpleQueue[Assign | None] = SimpleQueue()
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def assignment(self) -> Assign | None:
        """Wait for the assignment; None when the worker is to end without one."""
        return self._assigned.get()

    def ask(self, stop: Stop) -> None:
        """Ask the worker to stop, as if the command had come on the socket."""
        self.asked.ask(stop)
        self._assigned.put(None)  # heard only by a worker that still waits for its assignment

    def _listen(self) -> None:
        buffer = b""
        while received := self._receive():
            *lines, buffer = (buffer + received).split(b"\n")
            for command in lines:
                self._obey(command)
        self._assigned.put(None)

    def _receive(self) -> bytes:
        """Some bytes of the stream; none at its end, which a reset is too."""
        try:
            received, locks, _, _ = socket.recv_fds(self._channel, LINE_BYTES, MAX_LOCKS)
        except ConnectionResetError:
            return b""
        for lock in locks:
            os.set_inheritable(lock, False)
        self.locks += locks
        return received

    def _obey(self, line: bytes) -> None:
        try:
            command = decode_command(line)
        except WireError as error:
            # A newer daemon may know commands that this worker does not: its job goes on.
            _log.error("refused a command: %s", error)
            return
        if isinstance(command, Assign):
            self._assigned.put(command)
        else:
            self.ask(command)
