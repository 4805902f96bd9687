"""LocalLauncher, by what every launcher must do and by what its processes must survive."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ftd.core.device import Device
from ftd.core.job import Exit
from ftd.core.wire import Stop
from ftd.launch import local
from ftd.launch.base import BadInputs, Gone, Refused, Role
from ftd.launch.local import LocalLauncher
from tests.launch.conformance import (
    CPU,
    LauncherConformance,
    ended,
    frames,
    job,
    kinds,
    opened,
    run,
    said,
    serve,
    until,
)
from tests.launch.conftest import FAKEWORKER, PROGRAMS, SANDBOX, alive, end, kill, processes


def card(number: int) -> Device:
    return Device(id=f"GPU-{number}", kind="cuda", name="card", memory_bytes=2**30)


async def until_true(condition: Callable[[], bool]) -> None:
    async def asked() -> bool:
        return condition()

    await until(asked)


def worker_of(launcher: LocalLauncher, launch: str) -> int:
    """The pid that the worker itself has told."""
    return int(json.loads(frames(launcher, launch)[0].line)["pid"])


def shim_of(launcher: LocalLauncher, launch: str) -> int:
    return launcher._shims[launch].pid


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class TestLocalLauncher(LauncherConformance):
    """The common promises."""


# A daemon that launches and, if told to, assigns; it waits to be killed.
DAEMON = """
import asyncio, json, sys
from pathlib import Path
from ftd.launch.base import Role
from ftd.launch.local import LocalLauncher
from tests.launch.conformance import CPU, job, said, serve
from tests.launch.conftest import SANDBOX
home, role, script, *worker = sys.argv[1:]
async def main():
    launcher = LocalLauncher(Path(home), programs=dict.fromkeys(Role, worker), sandbox=SANDBOX)
    if Role(role) is Role.INFER and script:
        await serve(launcher, "run-1", *json.loads(script))
        await said(launcher, "run-1", "step")
    else:
        await launcher.launch("run-1", Role(role))
    if Role(role) is Role.TRAIN and script:
        await launcher.assign("run-1", job(*json.loads(script)))
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def kill_a_daemon(
    home: Path, *script: list[object], role: Role = Role.TRAIN
) -> list[psutil.Process]:
    """Have another process launch (and assign) run-1, and kill -9 it; answers what it leaves."""
    told = json.dumps(script) if script else ""
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(home), role, told, *FAKEWORKER], stdout=subprocess.PIPE
    )
    with daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        left = processes(home)
        daemon.kill()
    return left


async def test_a_killed_daemon_loses_nothing(tmp_path: Path, launcher: LocalLauncher) -> None:
    home = tmp_path / "home"
    left = kill_a_daemon(home, ["pause", 0.005], ["steps", 100_000])
    assert len(left) == 2, "a shim and a worker"
    before = kinds(launcher, "run-1").count("step")
    await said(launcher, "run-1", "step", before + 20)
    assert set(processes(home)) == set(left), "the very same processes"
    assert await launcher.alive("ftjob-1")
    with pytest.raises(Refused, match="is held by run-1"):
        await run(launcher, "run-2", job(["steps", 1]))

    channel = await opened(launcher, "run-1")
    await channel.command(Stop())
    assert await ended(launcher, "run-1") == Exit(code=0)
    await channel.close()
    told = [json.loads(frame.line) for frame in frames(launcher, "run-1")]
    assert [frame.seq for frame in frames(launcher, "run-1")] == list(range(1, len(told) + 1))
    steps = [fact["step"] for fact in told if fact["kind"] == "step"]
    assert steps == list(range(1, told[-1]["step"] + 1))


@pytest.mark.parametrize("role", Role)
async def test_an_unassigned_shim_ends_with_its_daemon(tmp_path: Path, role: Role) -> None:
    left = kill_a_daemon(tmp_path / "home", role=role)
    assert len(left) == 2
    await until_true(lambda: not processes(tmp_path / "home"))


async def test_a_server_ends_with_its_daemon(tmp_path: Path, launcher: LocalLauncher) -> None:
    home = tmp_path / "home"
    left = kill_a_daemon(home, ["deaf"], ["fork"], ["steps", 1], ["hang"], role=Role.INFER)
    assert len(left) == 3, "a shim, a worker, and what it has left"
    async with asyncio.timeout(1):
        await until_true(lambda: not processes(home))
    assert launcher.exit_record("run-1") == Exit(signal=9)
    assert not await launcher.alive("run-1")
    assert kinds(launcher, "run-1") == ["started", "accepted", "step"], "what it said is kept"


async def test_a_server_that_is_refused_is_ended(launcher: LocalLauncher, tmp_path: Path) -> None:
    await launcher.launch("run-1", Role.INFER)
    with pytest.raises(BadInputs):
        await launcher.assign("run-1", job(name="run-1", inputs={"model": tmp_path / "missing"}))
    await until_true(lambda: not launcher._shims)
    assert not processes(tmp_path / "home")


async def test_a_socket_that_leads_elsewhere_is_not_followed(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    await serve(launcher, "run-1", ["echo"])
    await said(launcher, "run-1", "ready")
    out = launcher.out("run-1")
    (out / "link.sock").symlink_to("serve.sock")
    (out / "file.sock").write_text("")
    for name in ("link.sock", "file.sock"):
        with pytest.raises(ConnectionRefusedError):
            await launcher.dial("run-1", name)


async def test_a_killed_shim_takes_its_worker_along(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    await run(launcher, "run-1", job(["hang"]))
    await said(launcher, "run-1", "accepted")
    worker = worker_of(launcher, "run-1")
    channel = await opened(launcher, "run-1")
    kill(shim_of(launcher, "run-1"))
    assert await ended(launcher, "run-1") is None
    assert not alive(worker)
    assert launcher.assigned("run-1")
    assert await launcher.connect("run-1") is None, "though its socket's name is still there"
    assert (tmp_path / "home" / "runs" / "run-1" / "control.sock").exists()
    while await channel.changed(1):
        pass
    await channel.close()


async def test_the_lock_is_held_while_any_descendant_lives(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["fork"], ["hang"]))
    grandchild = launcher.out("run-1") / "grandchild"
    await until_true(grandchild.exists)
    worker = worker_of(launcher, "run-1")
    kill(shim_of(launcher, "run-1"))
    await until_true(lambda: not alive(worker))
    assert await launcher.alive("ftjob-1")
    kill(int(grandchild.read_text()))
    assert await ended(launcher, "run-1") is None


@pytest.mark.parametrize("how", ["fork", "stray"])
async def test_what_a_worker_leaves_is_killed(launcher: LocalLauncher, how: str) -> None:
    grandchild = launcher.out("run-1") / "grandchild"
    await run(launcher, "run-1", job([how], ["pause", 0.01], ["steps", 100_000]))
    await until_true(grandchild.exists)
    left = int(grandchild.read_text())
    assert alive(left)
    channel = await opened(launcher, "run-1")
    await channel.command(Stop())
    assert await ended(launcher, "run-1") == Exit(code=0)
    assert not alive(left)
    await channel.close()


async def test_what_flees_from_its_name_is_killed_too(launcher: LocalLauncher) -> None:
    """Each process of the chain has ended before a look at all of them could name it."""
    await run(launcher, "run-1", job(["flee"], ["steps", 1]))
    assert await ended(launcher, "run-1") == Exit(code=0)


async def test_a_flood_of_output_neither_blocks_nor_fills_the_disk(
    launcher: LocalLauncher,
) -> None:
    await run(launcher, "run-1", job(["print", 4000], ["steps", 2], ["print", 10]))
    assert await ended(launcher, "run-1") == Exit(code=0)
    assert kinds(launcher, "run-1").count("step") == 2
    log = launcher.log("run-1")
    assert 10 * 1024 <= log.stat().st_size <= 2**16
    assert 0 < log.with_name("worker.log.1").stat().st_size <= 2**16


async def test_a_worker_that_ignores_sigterm_is_killed(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["deaf"], ["steps", 1], ["hang"]))
    await said(launcher, "run-1", "step")
    channel = await opened(launcher, "run-1")
    await channel.signal("TERM")
    await channel.signal("KILL")
    assert await ended(launcher, "run-1") == Exit(signal=9)
    await channel.close()


async def test_no_zombie_and_no_descriptor_is_left(launcher: LocalLauncher, tmp_path: Path) -> None:
    await run(launcher, "run-0", job(["steps", 1]))
    assert await ended(launcher, "run-0") == Exit(code=0)
    await until_true(lambda: not launcher._shims)
    before, children = descriptors(), psutil.Process().children()
    for number in range(1, 4):
        await run(launcher, f"run-{number}", job(["steps", 3]))
        channel = await opened(launcher, f"run-{number}")
        while await channel.changed(5):
            pass
        await channel.close()
        assert await ended(launcher, f"run-{number}") == Exit(code=0)
        await serve(launcher, f"server-{number}", ["echo"])
        await said(launcher, f"server-{number}", "ready")
        _, writer = await launcher.dial(f"server-{number}", "serve.sock")
        await launcher.hang_up(f"server-{number}")
        await ended(launcher, f"server-{number}", f"server-{number}")
        writer.close()
        with contextlib.suppress(ConnectionResetError):  # it was cut off in the middle
            await writer.wait_closed()
    with pytest.raises(BadInputs):
        await run(launcher, "run-4", job(inputs={"model": tmp_path / "missing"}))
    await until_true(lambda: not launcher._shims)
    assert psutil.Process().children() == children
    assert descriptors() == before


async def test_a_home_may_have_a_long_path(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30) / ("longer" * 30)
    launcher = LocalLauncher(home, programs=PROGRAMS, sandbox=SANDBOX)
    await run(launcher, "run-1", job(["hang"]))
    channel = await opened(launcher, "run-1")
    await channel.signal("KILL")
    assert await ended(launcher, "run-1") == Exit(signal=9)
    await channel.close()
    await until_true(lambda: not launcher._shims)


async def test_a_worker_sees_its_devices_and_nothing_of_the_daemon(
    launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTD_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    for launch, devices, visible in (
        ("run-1", (card(1), card(2)), ["GPU-1", "GPU-2"]),
        ("run-2", (CPU,), []),
    ):
        await run(launcher, launch, job(devices=devices))
        assert await ended(launcher, launch) == Exit(code=0)
        told = json.loads((launcher.out(launch) / "assign.json").read_text())
        assert told["gpus"] == visible
        seen = json.loads((launcher.out(launch) / "environment.json").read_text())
        assert seen["CUDA_VISIBLE_DEVICES"] == "", "it is told of them with its job"
        assert seen["HF_HUB_OFFLINE"] == "1"
        assert not {"FTD_API_KEY", "PYTHONPATH"} & set(seen)
        assert seen["HOME"] == seen["TMPDIR"] == str(launcher.out(launch) / "scratch")


async def test_two_homes_cannot_share_a_card(launcher: LocalLauncher, tmp_path: Path) -> None:
    other = LocalLauncher(
        tmp_path / "other", programs=PROGRAMS, gpu_locks=tmp_path / "gpus", sandbox=SANDBOX
    )
    await run(launcher, "run-1", job(["hang"], devices=(card(1),)))
    with pytest.raises(Refused, match=r"GPU-1\.lock is held by run-1"):
        await run(other, "run-2", job(["hang"], devices=(card(2), card(1))))
    await run(other, "run-3", job(["steps", 1], devices=(card(2),)))
    assert await ended(other, "run-3") == Exit(code=0)
    await other.close()
    end(tmp_path / "other")


async def test_a_start_waits_for_somebody_who_only_looks(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    locks = tmp_path / "home" / "locks"
    locks.mkdir(parents=True)
    await launcher.launch("run-1")
    with (locks / "ftjob-1.lock").open("w") as look:
        fcntl.flock(look, fcntl.LOCK_EX)
        assigning = asyncio.create_task(launcher.assign("run-1", job(["steps", 1])))
        await asyncio.sleep(0.2)  # long enough to be refused, were it at once
        assert not assigning.done()
        (locks / "ftjob-1.lock").unlink()  # as they do who find it free
    await assigning
    assert await ended(launcher, "run-1") == Exit(code=0)
    assert not (locks / "ftjob-1.lock").exists()


async def test_looks_at_a_lock_do_not_hinder_its_start(launcher: LocalLauncher) -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        while True:
            await launcher.alive("ftjob-1")
            looks += 1
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await run(launcher, "run-1", job(["hang"]))
    assert await launcher.alive("ftjob-1")
    looking.cancel()
    assert looks


async def test_a_worker_that_cannot_be_started_is_refused(tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path, programs={Role.TRAIN: ("/no/such/program",)})
    with pytest.raises(Refused, match="No such file or directory"):
        await launcher.launch("run-1")
    await until_true(lambda: not launcher._shims)


async def test_a_worker_that_ends_too_early_says_why(tmp_path: Path) -> None:
    program = ("/bin/sh", "-c", "echo no torch >&2; exit 3")
    launcher = LocalLauncher(tmp_path, programs={Role.TRAIN: program})
    # It may be gone before it is launched or before it is assigned; the reason is the same.
    with pytest.raises(Refused, match="no torch"):
        await run_late(launcher)
    assert await launcher.abandoned() == ("run-1",)
    assert launcher.exit_record("run-1") == Exit(code=3)


async def run_late(launcher: LocalLauncher) -> None:
    await launcher.launch("run-1")
    await until_true(lambda: not launcher._shims)
    await launcher.assign("run-1", job())


async def test_a_launch_has_a_directory_of_its_own(launcher: LocalLauncher) -> None:
    await launcher.launch("run-1")
    with pytest.raises(Refused, match="exists"):
        await launcher.launch("run-1")


async def test_a_cancelled_launch_leaves_no_process(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    launching = asyncio.create_task(launcher.launch("run-1"))
    await until_true(lambda: "run-1" in launcher._shims)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    await until_true(lambda: not launcher._shims and not processes(tmp_path / "home"))


async def test_a_frozen_shim_is_ended_before_it_is_given_up(
    launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local, "ASSIGN_S", 0.1)
    await launcher.launch("run-1")
    os.kill(shim_of(launcher, "run-1"), signal.SIGSTOP)
    with pytest.raises(Gone, match="did not answer"):
        await launcher.assign("run-1", job(["hang"]))
    assert not launcher._shims
    assert not await launcher.alive("ftjob-1")
    await until_true(lambda: not processes(tmp_path / "home"))


async def test_a_launch_is_taken_back_whatever_its_shim_does(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    await launcher.launch("run-1")
    os.kill(shim_of(launcher, "run-1"), signal.SIGSTOP)
    await launcher.undo("run-1")
    assert not launcher._shims
    assert not launcher.out("run-1").parent.exists()
    await until_true(lambda: not processes(tmp_path / "home"))


async def test_what_a_killed_daemon_leaves_is_found_and_removed(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    kill_a_daemon(home)
    await until_true(lambda: not processes(home))
    assert await launcher.abandoned() == ("run-1",)
    await launcher.undo("run-1")
    assert list((home / "runs").iterdir()) == []
    kill_a_daemon(home, ["hang"])
    assert await launcher.abandoned() == (), "it has a job"


async def test_inputs_go_when_they_are_discarded(launcher: LocalLauncher, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    await run(launcher, "run-1", job(["steps", 1], inputs={"data": tmp_path / "data"}))
    assert await ended(launcher, "run-1") == Exit(code=0)
    assert (tmp_path / "data").stat().st_nlink == 2
    await launcher.discard("run-1")
    assert (tmp_path / "data").stat().st_nlink == 1
    assert kinds(launcher, "run-1")[-1] == "done"
    assert [entry.name for entry in (tmp_path / "home/runs/run-1/in").iterdir()] == ["spec.json"]
    await launcher.discard("run-1")


async def test_a_closed_launcher_ends_what_has_no_job(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    await run(launcher, "run-1", job(["hang"]))
    await launcher.launch("run-2")
    await serve(launcher, "run-3", ["hang"])
    others = [shim_of(launcher, launch) for launch in ("run-2", "run-3")]
    await launcher.close()
    await until_true(lambda: not any(alive(pid) for pid in others))
    assert len(processes(tmp_path / "home")) == 2, "the job goes on"
