"""The child: its pipes, its output, its end, and the processes that it leaves behind."""

import contextlib
import os
import signal
import socket

from . import memory
from .record import note

OFFERED = 500  # of 1000, which is to be ended first: as if it took half of all memory more
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Worker:
    """The child: its pid, the ends of its pipes that are ours, and how it ended."""

    def __init__(self, command: list[str]) -> None:
        self.commands, stdin = socket.socketpair()
        self.facts, facts = os.pipe()
        self.output, output = os.pipe()
        os.set_inheritable(facts, True)
        environment = {"FTD_SHIM_PID": str(os.getpid()), "FTD_FACTS_FD": str(facts)}
        onto = [(stdin.fileno(), 0), (output, 1), (output, 2)]
        actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in onto]
        self.pid = os.posix_spawn(
            command[0],
            command,
            os.environ | environment,
            file_actions=actions,
            setpgroup=0,
            setsigdef=[signal.SIGHUP, signal.SIGPIPE],  # what we ignore it would inherit
        )
        with contextlib.suppress(OSError):  # it has ended, or /proc is another's
            offer(self.pid)
        self.end: dict[str, int] | None = None
        self.kills = memory.kills()
        self.killed = False  # by us
        stdin.close()
        os.close(facts)
        os.close(output)
        for descriptor in (self.commands.fileno(), self.facts, self.output):
            os.set_blocking(descriptor, False)

    def signal(self, number: int) -> None:
        """Signal the worker's group, unless it has ended and its number may be another's.

        Its stack is asked of it alone: the helpers that it started would end by that signal.
        """
        if self.end is not None:
            return
        self.killed |= number == signal.SIGKILL
        if number == signal.SIGUSR1:
            os.kill(self.pid, number)
        else:
            os.killpg(self.pid, number)

    def starved(self) -> bool:
        """Whether the kernel killed it for want of memory, as far as that can be known."""
        killed = self.end is not None and self.end.get("signal") == signal.SIGKILL
        now = memory.kills()
        more = None not in (now, self.kills) and now != self.kills
        return killed and not self.killed and more

    def send(self, line: bytes) -> None:
        """Pass on a command. A worker that does not listen, or has ended, misses it."""
        try:
            self.commands.send(line)
        except OSError as error:
            note(f"a command was not taken: {error}")

    def reap(self) -> bool:
        """Collect all children that have ended, orphans too; whether none is left."""
        try:
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return False
                if pid == self.pid:
                    code = os.waitstatus_to_exitcode(status)
                    self.end = {"code": code} if code >= 0 else {"signal": -code}
                    self.end["peak_memory_bytes"] = usage.ru_maxrss * 1024
        except ChildProcessError:
            return True


class Log:
    """Takes the worker's output in files of bounded size: how it began (.0), the part before the
    last (.1) and the last. What a flood says in between is lost.

    Output is noise: what a full disk does not take is dropped.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size = 0
        self._begun = False  # the first part is full, and kept
        self._descriptor = os.open("worker.log", _LOG_FLAGS, 0o600)

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._size + len(data) > self._limit_bytes:
                self._rotate()
            self._size += os.write(self._descriptor, data)

    def _rotate(self) -> None:
        """The new file first: there must be a log to write whatever fails."""
        fresh = os.open("worker.log.tmp", _LOG_FLAGS | os.O_TRUNC, 0o600)
        os.close(self._descriptor)
        self._descriptor, self._size = fresh, 0
        os.replace("worker.log", "worker.log.1" if self._begun else "worker.log.0")
        self._begun = True
        os.replace("worker.log.tmp", "worker.log")


def offer(pid: int) -> None:
    """Have a kernel that runs out of memory rather end this process, and what it will start, than
    the daemon, us, or whatever else its owner works with."""
    path = f"/proc/{pid}/oom_score_adj"
    with open(path) as file:
        before = int(file.read())  # as its owner's whole service may be offered already
    with open(path, "w") as file:
        file.write(str(max(OFFERED, before)))


def kill_children() -> None:
    """Kill what the worker left: a subreaper becomes the parent of every orphan below it."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
            # pid (name) state parent ...; the name may hold anything.
            parent = int(file.read().rpartition(b")")[2].split()[1])
            if parent == os.getpid():
                os.kill(int(entry), signal.SIGKILL)
