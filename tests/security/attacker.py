"""A worker of ill will: it does what in/spec.json names, and writes what came of it to out/.

The spec is {"attack": name, "arguments": [...], "through": how}. `through` is "itself", "thread",
"child" (forked) or "program" (a new interpreter). The result is {"errno": N} or {"did": text}.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {  # of calls that the standard library does not make: x86_64, aarch64
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone": (56, 220),
    "clone3": (435, 435),
    "open_by_handle_at": (304, 265),
    "chroot": (161, 51),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "shmget": (29, 194),
    "shmctl": (31, 195),
    "mq_open": (240, 180),
    "openat2": (437, 437),
}
FLAGS = os.O_WRONLY | os.O_CREAT
locks: list[int] = []  # descriptors that came with the job


def call(name: str, *arguments: int | str) -> int:
    """A call of the kernel by its number."""
    number = NUMBERS[name][os.uname().machine == "aarch64"]
    wide = [
        ctypes.c_long(value) if isinstance(value, int) else value.encode() for value in arguments
    ]
    answer = LIBC.syscall(ctypes.c_long(number), *wide)
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return int(answer)


def clone(flags: int) -> None:
    if call("clone", flags, 0, 0, 0, 0) == 0:
        os._exit(0)


def attach(pid: int) -> int:
    return call("ptrace", 16, pid, 0, 0)  # PTRACE_ATTACH


def peek(pid: int) -> int:
    return call("process_vm_readv", pid, 0, 0, 0, 0, 0)


def steal(pid: int) -> int:
    return call("pidfd_getfd", os.pidfd_open(pid), 0, 0)


def connect(kind: str, name: str) -> None:
    """To a unix socket; a name that begins with @ is an abstract one."""
    with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as line:
        line.connect("\0" + name[1:] if name[0] == "@" else name)


def call_home(pid: int) -> None:
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGTERM)


def make_socket(family: str, kind: str) -> None:
    socket.socket(getattr(socket, family), getattr(socket, kind)).close()


def make_pair(kind: str) -> None:
    socket.socketpair(socket.AF_UNIX, getattr(socket, kind))


def starve(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))


def slow(pid: int) -> None:
    os.setpriority(os.PRIO_PROCESS, pid, 19)


def idle(pid: int) -> None:
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def hide() -> None:
    """From a /proc that shows one's own (hidepid=2, ProtectProc=invisible)."""
    if LIBC.prctl(4, 0, 0, 0, 0) != 0:  # PR_SET_DUMPABLE
        raise OSError(ctypes.get_errno(), "prctl")


def signal_by_file(pid: int) -> None:
    """Let the kernel kill the owner of a socket when something comes in."""
    ours, theirs = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(ours, fcntl.F_SETOWN, pid)
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
    theirs.send(b"x")


def keep_memory() -> None:
    """A segment would stay after us; ours goes."""
    call("shmctl", call("shmget", 0, 4096, 0o1600), 0, 0)  # IPC_PRIVATE, IPC_RMID


def cut(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))


def run_own(path: str) -> None:
    """A program of its own making."""
    descriptor = os.open(path, FLAGS, 0o700)
    os.write(descriptor, b"#!/bin/sh\ntrue\n")
    os.close(descriptor)
    subprocess.run([path], check=True)


def unlock() -> bool:
    """Whether the lock of the job, which the shim holds too, is gone."""
    fcntl.flock(locks[0], fcntl.LOCK_UN)
    inode = os.fstat(locks[0]).st_ino
    return f":{inode} " not in Path("/proc/locks").read_text()


def share() -> None:
    fcntl.flock(locks[0], fcntl.LOCK_SH)


def descriptors() -> list[str]:
    found = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return sorted(str(entry.readlink()) for entry in found)


ATTACKS: dict[str, Callable[..., object]] = {
    "read": lambda path: len(Path(path).read_bytes()),
    "list": os.listdir,
    "write": lambda path: os.write(os.open(path, FLAGS, 0o600), b"x"),
    "append": lambda path: os.write(os.open(path, os.O_WRONLY | os.O_APPEND), b"x"),
    "truncate": lambda path: os.truncate(path, 0),
    "cut": cut,
    "unlink": os.unlink,
    "rename": os.rename,
    "link": os.link,
    "symlink": os.symlink,
    "mkfifo": os.mkfifo,
    "mkdir": os.mkdir,
    "chmod": lambda path: Path(path).chmod(0o777),
    "fchmod": lambda path: os.fchmod(os.open(path, os.O_RDONLY), 0o777),
    "chown": lambda path: os.chown(path, 1, 1),
    "setxattr": lambda path: os.setxattr(path, "user.canary", b"x"),
    "utime": lambda path: os.utime(path, (1, 1)),
    "run own": run_own,
    "execute": lambda *command: subprocess.run(command, check=True, capture_output=True),
    "socket": make_socket,
    "pair": make_pair,
    "connect": connect,
    "kill": lambda pid: os.kill(pid, signal.SIGTERM),
    "pidfd": call_home,
    "attach": attach,
    "peek": peek,
    "steal": steal,
    "starve": starve,
    "slow": slow,
    "idle": idle,
    "pin": lambda pid: os.sched_setaffinity(pid, {0}),
    "signal by file": signal_by_file,
    "hide": hide,
    "keep memory": keep_memory,
    "unlock": unlock,
    "share": share,
    "descriptors": lambda: json.dumps(descriptors()),
    "clone": clone,
    "call": call,
    "privileges": lambda: Path("/proc/self/status").read_text(),
    "limits": lambda: [
        resource.getrlimit(r) for r in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE)
    ],
}


def attempt(attack: str, arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"did": repr(ATTACKS[attack](*arguments))}
    except OSError as error:
        return {"errno": errno.errorcode.get(error.errno or 0, str(error))}


def through(how: str, attack: str, arguments: list[Any]) -> None:
    def strike() -> None:
        Path("out/result.tmp").write_text(json.dumps(attempt(attack, arguments)))

    match how:
        case "itself":
            strike()
        case "thread":
            thread = threading.Thread(target=strike)
            thread.start()
            thread.join()
        case "child":
            if (pid := os.fork()) == 0:
                strike()
                os._exit(0)
            os.waitpid(pid, 0)
        case "program":
            command = [sys.executable, "-I", "-S", __file__, attack, json.dumps(arguments)]
            subprocess.run(command, check=True)
    Path("out/result.tmp").rename("out/result.json")


def main() -> None:
    if sys.argv[1:]:
        through("itself", sys.argv[1], json.loads(sys.argv[2]))
        Path("out/result.json").rename("out/result.tmp")
        return
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    facts = int(os.environ["FTD_FACTS_FD"])
    os.write(
        facts, json.dumps({"kind": "started", "version": 1, "pid": os.getpid()}).encode() + b"\n"
    )
    data, received, _, _ = socket.recv_fds(socket.socket(fileno=0), 4096, 16)
    locks.extend(received)
    spec = json.loads(Path(json.loads(data.splitlines()[0])["spec"]).read_text())
    through(spec["through"], spec["attack"], spec["arguments"])


if __name__ == "__main__":
    main()
