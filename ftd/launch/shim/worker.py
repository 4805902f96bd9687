"""The child: its pipes, its output, its end, and the processes that it leaves behind."""

import contextlib
import os
import signal
import socket
from collections.abc import Mapping

from . import memory
from .bounds import LOOK_S, Bounds, descendants, enclose, enter, excess
from .processes import own_children
from .record import note
from .sandbox import Grants, confine

OFFERED = 500  # of 1000, which is to be ended first: as if it took half of all memory more
CHASE = 50  # looks for what flees, in a millisecond or two
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Worker:
    """The child: its pid, the ends of its pipes that are ours, and how it ended."""

    def __init__(self, command: list[str], grants: Grants | None = None) -> None:
        self.commands, stdin = socket.socketpair()
        self.facts, facts = os.pipe()
        self.output, output = os.pipe()
        os.set_inheritable(facts, True)
        environment = {"FTD_SHIM_PID": str(os.getpid()), "FTD_FACTS_FD": str(facts)}
        onto = [(stdin.fileno(), 0), (output, 1), (output, 2)]
        self.bounds = grants.bounds if grants else Bounds()
        self.group = enclose(os.path.basename(os.getcwd()), self.bounds) if grants else None
        self.pid = start(command, os.environ | environment, onto, grants, self.group)
        with contextlib.suppress(OSError):  # it has ended, or /proc is another's
            offer(self.pid)
        self.end: dict[str, int] | None = None
        self.kills = memory.kills(group=self.group)
        self.killed = False  # by us
        self.looked = 0.0  # when we last looked at its bounds
        self.over = False  # one of them: of memory
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
        """Whether it was killed for want of memory, as far as that can be known."""
        killed = self.end is not None and self.end.get("signal") == signal.SIGKILL
        now = memory.kills(group=self.group)
        more = None not in (now, self.kills) and now != self.kills
        return killed and (self.over or (not self.killed and more))

    def bounded(self) -> bool:
        """Whether it was so by its own bound, and not for want of the host's memory."""
        return self.starved() and (self.over or memory.at_limit(self.group))

    @property
    def watched(self) -> bool:
        """Whether nobody but us keeps its bounds."""
        return self.group is None and any(self.bounds)

    def watch(self, now: float) -> None:
        """Kill it if it is over its bounds."""
        if not self.watched or now < self.looked + LOOK_S:
            return
        self.looked = now
        if (why := excess(self.bounds, descendants())) is not None:
            note(f"the worker is killed: it has {why}")
            self.over = "memory" in why
            self.signal(signal.SIGKILL)

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


def start(
    command: list[str],
    environment: Mapping[str, str],
    onto: list[tuple[int, int]],
    grants: Grants | None,
    group: str | None = None,
) -> int:
    """Start a program in a process group of its own, and in a control group if there is one,
    confined to its grants if there are any.

    Returns its pid once it runs; raises OSError when it cannot. We have one thread, so that what
    has to be done between fork and exec can be.
    """
    failed, failure = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            for number in (signal.SIGHUP, signal.SIGPIPE):  # what we ignore it would inherit
                signal.signal(number, signal.SIG_DFL)
            for ours, theirs in onto:
                os.dup2(ours, theirs)
            if group is not None:
                enter(group)
            if grants is not None:
                confine(grants)
            os.execve(command[0], command, environment)  # noqa: S606 - no shell, as everywhere
        except BaseException as error:  # noqa: BLE001 - whatever it is, this process ends of it
            reason = (error.errno or 0) if isinstance(error, OSError) else 0
            os.write(failure, f"{reason} {error}".encode())
        finally:
            os._exit(127)
    os.close(failure)
    with open(failed, "rb") as file:
        why = file.read().decode()  # nothing, as soon as the program runs
    if why:
        os.waitpid(pid, 0)
        code, _, words = why.partition(" ")
        raise OSError(int(code), words)
    return pid


def offer(pid: int) -> None:
    """Have a kernel that runs out of memory rather end this process, and what it will start, than
    the daemon, us, or whatever else its owner works with."""
    path = f"/proc/{pid}/oom_score_adj"
    with open(path) as file:
        before = int(file.read())  # as its owner's whole service may be offered already
    with open(path, "w") as file:
        file.write(str(max(OFFERED, before)))


def kill_children() -> None:
    """Kill what the worker left: a subreaper becomes the parent of every orphan below it.

    One that forks and ends, over and over, is gone before it is killed that was there when we
    looked: it is chased, a look and a kill as close to each other as can be.
    """
    for _ in range(CHASE):
        for pid in own_children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
