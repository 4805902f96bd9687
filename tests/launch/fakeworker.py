"""A worker that does what in/spec.json says: the wire and nothing else, of the standard library.

The spec is {"script": [[verb, argument ...], ...]}:

    ["steps", n]       says n steps, looking for a stop before each; pauses as "pause" says
    ["pause", s]       between the steps from now on
    ["say", text]      puts a line on the facts pipe, whatever it is
    ["print", n]       n kilobytes on stdout
    ["fork"]           leaves a process that holds what we hold; its pid is in out/grandchild
    ["stray"]          the same in a session of its own
    ["flee"]           leaves one that is gone when it is named, for its child, which does the same
    ["helper"]         as "fork", and it does not know a request for its stack
    ["stack"]          writes its stack to stderr at SIGUSR1 from now on
    ["eat", mebibytes] takes memory
    ["hold", mebibytes] takes it and keeps it
    ["deaf"]           ignores SIGTERM from now on
    ["echo"]           says ready and listens on out/serve.sock; gives one caller back what it says
    ["hang"]           for ever
    ["exit", code]     or ["kill", signal]; at the end of the script it says done and exits 0
"""

import ctypes
import faulthandler
import json
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1

FACTS = int(os.environ["FTD_FACTS_FD"])
COMMANDS = socket.socket(fileno=0)


SAID: dict[str, dict[str, Any]] = {}  # the last fact of each kind


def say(fact: dict[str, Any]) -> None:
    SAID[fact["kind"]] = fact
    os.write(FACTS, json.dumps(fact).encode() + b"\n")


def step(number: int, total: int) -> dict[str, Any]:
    return {
        "kind": "step", "step": number, "total_steps": total, "train_loss": 1 / number,
        "train_mean_token_accuracy": 0.5, "learning_rate": 1e-4, "tokens": 64, "loss_tokens": 32,
        "seconds": 0.01,
    }  # fmt: skip


def hear(locks: list[int]) -> list[dict[str, Any]]:
    """Commands, and the locks that came with them, which stay open."""
    data, descriptors, _, _ = socket.recv_fds(COMMANDS, 4096, 16)
    locks += descriptors
    return [json.loads(line) for line in data.splitlines()] if data else [{"kind": "stop"}]


def stop_asked(timeout_s: float | None = 0) -> dict[str, Any] | None:
    if select.select([COMMANDS], [], [], timeout_s)[0]:
        return hear([])[0]
    return None


def leave(*, session: bool = False, helper: bool = False) -> None:
    if os.fork() == 0:
        if session:
            os.setsid()
        if helper:
            faulthandler.unregister(signal.SIGUSR1)
        Path("out/grandchild.tmp").write_text(str(os.getpid()))
        Path("out/grandchild.tmp").rename("out/grandchild")
        hang()


def flee() -> None:
    fork = ctypes.PyDLL(None).fork  # without all that Python does about it
    for _ in range(8):
        if fork() == 0:
            os.setsid()
            while fork() == 0:
                pass
            os._exit(0)


def eat(mebibytes: int) -> NoReturn:
    eaten = [b"x" * 2**20 for _ in range(mebibytes)]
    sys.exit(f"there was memory for {len(eaten)} MiB")


def hold(mebibytes: int) -> NoReturn:
    held = b"x" * 2**20 * mebibytes
    hang(held)


def share(mebibytes: int) -> NoReturn:
    """Memory that a child would have too: none of a process's own."""
    shared = mmap.mmap(-1, 2**20 * mebibytes)
    for at in range(0, len(shared), mmap.PAGESIZE):
        shared[at] = 1
    hang(shared)


def hang(*_: object) -> NoReturn:
    while True:
        signal.pause()


def echo() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("out/serve.sock")
        listener.listen()
        say({"kind": "ready", "context_tokens": 8})
        caller, _ = listener.accept()
        with caller:
            while data := caller.recv(4096):
                caller.sendall(data)


def put(line: str) -> None:
    os.write(FACTS, line.encode() + b"\n")


def print_(kilobytes: int) -> None:
    for _ in range(kilobytes):
        os.write(1, b"x" * 1023 + b"\n")


def steps(total: int, pause_s: float) -> None:
    for number in range(1, total + 1):
        if stop := stop_asked():
            Path("out/stop.json").write_text(json.dumps(stop))
            say({"kind": "stopped", "step": number - 1})
            sys.exit(0)
        say(step(number, total))
        time.sleep(pause_s)


VERBS: dict[str, Callable[..., object]] = {
    "say": put,
    "print": print_,
    "fork": leave,
    "flee": flee,
    "helper": lambda: leave(helper=True),
    "stack": lambda: faulthandler.register(signal.SIGUSR1),
    "eat": eat,
    "hold": hold,
    "share": share,
    "stray": lambda: leave(session=True),
    "deaf": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "echo": echo,
    "hang": hang,
    "exit": sys.exit,
    "kill": lambda number: os.kill(os.getpid(), number),
}


def play(script: list[list[Any]]) -> None:
    pause_s = 0.0
    for verb, *arguments in script:
        match verb:
            case "steps":
                steps(arguments[0], pause_s)
            case "pause":
                pause_s = arguments[0]
            case _:
                VERBS[verb](*arguments)


def die_with_shim() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ["FTD_SHIM_PID"]):
        sys.exit(1)


def main() -> None:
    die_with_shim()
    say({"kind": "started", "version": 1, "pid": os.getpid()})
    locks: list[int] = []
    assign = hear(locks)[0]
    if assign["kind"] == "stop":
        return
    Path("out/environment.json").write_text(json.dumps(dict(os.environ)))
    Path("out/assign.json").write_text(json.dumps(assign))
    say({"kind": "accepted", "job": assign["job"], "attempt": assign["attempt"]})
    play(json.loads(Path(assign["spec"]).read_text())["script"])
    say({"kind": "done", "step": 0, "trained_tokens": 0})


if __name__ == "__main__":
    main()
