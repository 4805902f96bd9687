"""The shim's control socket under everything that is no request, while its worker goes on."""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftd.core import wire
from ftd.core.job import Exit
from ftd.launch.base import Refused
from ftd.launch.local import LocalLauncher
from ftd.launch.shim import main
from tests.fuzz import mutated, seeded, seeds
from tests.launch.conformance import ended, frames, job, kinds, run, said, until
from tests.launch.test_shim import dial, directory_of, pid_of, status, talk

GROWTH_BYTES = 16 * 2**20
# Requests that a job survives. None of them kills, stops, or names a lock outside its run.
HARMLESS: list[dict[str, Any]] = [
    {"op": "status"},
    {"op": "send", "line": '{"kind":"dance"}'},
    {"op": "signal", "name": "CONT"},
    {"op": "assign", "job": "j", "attempt": 1, "locks": [], "line": "{}"},
    {
        "op": "assign",
        "job": "j",
        "attempt": 1,
        "locks": [{"path": "a", "shared": True}],
        "line": "",
    },
]
ODD: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, float("nan"), "", "\0", "\ud800", "x" * 5000, [], {}, [[[]]],
    {"op": "status"},
]  # fmt: skip
LINES = [json.dumps(request).encode() + b"\n" for request in HARMLESS]
SPLICES = [*LINES, b"\n", b"\n\n\n", b"{", b'"', b"[" * 500, b"\xff", b"9" * 5000, b"NaN"]


def odd(chance: random.Random) -> bytes:
    """A request whose form is right and whose content is not."""
    request = dict(chance.choice(HARMLESS))
    for key in chance.sample(sorted(request), chance.randrange(1, len(request) + 1)):
        if chance.random() < 0.3:
            del request[key]
        else:
            request[key] = chance.choice(ODD)
    return json.dumps(request).encode() + b"\n"


def spoken(chance: random.Random) -> bytes:
    """What one connection says before it goes."""
    said_ = b"".join(odd(chance) for _ in range(chance.randrange(1, 4)))
    for _ in range(chance.randrange(3)):
        said_ = mutated(said_ + chance.choice(LINES), chance, SPLICES)
    return said_


def leave(connection: socket.socket, chance: random.Random) -> None:
    """Go at once, or after its answer; with a goodbye, or without one."""
    if chance.random() < 0.5:
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while connection.recv(4096):
                pass
    connection.close()


async def test_whatever_is_said_costs_only_who_says_it(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    shim = psutil.Process(pid_of(launcher))
    memory = shim.memory_info().rss
    descriptors = shim.num_fds()
    for seed in seeds(300):
        with seeded(seed) as chance:
            connection = dial(launcher)
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(spoken(chance))
            leave(connection, chance)
    await until(lambda: heard(launcher))
    line = await talk(launcher)
    assert (await status(line))["assigned"]
    assert shim.memory_info().rss - memory < GROWTH_BYTES

    async def tidy() -> bool:
        return shim.num_fds() <= descriptors + 1  # `line` is one more

    await until(tidy)
    assert json.loads((directory_of(launcher) / "assigned.json").read_text())["job"] == "ftjob-1"
    await line.signal("KILL")
    assert await ended(launcher, "run-1") == Exit(signal=9)
    assert kinds(launcher, "run-1") == ["started", "accepted"]
    await line.close()


async def test_who_never_reads_costs_no_memory_and_no_fact(launcher: LocalLauncher) -> None:
    await launcher.launch("run-1")
    deaf = [dial(launcher) for _ in range(main.PEERS - 2)]
    memory = psutil.Process(pid_of(launcher)).memory_info().rss
    await launcher.assign("run-1", job(["steps", 5_000], ["hang"]))
    await said(launcher, "run-1", "step", 5_000)
    for connection in deaf:
        for _ in range(50):
            with contextlib.suppress(BlockingIOError):
                connection.setblocking(False)
                connection.send(LINES[0] * 500)  # and asks, and does not read the answers
    line = await talk(launcher)
    assert (await status(line))["assigned"]
    assert psutil.Process(pid_of(launcher)).memory_info().rss - memory < GROWTH_BYTES
    steps = [json.loads(f.line) for f in frames(launcher, "run-1") if b'"step",' in f.line]
    assert [fact["step"] for fact in steps] == list(range(1, 5_001))
    await line.signal("KILL")
    assert await ended(launcher, "run-1") == Exit(signal=9)
    for connection in deaf:
        connection.close()
    await line.close()


async def test_half_a_request_is_no_request(launcher: LocalLauncher) -> None:
    """Cut at every byte: nothing is done before its newline, and the next one begins afresh."""
    await run(launcher, "run-1", job(["hang"]))
    kill = b'{"op":"signal","name":"KILL"}\n'
    for cut in range(len(kill)):
        with dial(launcher) as connection:
            connection.sendall(kill[:cut])
    await until(lambda: heard(launcher))
    assert await launcher.alive("ftjob-1")


async def heard(launcher: LocalLauncher) -> bool:
    """Whether a request is answered; not while the shim still closes those that have gone."""
    line = await launcher.connect("run-1")
    if line is None:
        return False
    try:
        return bool((await status(line))["assigned"])
    except Refused:
        return False
    finally:
        await line.close()


async def test_who_leaves_while_his_locks_are_waited_for_has_asked_nothing(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    await launcher.launch("run-1")
    (directory_of(launcher) / "in" / "spec.json").write_text('{"script":[["hang"]]}')
    path = tmp_path / "held.lock"
    command = wire.encode(wire.Assign(job="ftjob-1", attempt=1)).decode().strip()
    request = {
        "op": "assign", "job": "ftjob-1", "attempt": 1,
        "locks": [{"path": str(path), "shared": False}], "line": command,
    }  # fmt: skip
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with dial(launcher) as impatient:
            impatient.sendall(json.dumps(request).encode() + b"\n")
            second = await talk(launcher)
            with pytest.raises(Refused, match="has a job already"):
                await second.ask(request, 10)

        async def forgotten() -> bool:
            try:
                await second.ask(request | {"locks": []}, 10)
            except Refused:
                return False
            return True

        await until(forgotten)
    assert launcher.assigned("run-1")
    assert (await status(second))["assigned"]
    await second.close()


async def test_many_come_and_go_at_once(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    place = os.open(directory_of(launcher), os.O_PATH)

    async def visit(number: int) -> None:
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{place}/control.sock")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            writer.write(LINES[number % len(LINES)])
            await writer.drain()
            if number % 3:
                await reader.readline()
        writer.close()

    try:
        for start in range(0, 300, 60):
            await asyncio.gather(*(visit(number) for number in range(start, start + 60)))
    finally:
        os.close(place)
    await until(lambda: heard(launcher))


async def test_what_it_says_of_nonsense_does_not_fill_the_disk(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    for _ in range(50):
        with dial(launcher) as connection, contextlib.suppress(ConnectionResetError):
            connection.sendall(b"\xff" * 60_000 + b"\n")
            while connection.recv(4096):
                pass
    await until(lambda: heard(launcher))
    notes = directory_of(launcher) / "shim.log"
    assert 0 < notes.stat().st_size < 2**16
