"""The shim as a program: one loop that serves a worker's pipes, connections and signals.

Its arguments are `--with-daemon` for a worker that ends with its daemon, `--grants` and what the
worker is confined to, the run directory, the size at which the log is rotated, and the worker's
command.
"""

import contextlib
import ctypes
import json
import math
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from .bounds import LOOK_S, leave
from .locks import Lock, as_lock, holder, take
from .record import RETRY_S, insist, note, publish
from .sandbox import Grants, from_json
from .spool import Lines, Spool
from .worker import Log, Worker, kill_children

VERSION = 1  # of assigned.json and exit.json
STOP = b'{"kind":"stop","save":true}\n'  # what the worker is told when the machine shuts down
SIGNALS = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL, "USR1": signal.SIGUSR1}
REQUEST_BYTES = 2**16
CHUNK_BYTES = 2**16
PEERS = 16
LOCKS_S = 2.0  # how long a lock may still be held by somebody who only looks
LOCK_RETRY_S = 0.05
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Assigning(NamedTuple):
    """An assignment on its way: who asked for it, what it takes, and until when."""

    peer: socket.socket
    record: dict[str, Any]
    locks: list[Lock]
    line: bytes
    deadline: float


class Shim:
    """One loop that serves the worker's pipes, the control connections and the signals."""

    def __init__(
        self,
        log_bytes: int,
        command: list[str],
        *,
        with_daemon: bool = False,
        grants: Grants | None = None,
    ) -> None:
        self.with_daemon = with_daemon
        self.spool = Spool()
        self.log = Log(log_bytes)
        self.lines = Lines()
        self.peers: dict[socket.socket, bytes] = {}  # and what each has said of its next line
        self.locks: list[int] = []
        self.assigning: Assigning | None = None
        self.assigned = False
        self.stalled = False  # the disk takes no facts
        self.poked = 0  # the seq of the last poke
        self.selector = selectors.DefaultSelector()
        self.watch(wakeups(), self.on_signal)
        self.listener = listen()
        self.watch(self.listener, self.on_connect)
        self.worker = Worker(command, grants)
        self.watch(self.worker.facts, self.on_facts)
        self.watch(self.worker.output, self.on_output)
        self.welcome(socket.socket(fileno=take_stdin()))

    def run(self) -> None:
        """Serve until the worker and all that it started have ended, then record its end."""
        while not (self.worker.reap() and self.worker.end):
            if self.worker.end:
                kill_children()
            elif not self.peers and (self.with_daemon or not self.assigned):
                self.worker.signal(signal.SIGKILL)
            for key, _ in self.selector.select(self.wait_s(time.monotonic())):
                key.data(key.fileobj)
            self.flush(time.monotonic())
            self.worker.watch(time.monotonic())
            if self.assigning:
                self.try_assigning(self.assigning)
        self.finish(self.worker.end)

    def wait_s(self, now: float) -> float | None:
        """How long nothing needs to be done; None for ever."""
        if self.assigning:
            return LOCK_RETRY_S
        if self.stalled or self.worker.end:
            return RETRY_S
        idle_s = LOOK_S if self.worker.watched else None
        if self.spool.due is None:
            return idle_s
        due_s = max(0.0, self.spool.due - now)
        return due_s if idle_s is None else min(due_s, idle_s)

    def flush(self, now: float) -> None:
        """Put facts on the disk and say so; while it refuses them, the worker must wait."""
        try:
            self.spool.flush(now)
        except OSError as error:
            if not self.stalled:
                note(f"the worker's facts wait for the disk: {error}")
                self.ignore(self.worker.facts)
                self.stalled = True
                self.tell_all(self.poke())
            return
        if self.stalled:
            self.stalled = False
            self.watch(self.worker.facts, self.on_facts)
            self.tell_all(self.poke())
        if self.poked < self.spool.seq:
            self.poked = self.spool.seq
            self.tell_all(self.poke())

    def poke(self) -> dict[str, Any]:
        return {"poke": self.spool.seq, "stalled": self.stalled}

    def finish(self, end: dict[str, int]) -> None:
        """Nobody of ours lives: what is in the pipes is all there is. Record it and the exit."""
        while self.on_output(self.worker.output):
            pass
        while self.on_facts(self.worker.facts):
            insist(lambda: self.spool.flush(time.monotonic()))
        insist(lambda: self.spool.flush(math.inf))
        record = end | {"seq": self.spool.seq, "at": int(time.time()), "version": VERSION}
        record["starved"] = self.worker.starved()
        record["bounded"] = self.worker.bounded()
        insist(lambda: publish("exit.json", record))
        self.tell_all({"exit": True})
        if self.worker.group:
            leave(self.worker.group)
        os.unlink("control.sock")

    # What the selector calls.

    def watch(self, source: int | socket.socket, react: Callable[[Any], object]) -> None:
        self.selector.register(source, selectors.EVENT_READ, react)

    def ignore(self, source: int | socket.socket) -> None:
        with contextlib.suppress(KeyError):  # a pipe that has ended is not watched any more
            self.selector.unregister(source)

    def on_signal(self, wakeup: socket.socket) -> None:
        """Each byte is a signal. SIGCHLD needs no answer here: every turn reaps."""
        if signal.SIGTERM in wakeup.recv(CHUNK_BYTES):
            self.worker.send(STOP)

    def on_output(self, pipe: int) -> bool:
        """Take some of the worker's output; whether there was any."""
        data = self.read(pipe)
        if data:
            self.log.write(data)
        return bool(data)

    def on_facts(self, pipe: int) -> bool:
        """Take some of the worker's facts; whether there were any."""
        data = self.read(pipe)
        for line in self.lines.feed(data):
            self.spool.append(line, time.monotonic())
        return bool(data)

    def read(self, pipe: int) -> bytes:
        """What is in the pipe now; nothing at its end, where we stop watching it."""
        try:
            data = os.read(pipe, CHUNK_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self.ignore(pipe)
        return data

    def on_connect(self, listener: socket.socket) -> None:
        try:
            peer, _ = listener.accept()
        except OSError as error:
            note(f"a connection failed: {error}")
            return
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        if uid == os.getuid() and len(self.peers) < PEERS:
            self.welcome(peer)
        else:
            peer.close()

    def welcome(self, peer: socket.socket) -> None:
        """Serve a connection. The first poke says that we listen, a later one that facts wait."""
        peer.setblocking(False)
        self.peers[peer] = b""
        self.watch(peer, self.on_peer)
        self.tell(peer, self.poke())

    def on_peer(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, rest = (self.peers[peer] + data).split(b"\n")
        self.peers[peer] = rest
        try:
            for line in lines:
                self.obey(peer, json.loads(line))
        except (ValueError, RecursionError) as error:
            note(f"a request that makes no sense: {error!r}")
            data = b""
        if not data or len(rest) > REQUEST_BYTES:
            self.hang_up(peer)

    def hang_up(self, peer: socket.socket) -> None:
        self.ignore(peer)
        del self.peers[peer]
        if self.assigning and self.assigning.peer is peer:
            self.assigning = None  # nobody waits for it any more
        peer.close()

    def tell_all(self, message: dict[str, Any]) -> None:
        for peer in self.peers:
            self.tell(peer, message)

    def tell(self, peer: socket.socket, message: dict[str, Any]) -> None:
        # Who has gone is seen when its end is read; who does not read has pokes to look at already.
        with contextlib.suppress(OSError):
            peer.send(json.dumps(message).encode() + b"\n")

    # What peers ask for.

    def obey(self, peer: socket.socket, request: Any) -> None:
        """Raises ValueError for what is no request."""
        match request:
            case {
                "op": "assign",
                "job": str(job),
                "attempt": int(attempt),
                "locks": [*wanted],
                "line": str(line),
            }:
                record = {"job": job, "attempt": attempt, "version": VERSION}
                locks = [as_lock(lock) for lock in wanted]
                deadline = time.monotonic() + LOCKS_S
                self.begin_assigning(
                    Assigning(peer, record, locks, line.encode() + b"\n", deadline)
                )
            case {"op": "send", "line": str(line)}:
                self.worker.send(line.encode() + b"\n")
            case {"op": "signal", "name": str(name)} if name in SIGNALS:
                self.worker.signal(SIGNALS[name])
            case {"op": "status"}:
                self.tell(peer, {"status": self.status()})
            case _:
                raise ValueError("an unknown request")

    def status(self) -> dict[str, Any]:
        return {
            "worker": self.worker.pid,
            "assigned": self.assigned,
            "seq": self.spool.seq,
            "stalled": self.stalled,
        }

    def begin_assigning(self, assigning: Assigning) -> None:
        if self.assigned or self.assigning:
            self.tell(assigning.peer, {"refused": "the worker has a job already"})
        else:
            self.assigning = assigning

    def try_assigning(self, assigning: Assigning) -> None:
        """Take the locks, record it, tell the worker; try again later while a lock is held.

        The record comes before the telling: a worker that has begun can always be found by it.
        """
        held: list[int] = []
        answer: dict[str, Any]
        try:
            blocked = take(assigning.locks, held)
            if blocked is None:
                answer = self.entrust(assigning, held)
            elif time.monotonic() < assigning.deadline:
                return
            else:
                why = f"{os.path.basename(blocked)} is held by {holder(blocked)}"
                answer = {"refused": why}
        except (OSError, ValueError) as error:
            answer = {"refused": str(error)}
        if "assigned" in answer:
            self.assigned = True
            self.locks = held
        else:
            for descriptor in held:
                os.close(descriptor)
        self.assigning = None
        self.tell(assigning.peer, answer)

    def entrust(self, assigning: Assigning, held: list[int]) -> dict[str, Any]:
        """Record the assignment and give it to the worker with its locks; or say why not."""
        if self.worker.end or self.worker.killed:
            return {"ended": "the worker has ended"}
        try:
            publish("assigned.json", assigning.record)
            try:
                socket.send_fds(self.worker.commands, [assigning.line], held)
            except (BrokenPipeError, ConnectionResetError) as error:
                os.unlink("assigned.json")
                return {"ended": f"the worker cannot be told: {error}"}
        except OSError as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink("assigned.json")
            return {"refused": f"the worker cannot be told: {error}"}
        return {"assigned": True}


def listen() -> socket.socket:
    """A relative name: paths of unix sockets have 108 bytes at most."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("control.sock")
    listener.listen(PEERS)
    listener.setblocking(False)
    return listener


def wakeups() -> socket.socket:
    """A socket that takes one byte for each SIGCHLD and SIGTERM; SIGHUP and SIGPIPE are ignored."""
    ours, kernels = socket.socketpair()
    ours.setblocking(False)
    kernels.setblocking(False)
    signal.set_wakeup_fd(kernels.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    return ours


def take_stdin() -> int:
    """Our standard input under another number, with /dev/null in its place."""
    descriptor = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return descriptor


def close_inherited() -> None:
    """Nothing of the daemon's stays open through us."""
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2:
            with contextlib.suppress(OSError):  # the one that has listed them
                os.close(int(entry))


def main() -> None:
    given = sys.argv[1:]
    with_daemon = given[0] == "--with-daemon"
    del given[:with_daemon]
    grants = None
    if given[0] == "--grants":
        grants = from_json(given[1])
        del given[:2]
    directory, log_bytes, *command = given
    close_inherited()
    os.umask(0o077)
    os.chdir(directory)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    Shim(int(log_bytes), command, with_daemon=with_daemon, grants=grants).run()
