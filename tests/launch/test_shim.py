"""The shim by itself: its standing apart, its control socket, its disk, and its last will."""

import ast
import asyncio
import contextlib
import errno
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftd.core import wire
from ftd.core.job import Exit
from ftd.launch import shim, spool
from ftd.launch.base import Refused
from ftd.launch.channel import LocalChannel
from ftd.launch.local import LocalLauncher
from ftd.launch.shim import main, record
from ftd.launch.shim import spool as writer
from ftd.launch.shim.worker import Log
from tests.launch.conformance import (
    ended,
    frames,
    job,
    kinds,
    opened,
    run,
    said,
    until,
)
from tests.launch.conftest import kill


def pid_of(launcher: LocalLauncher, launch: str = "run-1") -> int:
    return launcher._shims[launch].pid


def directory_of(launcher: LocalLauncher, launch: str = "run-1") -> Path:
    return launcher.out(launch).parent


def dial(launcher: LocalLauncher, launch: str = "run-1") -> socket.socket:
    """A connection that speaks as it likes."""
    connection = socket.socket(socket.AF_UNIX)
    with contextlib.chdir(directory_of(launcher, launch)):
        connection.connect("control.sock")  # waits while the backlog is full
    connection.settimeout(10)
    return connection


async def status(line: LocalChannel) -> dict[str, Any]:
    answer = await line.ask({"op": "status"}, 10)
    found: dict[str, Any] = answer["status"]
    return found


async def talk(launcher: LocalLauncher, launch: str = "run-1") -> LocalChannel:
    line = await launcher.connect(launch)
    assert line is not None
    return line


# It stands apart.


def test_it_needs_the_standard_library_and_itself_and_nothing_late() -> None:
    for path in Path(shim.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
        assert all(node in tree.body for node in imports), f"{path.name} imports while it runs"
        for node in imports:
            if isinstance(node, ast.ImportFrom):
                names = [] if node.level else [node.module or ""]
            else:
                names = [alias.name for alias in node.names]
            assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_what_it_knows_of_the_wire_is_so() -> None:
    assert writer.SAMPLED == wire.SAMPLED
    assert writer.LINE_BYTES == wire.LINE_BYTES
    assert wire.decode_command(main.STOP) == wire.Stop(save=True)
    assert spool.LINE_BYTES > writer.LINE_BYTES


# It obeys.


async def test_sigterm_becomes_a_request_to_stop_and_save(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["pause", 0.01], ["steps", 100_000]))
    await said(launcher, "run-1", "step")
    os.kill(pid_of(launcher), signal.SIGHUP)
    os.kill(pid_of(launcher), signal.SIGTERM)
    assert await ended(launcher, "run-1") == Exit(code=0)
    assert kinds(launcher, "run-1")[-1] == "stopped"
    assert json.loads((launcher.out("run-1") / "stop.json").read_text()) == {
        "kind": "stop",
        "save": True,
    }


async def test_sigterm_ends_an_idle_worker(launcher: LocalLauncher) -> None:
    await launcher.launch("run-1")
    os.kill(pid_of(launcher), signal.SIGTERM)

    async def recorded() -> bool:
        return launcher.exit_record("run-1") == Exit(code=0)

    await until(recorded)


async def test_it_lives_as_long_as_any_connection_while_it_has_no_job(
    launcher: LocalLauncher,
) -> None:
    await launcher.launch("run-1")
    second = await talk(launcher)
    await launcher._first.pop("run-1").close()
    assert await status(second) | {"worker": 0} == {
        "worker": 0,
        "assigned": False,
        "seq": (await status(second))["seq"],
        "stalled": False,
    }
    await second.close()

    async def recorded() -> bool:
        return launcher.exit_record("run-1") == Exit(signal=9)

    await until(recorded)


async def test_it_takes_one_job(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    line = await talk(launcher)
    request = {"op": "assign", "job": "ftjob-2", "attempt": 1, "locks": [], "line": "{}"}
    with pytest.raises(Refused, match="has a job already"):
        await line.ask(request, 10)
    assert (await status(line))["assigned"]
    await line.close()


async def test_shared_locks_are_shared(launcher: LocalLauncher, tmp_path: Path) -> None:
    device = tmp_path / "device.lock"

    async def assign(launch: str, *, shared: bool) -> None:
        await launcher.launch(launch)
        (directory_of(launcher, launch) / "in" / "spec.json").write_text('{"script":[["hang"]]}')
        command = wire.encode(wire.Assign(job=launch, attempt=1)).decode().strip()
        locks = [
            {"path": str(tmp_path / f"{launch}.lock"), "shared": False},
            {"path": str(device), "shared": shared},
        ]
        request = {"op": "assign", "job": launch, "attempt": 1, "locks": locks, "line": command}
        await launcher._first[launch].ask(request, 10)

    await assign("run-1", shared=True)
    await assign("run-2", shared=True)
    with pytest.raises(Refused, match=r"device\.lock is held by run-2"):
        await assign("run-3", shared=False)


@pytest.mark.parametrize(
    ("locks", "why"),
    [
        ([{"path": "/no/such/directory/x.lock", "shared": False}], "No such file or directory"),
        ([{"path": "nul\0.lock", "shared": False}], "null byte"),
    ],
)
async def test_a_lock_that_cannot_be_is_refused(
    launcher: LocalLauncher, locks: list[Any], why: str
) -> None:
    await launcher.launch("run-1")
    request = {"op": "assign", "job": "j", "attempt": 1, "locks": locks, "line": "{}"}
    with pytest.raises(Refused, match=why):
        await launcher._first["run-1"].ask(request, 10)
    assert not launcher.assigned("run-1")


NONSENSE = [
    b"\n",
    b"null\n",
    b"[1]\n",
    b"{}\n",
    b'{"op":"fly"}\n',
    b'{"op":"signal","name":"STOP"}\n',
    b'{"op":"send","line":7}\n',
    b'{"op":"send","line":"\\ud800"}\n',
    b'{"op":"assign","job":"j","attempt":1}\n',
    b'{"op":"assign","job":"j","attempt":1,"locks":[],"line":4}\n',
    b'{"op":"assign","job":"j","attempt":1,"locks":[5],"line":"{}"}\n',
    b'{"op":"assign","job":"j","attempt":1,"locks":[{"path":5,"shared":true}],"line":"{}"}\n',
    b"\xff\xfe\n",
    b"[" * 60_000 + b"\n",
    b"9" * 10_000 + b"\n",
    b"x" * 200_000,
]


async def test_nonsense_costs_the_connection_that_said_it(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    line = await talk(launcher)
    chance = random.Random(8)
    junk = [chance.randbytes(chance.randrange(1, 300)) + b"\n" for _ in range(30)]
    for nonsense in [*NONSENSE, *junk]:
        with dial(launcher) as connection:
            connection.sendall(nonsense)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):  # until it hangs up
                    pass
    assert (await status(line))["assigned"]
    assert await launcher.alive("ftjob-1")
    await line.close()


async def test_who_only_connects_cannot_crowd_it(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    crowd = [dial(launcher) for _ in range(main.PEERS + 5)]
    for connection in crowd:
        connection.close()

    async def room() -> bool:
        line = await launcher.connect("run-1")
        if line is None:
            return False
        try:
            return bool(await status(line))
        except Refused:
            return False
        finally:
            await line.close()

    await until(room)


STRANGER = """
import os, socket, sys
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.connect(f"/proc/self/fd/{sys.argv[1]}/control.sock")
print(connection.recv(100))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_another_user_is_not_heard(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    directory = directory_of(launcher)
    directory.chmod(0o711)
    (directory / "control.sock").chmod(0o777)
    descriptor = os.open(directory, os.O_PATH)
    try:
        stranger = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", STRANGER, str(descriptor),
            pass_fds=(descriptor,), stdout=subprocess.PIPE,
        )  # fmt: skip
        told, _ = await stranger.communicate()
    finally:
        os.close(descriptor)
    assert told == b"b''\n"


# It keeps what is said.


async def test_lines_that_are_no_facts_are_passed_on_as_they_are(launcher: LocalLauncher) -> None:
    longest = "x" * (wire.LINE_BYTES - 1)
    said_lines = ["not json", "", "[" * 4000, longest]
    script = [["say", line] for line in said_lines]
    await run(launcher, "run-1", job(*script, ["say", longest + "x"], ["say", "y" * 300_000]))
    assert await ended(launcher, "run-1") == Exit(code=0)
    told = [frame.line.decode() for frame in frames(launcher, "run-1")][2:]
    assert told[:4] == said_lines
    assert told[4] == '{"kind":"oversized","bytes":4097}'
    assert told[5] == '{"kind":"oversized","bytes":300001}'
    assert json.loads(told[6])["kind"] == "done"
    with pytest.raises(wire.WireError):
        wire.decode_fact(told[5].encode())


async def test_a_full_disk_makes_the_worker_wait_and_loses_no_fact(
    launcher: LocalLauncher,
) -> None:
    await launcher.launch("run-1")
    free = resource.prlimit(pid_of(launcher), resource.RLIMIT_FSIZE)
    resource.prlimit(pid_of(launcher), resource.RLIMIT_FSIZE, (3000, free[1]))
    await launcher.assign("run-1", job(["steps", 5000]))
    line = await talk(launcher)

    async def stalled() -> bool:
        return bool((await status(line))["stalled"])

    await until(stalled)
    assert line.stalled, "it is said unasked"
    size = (directory_of(launcher) / "spool").stat().st_size
    assert size == 3000
    part = launcher.read("run-1", 0, 10_000)
    assert part.torn, "the rest of the last frame is still to come"
    assert await launcher.alive("ftjob-1")
    resource.prlimit(pid_of(launcher), resource.RLIMIT_FSIZE, free)
    assert await ended(launcher, "run-1") == Exit(code=0)
    steps = [json.loads(f.line) for f in frames(launcher, "run-1") if b'"step",' in f.line]
    assert [fact["step"] for fact in steps] == list(range(1, 5001))
    await line.close()


def test_what_a_failed_sync_may_have_lost_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = writer.Spool()
    written.append(b'{"kind":"started"}', now=0.0)
    written.flush(now=0.0)
    written.append(b'{"kind":"done"}', now=1.0)
    with monkeypatch.context() as broken:

        def refuse(descriptor: int) -> None:
            os.ftruncate(descriptor, 40)
            raise OSError(errno.EIO, "Input/output error")

        broken.setattr(os, "fdatasync", refuse)
        with pytest.raises(OSError, match="Input/output"):
            written.flush(now=1.0)
    written.flush(now=1.0)
    found = spool.read(tmp_path / "spool", 0, 1000)
    assert [frame.line for frame in found.frames] == [b'{"kind":"started"}', b'{"kind":"done"}']
    assert not found.torn


def test_sampled_facts_wait_for_the_disk_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    synced = 0

    def sync(_: int) -> None:
        nonlocal synced
        synced += 1

    monkeypatch.setattr(os, "fdatasync", sync)
    written = writer.Spool()
    for step in range(10):
        written.append(b'{"kind":"step"}', now=step / 100)
        written.flush(now=step / 100)
    assert synced == 0
    assert len(spool.read(tmp_path / "spool", 0, 1000).frames) == 10, "they can be read already"
    assert written.due == writer.SYNC_S
    written.flush(now=writer.SYNC_S)
    assert synced == 1
    written.append(b'{"kind":"saved"}', now=2.0)
    written.flush(now=2.0)
    assert synced == 2
    written.append(b'{"kind":"step","note":"' + b"x" * writer.TAIL_BYTES + b'"}', now=3.0)
    written.flush(now=3.0)
    assert synced == 3, "a second may bring more than is kept in memory"


# Its last will.


async def test_the_exit_record_says_what_it_cost(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["steps", 2]))
    assert await ended(launcher, "run-1") == Exit(code=0)
    end = json.loads((directory_of(launcher) / "exit.json").read_text())
    assert end["version"] == main.VERSION
    assert end["seq"] == len(frames(launcher, "run-1"))
    assert 2**20 < end["peak_memory_bytes"] < 2**30
    assert not (directory_of(launcher) / "control.sock").exists()
    assert json.loads((directory_of(launcher) / "assigned.json").read_text()) == {
        "job": "ftjob-1",
        "attempt": 1,
        "version": main.VERSION,
    }


@pytest.mark.parametrize(
    "record",
    ["", "[1, 2", "[]", "7", "null", '"code"', "{}", '{"code": "0"}', '{"signal": null}',
     "[" * 100_000, "\x00", "9" * 5000],
)  # fmt: skip
def test_what_no_shim_has_written_is_no_exit_record(tmp_path: Path, record: str) -> None:
    run = tmp_path / "runs" / "run-1"
    run.mkdir(parents=True)
    (run / "exit.json").write_text(record)
    assert LocalLauncher(tmp_path).exit_record("run-1") is None


def test_a_full_disk_is_waited_for_and_a_broken_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RETRY_S", 0)
    faults = [errno.ENOSPC, errno.EDQUOT, errno.EIO]

    def write() -> None:
        fault = faults.pop(0)
        raise OSError(fault, os.strerror(fault))

    with pytest.raises(OSError, match="Input/output error"):
        record.insist(write)
    assert not faults


async def test_a_killed_worker_is_told_from_one_that_exits(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    await said(launcher, "run-1", "accepted")
    line = await talk(launcher)
    kill((await status(line))["worker"])
    assert await ended(launcher, "run-1") == Exit(signal=9)
    await line.close()


async def test_a_lost_run_directory_does_not_keep_the_locks(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    await run(launcher, "run-1", job(["hang"]))
    channel_ = await opened(launcher, "run-1")
    directory_of(launcher).rename(tmp_path / "moved")
    for name in ("spool", "exit.json.tmp", "worker.log", "assigned.json", "control.sock"):
        (tmp_path / "moved" / name).unlink(missing_ok=True)
    await channel_.signal("KILL")
    assert await ended(launcher, "run-1") is None
    await channel_.close()


def test_the_log_is_rotated_at_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log(1000)
    for number in range(30):
        log.write(f"{number:99}\n".encode())
    assert (tmp_path / "worker.log").read_text().split() == [str(n) for n in range(20, 30)]
    assert (tmp_path / "worker.log.1").read_text().split() == [str(n) for n in range(10, 20)]
    assert (tmp_path / "worker.log.0").read_text().split() == [str(n) for n in range(10)]
    names = ["worker.log", "worker.log.0", "worker.log.1"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == names


def test_a_log_that_cannot_be_rotated_drops_output_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log(100)
    log.write(b"a" * 90)
    with monkeypatch.context() as broken:

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        broken.setattr(os, "open", refuse)
        log.write(b"b" * 90)
    log.write(b"c" * 90)
    assert (tmp_path / "worker.log.0").read_bytes() == b"a" * 90
    assert (tmp_path / "worker.log").read_bytes() == b"c" * 90
